"""The trainer process: follows the bag that the recorder writes, refits, gates, publishes. It may be killed at any instant."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path

import torch

from mbrl_control import memory
from mbrl_control.data.episode_tail import LEAVING_S, EpisodeTail
from mbrl_control.errors import DataError
from mbrl_control.heartbeat import Heartbeat
from mbrl_control.priority import background
from mbrl_control.robot import RobotSpec
from mbrl_control.store import ModelStore
from mbrl_control.training.refit_lines import append_line
from mbrl_control.training.trainer import Trainer

POLL_S = 0.1
ALIGN_SHARE = 0.25
CATCH_UP_S = LEAVING_S - 5.0


def run(spec: RobotSpec, run_dir: Path, store_dir: Path, seed: int = 0) -> None:
    """Train until SIGTERM or SIGINT; beats (see `mbrl_control.heartbeat`) while the work goes on.

    Args:
        spec: the robot.
        run_dir: holds `bag/` (read) and `refits.jsonl` (written).
        store_dir: where snapshots go.
        seed: of the fits.

    Raises:
        SystemExit: with status `memory.EXHAUSTED`, when `trainer.memory_mb` was not enough.
    """
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):
            signal.signal(number, lambda n, _: stop.append(n))
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    background()
    memory.cap(spec.trainer.memory_mb)
    try:
        _follow(spec, run_dir, ModelStore(store_dir), seed, stop)
    except (MemoryError, RuntimeError) as error:
        if not memory.exhausted(error):
            raise
        print(f"trainer: it needs more memory than the {spec.trainer.memory_mb} MB of `trainer.memory_mb` in the robot's YAML: raise that, "
              f"or lower `trainer.window_s` ({spec.trainer.window_s:g} s)", file=sys.stderr, flush=True)
        sys.exit(memory.EXHAUSTED)


def _follow(spec: RobotSpec, run_dir: Path, store: ModelStore, seed: int, stop: list[int]) -> None:
    beat = Heartbeat()
    tail = EpisodeTail(run_dir / "bag", spec, progress=beat)
    trainer = Trainer(spec, store, seed, beat)
    # Before the first beat, for which there is time: what loads on first use takes long on a busy machine, without a beat meanwhile.
    trainer.warm_up()
    aligned, fresh = 0.0, False
    while not stop:
        beat()
        # Aligning all the data takes longer than reading what is new, so it is done a few times per refit, not at every look.
        # A trainer that is started again goes through all that was recorded, so that it remembers what the one before it did.
        fresh = bool(tail.poll(CATCH_UP_S)) or fresh
        if fresh and (tail.behind or time.monotonic() - aligned > ALIGN_SHARE * spec.trainer.refit_every_s):
            trainer.set_data(tail.episodes())
            aligned, fresh = time.monotonic(), False
        if tail.behind:
            continue
        if not trainer.due():
            time.sleep(POLL_S)
            continue
        try:
            refit = trainer.refit()
        except DataError as error:
            print(f"trainer: {error}", flush=True)
            time.sleep(POLL_S)
            continue
        append_line(run_dir, refit, time.time())
        del trainer.history[:-1]  # they are in the file; in the memory of a trainer that runs for days they would add up
