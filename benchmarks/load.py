"""A trainer at full load on one core: refits without end on recorded data, for measurements beside it.

    python benchmarks/load.py --core 1      # until it is ended
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from refit import record

from mbrl_control import robot
from mbrl_control.priority import background, pin
from mbrl_control.store import ModelStore
from mbrl_control.training.trainer import Trainer

READY = "refitting"


@contextlib.contextmanager
def busy_trainer(core: int) -> Iterator[None]:
    """Refits in a process of its own, pinned to `core`, from the second refit on until the block ends."""
    process = subprocess.Popen([sys.executable, __file__, "--core", str(core)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if READY not in process.stdout.readline():
            raise SystemExit("the trainer did not start; run benchmarks/load.py to see why")
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Refit for ever."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--transitions", type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    background()
    pin([args.core])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(robot.load("pendulum"), ModelStore(Path(folder)), 0)
        trainer.set_data([record("pendulum", args.transitions, 0)])
        trainer.refit()
        print(READY, flush=True)
        while True:
            trainer.refit()


if __name__ == "__main__":
    main()
