"""The tick of `mbrl bench cadence`: the controller node's loop in real time against a simulated plant, without ROS and without torch."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl_control import robot
from mbrl_control.planning.plan import Plan, PlanRequest, Verdict
from mbrl_control.priority import cores_for, freeze_garbage, pin, real_time
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import second_core
from mbrl_control.runtime.cadence import Cadence
from mbrl_control.runtime.controller import Controller, Link
from mbrl_control.runtime.faults import Mode
from mbrl_control.runtime.layout import WINNERS
from mbrl_control.runtime.mailbox import Mailbox
from mbrl_control.runtime.process_link import ProcessLink
from mbrl_control.stack import bench_plant
from mbrl_control.stack.bench_plant import BenchPlant

PROGRESS = ("ticks", "missed", "worst_us", "plans", "version", "reused")
LOOK_S = 1.0
FIRST_PLAN_S = 60.0
PRIORITY = 40
MOST_MISSES = 1000


class PlanNote(NamedTuple):
    """What is kept of a plan.

    Attributes:
        time: s, at which the tick took it.
        verdict: how it came about.
        latency_s: seconds that it took.
        version: of its model.
        winner: source of what it plays.
    """

    time: float
    verdict: Verdict
    latency_s: float
    version: int
    winner: str


class NotingLink:
    """A link that keeps a note of each plan that passes, but for answers to what was asked before the first tick.

    Args:
        link: to the planner.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        # Plain numbers: hundreds of thousands of objects would make the garbage collection of every second take milliseconds.
        self._numbers = array("d")

    @property
    def count(self) -> int:
        """Plans so far."""
        return len(self._numbers) // len(PlanNote._fields)

    @property
    def version(self) -> int:
        """Of the newest plan's model; 0 before."""
        return int(self._numbers[-2]) if self._numbers else 0

    def notes(self) -> list[PlanNote]:
        """One for each plan, in order."""
        rows = np.array(self._numbers).reshape(-1, len(PlanNote._fields)).tolist()
        return [PlanNote(at, Verdict(int(verdict)), latency, int(version), WINNERS[int(winner)])
                for at, verdict, latency, version, winner in rows]

    def send(self, request: PlanRequest) -> None:
        """See `Link.send`."""
        self._link.send(request)

    def receive(self, now: float) -> Plan | None:
        """See `Link.receive`."""
        plan = self._link.receive(now)
        if plan is not None and plan.seq >= 0:
            self._numbers.extend((now, plan.verdict, plan.latency_s, plan.model_version, WINNERS.index(plan.winner)))
        return plan


