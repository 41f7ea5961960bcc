"""How long a warm refit takes on one core, as the trainer does it: data, fit, gate and snapshot.

    python benchmarks/refit.py --transitions 10000 --json refit.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mbrl_control import robot
from mbrl_control.data.episodes import Episode
from mbrl_control.runtime.excitation import excitation
from mbrl_control.stack import report
from mbrl_control.stack.plants import make
from mbrl_control.store import ModelStore
from mbrl_control.training.trainer import Trainer


def record(name: str, transitions: int, seed: int) -> Episode:
    """Excitation of a simulated robot: one more sample than transitions, and a model step's worth more."""
    spec = robot.load(name)
    rng = np.random.default_rng(seed)
    plant, count = make("mujoco", spec), transitions + round(spec.model_dt * spec.rate_hz)
    commands = excitation(spec, count, rng)
    plant.reset(rng)
    states = []
    for command in commands:
        states.append(plant.state())
        plant.step(command, spec.tick_s)
    return Episode(np.arange(count) * spec.tick_s, np.array(states), commands)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="pendulum")
    parser.add_argument("--transitions", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec = robot.load(args.robot)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(spec, ModelStore(Path(folder)), args.seed)
        trainer.set_data([record(args.robot, args.transitions, args.seed)])
        first = trainer.refit()
        seconds = []
        for _ in range(args.repeats):
            begin = time.perf_counter()
            refit = trainer.refit()
            seconds.append(time.perf_counter() - begin)
    out = {"schema": 1, "robot": args.robot, "recorded_transitions": args.transitions, "fitted_transitions": refit.transitions,
           "updates": spec.trainer.updates, "first_s": first.seconds, "warm_s": report.quantiles(seconds), "repeats": args.repeats,
           "machine": report.machine()}
    print(out)
    if args.json:
        report.save(out, args.json)


if __name__ == "__main__":
    main()
