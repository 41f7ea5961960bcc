"""Times plans as the planner worker makes them: one thread, the planner's core, a network of the right sizes, warmed up."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mbrl_control import robot
from mbrl_control.errors import DataError, UserError
from mbrl_control.models.base import precision
from mbrl_control.models.warm_up import fit_to_noise
from mbrl_control.planning.limits import Limits
from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.priority import cores_for, pin
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.fit_check import ERROR, Fit, assess, to_json
from mbrl_control.runtime.layout import HISTORY_S
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.store import ModelStore

WARM_UP, REPEATS = 3, 7
LIMIT_S = 0.4


def request(spec: RobotSpec, seq: int) -> PlanRequest:
    """A request as the controller makes it in full flight, one plan period after the one before it."""
    state_time = HISTORY_S + seq / spec.plan_hz
    apply_time = state_time + 1 / spec.plan_hz
    reach = float(spec.delays.max()) + HISTORY_S
    times = apply_time - spec.tick_s * np.arange(max(4, math.ceil(reach * spec.rate_hz)), 0, -1)
    sent = np.broadcast_to(spec.action_zero, (len(times), spec.action_dim)).copy()
    return PlanRequest(seq, np.zeros(spec.state_dim), state_time, apply_time, times, sent, experience_s=60.0)


class Bed:
    """A robot's planner with a model that has learned nothing but is of the right sizes.

    Args:
        spec: the robot.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self.spec, self._seq = spec, 0
        with tempfile.TemporaryDirectory() as folder:
            self.core = PlannerCore(spec, ModelStore(Path(folder)), 0)
        self.core.limits = Limits.none(spec)  # a model in use has limits, and looking whether they are kept takes time
        model = self.core.model
        if not model.version:  # known models are ready as they are
            try:
                self.plan(1)
            except DataError:
                fit_to_noise(model, spec)
                model.prepare(precision(spec))
        self.core.behaviours.untrained()

    def plan(self, iterations: int) -> Plan:
        """The next plan, from the one before."""
        self._seq += 1
        return self.core.plan(request(self.spec, self._seq), iterations=iterations)[0]


class PlanTimer:
    """`mbrl_control.runtime.fit_check.Measure`: keeps the planner that it built last."""

    def __init__(self) -> None:
        self._bed: Bed | None = None

    def __call__(self, spec: RobotSpec, iterations: int) -> float:
        """Median seconds of a plan of so many iterations."""
        if self._bed is None or _shaping(self._bed.spec) != _shaping(spec):
            self._bed = Bed(spec)
        return statistics.median(latencies(self._bed, iterations))


def _shaping(spec: RobotSpec) -> tuple[object, ...]:
    """What of a robot decides how long its plans take, of all that `assess` changes."""
    return spec.planner, spec.model, spec.policies


def latencies(bed: Bed, iterations: int) -> list[float]:
    """Seconds of each of a handful of plans, fewer when they are long; the first ones, which may compile, are not among them."""
    begin, out = time.perf_counter(), list[float]()
    while len(out) < WARM_UP + REPEATS and (len(out) < 2 or time.perf_counter() - begin < LIMIT_S):
        out.append(bed.plan(iterations).latency_s)
    return out[min(WARM_UP, len(out) - 1):]


def by_iterations(spec: RobotSpec, rows: int = 20) -> list[tuple[int, list[float]]]:
    """(iterations, seconds of each of a handful of plans) from 1 to all iterations, about `rows` of them; in the planner's conditions."""
    whole = spec.planner.iterations
    counts = sorted({*range(1, whole + 1, -(-whole // rows)), whole})
    with conditions(cores_for("planner")):
        bed = Bed(spec)
        return [(count, latencies(bed, count)) for count in counts]


@contextlib.contextmanager
def conditions(cores: list[int]) -> Iterator[None]:
    """The planner's conditions, in this process, and back again: one thread, its cores, no denormal numbers."""
    threads = torch.get_num_threads()
    before = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pin(cores)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        if before:
            pin(before)


def check(spec: RobotSpec) -> Fit:
    """Measure a robot's planner here and now, in the planner's conditions.

    Raises:
        UserError: the planner cannot be built.
    """
    with conditions(cores_for("planner")):
        return assess(spec, PlanTimer())


def main() -> None:
    """Print the fit of a robot's planner as one line of JSON; what a user can mend is told in a sentence, with exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", required=True)
    parser.add_argument("--cores", type=int, nargs="+", required=True)
    args = parser.parse_args()
    try:
        with conditions(args.cores):
            print(to_json(assess(robot.load(args.robot), PlanTimer())), flush=True)
    except UserError as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
