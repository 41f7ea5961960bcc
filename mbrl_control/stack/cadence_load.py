"""The trainer of `mbrl bench cadence`: a process that refits without a pause on recorded data, and publishes what passes its gate."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from mbrl_control import robot
from mbrl_control.data.episodes import Episode
from mbrl_control.priority import background
from mbrl_control.store import ModelStore
from mbrl_control.training.refit_lines import append_line
from mbrl_control.training.trainer import Trainer

KEEP = 5


def save_episodes(episodes: list[Episode], path: Path) -> None:
    """Write episodes for `load_episodes`."""
    arrays = {f"{name}_{i}": getattr(e, name) for i, e in enumerate(episodes) for name in ("time", "state", "action")}
    np.savez(path, count=len(episodes), **arrays)


def load_episodes(path: Path) -> list[Episode]:
    """What `save_episodes` wrote."""
    with np.load(path, allow_pickle=False) as data:
        return [Episode(data[f"time_{i}"], data[f"state_{i}"], data[f"action_{i}"]) for i in range(int(data["count"]))]


def main() -> None:
    """Refit until SIGTERM or SIGINT, or until the process that started this one is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--pin", action="store_true")
    args = parser.parse_args()
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stop.append(n))
    owner = os.getppid()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.pin:
        background()
    else:
        os.nice(19)
    trainer = Trainer(robot.load(args.robot), ModelStore(args.store, keep=KEEP), args.seed)
    trainer.set_data(load_episodes(args.data))
    while not stop and os.getppid() == owner:
        refit = trainer.refit()
        append_line(args.folder, refit, time.time())


if __name__ == "__main__":
    main()
