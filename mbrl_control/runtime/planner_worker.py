"""The planner worker: waits for a request, plans with the newest model, answers. Its process may be killed at any instant."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mbrl_control import robot
from mbrl_control.priority import freeze_garbage, pin
from mbrl_control.runtime.fit_check import BUDGET_SHARE
from mbrl_control.runtime.layout import ANSWERS, Layout
from mbrl_control.runtime.mailbox import Mailbox
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.runtime.planner_events import Event
from mbrl_control.store import ModelStore


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
    requests, plans = Mailbox(args.requests, layout.request_size), Mailbox(args.plans, layout.answer_size, slots=ANSWERS)
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
