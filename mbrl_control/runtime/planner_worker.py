"""The planner worker: waits for a request, plans with the newest model, answers. Its process may be killed at any instant."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mbrl_control import parts, robot
from mbrl_control.costs import base as costs
from mbrl_control.errors import SnapshotError
from mbrl_control.models.base import LearnedModel
from mbrl_control.planning import base as planning
from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.priority import freeze_garbage, pin
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.fit_check import BUDGET_SHARE
from mbrl_control.runtime.layout import CARRY_ROWS, Layout
from mbrl_control.runtime.mailbox import Mailbox
from mbrl_control.runtime.planner_events import Event
from mbrl_control.store import ModelStore


class PlannerCore:
    """Model, cost and planner of a robot, and the swap to newer snapshots; the same in a worker and in lockstep.

    Args:
        spec: the robot.
        store: where snapshots are looked for.
        seed: of the planner's noise.
    """

    def __init__(self, spec: RobotSpec, store: ModelStore, seed: int) -> None:
        self.spec, self.store = spec, store
        options = parts.options("models", spec.model.kind, dict(spec.model.options))
        self.model: LearnedModel = parts.find("models", spec.model.kind).build(spec, options)
        self.dtype = torch.bfloat16 if spec.planner.dtype == "bfloat16" else torch.float32
        self.planner = planning.build(spec, self.model, costs.build(spec), seed)
        self.previous: Plan | None = None

    def swap(self) -> bool:
        """Take the newest snapshot if it is newer than the model in use; a bad one is refused and kept aside. True if swapped."""
        newest = self.store.newest()
        if newest <= self.model.version:
            return False
        try:
            self.load(newest)
        except SnapshotError as error:
            self.store.refuse(newest, str(error))
            return False
        return True

    def load(self, version: int) -> None:
        """Use a version from the store, in the precision that the robot's YAML asks for.

        Raises:
            SnapshotError: it is not there, damaged, or of another robot.
        """
        self.model.load(self.store.read(version, self.spec.hash))
        self.model.prepare(self.dtype)

    def warm_up(self, rounds: int = 3) -> float:
        """Capture, plan for an arbitrary state, without effect on later plans, and give the longest time taken, s."""
        self.planner.capture(CARRY_ROWS)
        request = PlanRequest(0, np.zeros(self.spec.state_dim), 0.0, self.spec.tick_s, np.zeros(0), np.zeros((0, self.spec.action_dim)))
        return max(self.planner.plan(request).latency_s for _ in range(rounds))

    def plan(self, request: PlanRequest, budget_s: float | None = None, iterations: int | None = None) -> tuple[Plan, int]:
        """A plan and the number of the plan that it started from; the arguments are those of the planner."""
        before = self.previous.seq if self.previous is not None else -1
        plan = self.planner.plan(request, self.previous, budget_s, iterations)
        # What is not logged must not count, or a logged plan could not be made again.
        self.previous = replace(plan, carry=plan.carry[:CARRY_ROWS])
        return self.previous, before


def arguments() -> argparse.Namespace:
    """The command line of a worker and its keeper."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--plans", type=Path, required=True)
    for pipe in ("--wake", "--orders", "--events"):
        parser.add_argument(pipe, type=int, required=True)
    parser.add_argument("--cores", type=int, nargs="+", required=True)
    parser.add_argument("--anytime", action="store_true")
    return parser.parse_args()


def _next_request(wake: int, box: Mailbox, timeout_s: float) -> np.ndarray | None:
    """The newest request, or None after the time-out; ends the process when the controller is gone."""
    if not select.select([wake], [], [], timeout_s)[0]:
        return None
    if not os.read(wake, 4096):
        sys.exit(0)
    return box.read()


def work(args: argparse.Namespace, tell: Callable[[Event], None]) -> None:
    """Plan until the controller closes its end of the pipe.

    Args:
        args: of the command line.
        tell: called once each with RUNNING, PREPARING and READY.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pin(args.cores)
    spec = robot.load(args.robot)
    layout = Layout.of(spec)
    requests, plans = Mailbox(args.requests, layout.request_size), Mailbox(args.plans, layout.answer_size)
    core = PlannerCore(spec, ModelStore(args.store), args.seed)
    budget = BUDGET_SHARE / spec.plan_hz if args.anytime else None
    frozen = False
    tell(Event.RUNNING)
    while True:
        core.swap()
        if core.model.version and not frozen:
            tell(Event.PREPARING)
            print(f"planner: first model, {1e3 * core.warm_up():.1f} ms a plan", flush=True)
            freeze_garbage()
            frozen = True
            tell(Event.READY)
        vector = _next_request(args.wake, requests, 0.1)
        if vector is None or not core.model.version:
            continue
        begin = time.perf_counter()
        plan, before = core.plan(layout.unpack_request(vector), budget)
        answer = layout.pack_plan(plan, before)
        answer[7] = time.perf_counter() - begin
        plans.write(np.concatenate([answer, vector]))