class Ticks:
    """The loop, and what it came to.

    Args:
        spec: the robot.
        plant: that it drives.
        link: to the planner.
        seed: of excitation and start.
    """

    def __init__(self, spec: RobotSpec, plant: BenchPlant, link: Link, seed: int) -> None:
        self.spec, self.plant, self.link = spec, plant, NotingLink(link)
        self.core = Controller(spec, self.link, seed)
        self.cadence = Cadence(spec.tick_s)
        self.misses: list[tuple[float, int]] = []
        self.modes: Counter[Mode] = Counter()
        self.began = 0.0
        self._work_s = array("d")
        self.worst_s = 0.0
        self.moved = 0
        plant.reset(np.random.default_rng([seed, 0x9147]))

    def begin(self) -> None:
        """Deadlines count from now."""
        self.cadence = Cadence(self.spec.tick_s)
        self.began = self.cadence.next

    def tick(self) -> None:
        """Wait for the next deadline, then decide and drive the plant for a period."""
        missed = self.cadence.missed
        deadline = self.cadence.wait()
        woken = time.monotonic()
        if self.cadence.missed > missed:
            self.misses.append((deadline, self.cadence.missed - missed))
        now = self.cadence.next - self.cadence.period  # as in the controller node: the newest deadline gone by
        self.core.on_state(now, self.plant.state())
        decision = self.core.tick(now)
        self.modes[decision.mode] += 1
        self.worst_s = max(self.worst_s, woken - deadline)
        self._work_s.append(time.monotonic() - woken)
        self.plant.step(decision.command, self.spec.tick_s)

    def progress(self) -> np.ndarray:
        """Numbers in the order of PROGRESS; the greatest lateness is that since the last call."""
        worst, self.worst_s = self.worst_s, 0.0
        return np.array([self.cadence.ticks, self.cadence.missed, 1e6 * worst, self.link.count, self.link.version, self.core.reused],
                        dtype=float)

    def result(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        cadence, work = self.cadence, 1e6 * np.array(self._work_s or [0.0])
        return {
            "cadence": {"rate_hz": self.spec.rate_hz, "ticks": cadence.ticks, "missed": cadence.missed,
                        "missed_at_s": [(at - self.began, count) for at, count in self.misses[:MOST_MISSES]],
                        "missed_at": cadence.missed_at, "moved": self.moved,
                        "lateness_us": cadence.lateness_us(),
                        "work_us": {"p50": float(np.median(work)), "p99": float(np.percentile(work, 99)), "max": float(work.max())}},
            "misses": self.misses, "plans": [list(note) for note in self.link.notes()], "reused": self.core.reused,
            "modes": {mode.name: count for mode, count in sorted(self.modes.items())},
        }


def await_planner(link: ProcessLink, spec: RobotSpec, stop: list[int]) -> None:
    """Wait until the planner has started, taken its model and answered: what that takes is no part of the measurement."""
    end = time.monotonic() + FIRST_PLAN_S
    state, still = np.zeros(spec.state_dim), np.zeros((1, spec.action_dim)) + spec.action_zero
    while not stop and link.receive(0.0) is None and time.monotonic() < end:
        now = time.monotonic()
        link.send(PlanRequest(-1, state, now, now + spec.tick_s, np.array([now]), still))
        time.sleep(0.05)


def run(ticks: Ticks, link: ProcessLink, box: Mailbox, count: int, stop: list[int], others: list[int]) -> None:
    """Tick until `count` periods are over, a signal came, or the process that started this one is gone; see `SecondCore` for `others`."""
    owner, look_at = os.getppid(), time.monotonic()
    ticks.begin()
    second = second_core.beside(ticks.cadence, others, PRIORITY + 1)
    while not stop and ticks.cadence.ticks + ticks.cadence.missed < count:
        ticks.tick()
        if time.monotonic() >= look_at:
            look_at += LOOK_S
            link.check()
            box.write(ticks.progress())
            gc.collect()
            if os.getppid() != owner:
                break
    box.write(ticks.progress())
    if second is not None:
        ticks.moved = second.moved
        second.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--box", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--pin", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run for the given time, or to SIGINT or SIGTERM; leaves `ticks.json` in the folder."""
    args, stop = _arguments(), list[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stop.append(n))
    spec = robot.load(args.robot)
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    link = ProcessLink(args.robot, spec, args.store, args.seed, args.folder / "planner.log", iterations_fixed=False,
                       cores=None if args.pin else every)
    try:
        link.start()
        ticks = Ticks(spec, bench_plant.make(spec, args.base), link, args.seed)
        await_planner(link, spec, stop)
        freeze_garbage()
        own = cores_for("tick") if args.pin else every
        refused = [pin(own), *real_time(PRIORITY)]
        run(ticks, link, Mailbox(args.box, len(PROGRESS)), round(args.seconds * spec.rate_hz), stop, [c for c in every if c not in own])
    finally:
        link.stop()
    result = {**ticks.result(), "planner_restarts": link.restarts, "refused": [r for r in refused if r]}
    partial = args.folder / "ticks.json.partial"
    partial.write_text(json.dumps(result) + "\n", "utf-8")
    partial.replace(args.folder / "ticks.json")


if __name__ == "__main__":
    main()
