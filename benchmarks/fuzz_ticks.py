"""Ticks with garbage on every input: states, their times, plans, faults, the clock. Counts commands that no robot may ever get.

    python benchmarks/fuzz_ticks.py --ticks 1000000 --seed 0 --json fuzz.json    # all shipped robots, every safe action

Each robot is driven as shipped, and with a rate limit and each safe action in turn. Beside the controller the safety filter alone gets
garbage instead of wanted commands and states. The exit status is 0 only if nothing was wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mbrl_control import robot
from mbrl_control.planning.plan import Plan, PlanRequest, Verdict
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.controller import Controller
from mbrl_control.runtime.faults import FAULTS, Mode
from mbrl_control.runtime.safety import SafetyFilter
from mbrl_control.schema import SafeAction

ODD = (math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -5e-324, 1e-310, 0.0, -0.0, 1.0, -1.0, 3.4e38, 1e15)
JUMPS_S = (0.0, 1e-9, -1e-9, 0.3, 3.0, 3600.0, -0.3, -3600.0)
NO_FAULTS: frozenset[str] = frozenset()
PLAIN = tuple(code for code, fault in FAULTS.items() if fault.mode < Mode.LATCHED)
CASES = ("shipped", *get_args(SafeAction))


@dataclass
class Found:
    """What a robot was sent.

    Attributes:
        ticks: how many commands of the controller were looked at, and as many of the filter alone.
        non_finite: commands with a number that is none.
        outside: commands beyond the limits.
        too_fast: commands that changed by more than the rate limit allows in the time gone by, two ticks at most.
        raised: exceptions, by their sentence.
        modes: ticks in each mode.
    """

    robot: str
    case: str
    ticks: int = 0
    non_finite: int = 0
    outside: int = 0
    too_fast: int = 0
    raised: dict[str, int] = field(default_factory=dict)
    modes: dict[int, int] = field(default_factory=dict)

    @property
    def wrong(self) -> int:
        """How many faults in all."""
        return self.non_finite + self.outside + self.too_fast + sum(self.raised.values())

    def look(self, spec: RobotSpec, command: np.ndarray, last: np.ndarray, dt: float) -> None:
        """Judge a command [A] sent `dt` seconds after `last` [A]."""
        self.non_finite += not np.isfinite(command).all()
        self.outside += not ((command >= spec.action_low) & (command <= spec.action_high)).all()
        most = spec.action_max_rate * min(max(dt, 1e-12), 2 * spec.tick_s)
        self.too_fast += not (np.abs(command - last) <= most + 1e-9 * (spec.action_high - spec.action_low)).all()


class Garbage:
    """Draws inputs, most of them sound enough to get somewhere; answers requests as a planner's link would."""

    def __init__(self, spec: RobotSpec, seed: list[int]) -> None:
        self.spec, self.draw = spec, random.Random(repr(seed))
        self.rng = np.random.default_rng(seed)
        self.low = np.where(np.isfinite(spec.state_low), spec.state_low, -10.0)
        self.high = np.where(np.isfinite(spec.state_high), spec.state_high, 10.0)
        self.plan: Plan | None = None

    def numbers(self, low: np.ndarray, high: np.ndarray, odd: float) -> np.ndarray:
        """Numbers between two vectors, a share `odd` of the vectors with odd ones among them."""
        out = low + (high - low) * self.rng.random(len(low))
        while self.draw.random() < odd:
            out[self.draw.randrange(len(out))] = self.draw.choice(ODD)
        return out

    def send(self, request: PlanRequest) -> None:
        """See `mbrl_control.runtime.controller.Link`."""
        draw, spec = self.draw, self.spec
        if draw.random() < 0.2:
            return
        sound = draw.random() < 0.6
        shape = (spec.planner.horizon, spec.action_dim) if sound or draw.random() < 0.7 else (draw.randrange(4), draw.randrange(3))
        actions = 3 * self.rng.uniform(spec.action_low, spec.action_high, (spec.planner.horizon, spec.action_dim))
        actions = actions if shape == actions.shape else self.rng.standard_normal(shape)
        if not sound and actions.size and draw.random() < 0.5:
            actions.flat[draw.randrange(actions.size)] = draw.choice(ODD)
        start, dt, latency = request.apply_time + draw.gauss(0, spec.tick_s), spec.model_dt, draw.choice((0.001, 0.01, 0.3))
        if not sound and draw.random() < 0.5:
            start, dt, latency = (draw.choice((good, *ODD)) for good in (start, dt, latency))
        seq = request.seq if sound else draw.choice((request.seq, -1, 0, 2**62))
        cost, verdict, version = draw.choice(ODD), draw.choice(list(Verdict)), draw.choice((0, 1, -5))
        self.plan = Plan(seq, start, dt, actions, cost, verdict, version, 3, latency, "nominal", actions[None])

    def receive(self, now: float) -> Plan | None:
        """See `mbrl_control.runtime.controller.Link`."""
        if self.draw.random() < 0.3:
            return None
        plan, self.plan = self.plan, None
        return plan


def variant(name: str, case: str) -> RobotSpec:
    """A shipped robot, or that with a rate limit, little exploration and another safe action."""
    data = robot.load(name).model_dump()
    if case != "shipped":
        data["safe_action"] = case
        data["trainer"]["explore_s"] = 0.2
        for command in data["command"]:
            command["max_rate"] = 3.0 * (command["limits"][1] - command["limits"][0])
    return RobotSpec.model_validate(data)


def fuzz(name: str, case: str, ticks: int, seed: int) -> Found:
    """Drive one robot.

    Args:
        name: shipped robot.
        case: of CASES.
        ticks: how many.
        seed: of all garbage.
    """
    spec, found = variant(name, case), Found(name, case)
    number = [seed, sorted(robot.shipped()).index(name), CASES.index(case)]
    garbage = Garbage(spec, number)
    controller, safety, draw = Controller(spec, garbage, seed), SafetyFilter(spec), garbage.draw
    now, last, alone = 0.0, controller.last, spec.action_zero
    silent = 0
    for k in range(ticks):
        dt = spec.tick_s if draw.random() < 0.9 else draw.uniform(0, 3 * spec.tick_s)
        if draw.random() < 0.001:
            dt = draw.choice(JUMPS_S)
        if draw.random() < 0.002:
            silent = draw.choice((3, 30, 300))
        anew = draw.random() if k else 0.0
        if anew < 0.003:
            # Afterwards the controller does not know when it last sent a command; it takes a tick to have gone by.
            dt = spec.tick_s
            if anew < 0.001:
                controller.reset()
                silent = draw.choice((0, 3))
            else:
                controller.new_episode()
            last = controller.last
        now += dt
        state = garbage.numbers(garbage.low, garbage.high, 0.05)
        try:
            if silent:
                silent -= 1
            else:
                stamp = now - draw.random() * spec.tick_s if draw.random() < 0.995 else now + draw.choice((1e-3, 0.05, -0.5, *ODD))
                controller.on_state(stamp, state)
            controller.outside = NO_FAULTS if draw.random() < 0.9 else frozenset(draw.sample(PLAIN, draw.randrange(1, 4)))
            if draw.random() < 2e-4:
                controller.outside = frozenset(draw.sample(sorted(FAULTS), 3))
            if draw.random() < 0.005:
                controller.release()
            decision = controller.tick(now)
            found.look(spec, decision.command, last, dt)
            found.modes[int(decision.mode)] = found.modes.get(int(decision.mode), 0) + 1
            last = decision.command
            span = spec.action_high - spec.action_low
            wanted = garbage.numbers(spec.action_low - span, spec.action_high + span, 0.3)
            since = dt if draw.random() < 0.9 else draw.choice(ODD)
            sent = safety.apply(wanted, alone, state if draw.random() < 0.9 else None, min(since, 2 * spec.tick_s)).command
            found.look(spec, sent, alone, 0.0 if math.isnan(since) else since)
            alone = sent
        except Exception as error:
            sentence = f"{type(error).__name__}: {error}"
            found.raised[sentence] = found.raised.get(sentence, 0) + 1
    found.ticks = ticks
    return found


def main() -> None:
    """Run, print a line per robot, write the JSON; the exit status tells whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--ticks", type=int, default=1_000_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--robots", nargs="*", choices=sorted(robot.shipped()), default=sorted(robot.shipped()))
    args = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # 1e308 times two is inf, which is what is tried
    begin = time.perf_counter()
    results = []
    each = math.ceil(args.ticks / (len(args.robots) * len(CASES)))
    for name in args.robots:
        for case in CASES:
            found = fuzz(name, case, each, args.seed)
            results.append(found)
            print(f"{name:20} {case:8} {found.ticks:8} ticks: {found.non_finite} not finite, {found.outside} outside, {found.too_fast} "
                  f"too fast, {sum(found.raised.values())} raised; modes {dict(sorted(found.modes.items()))}", flush=True)
    wrong = sum(found.wrong for found in results)
    if args.json:
        report: dict[str, Any] = {"schema": 1, "command": "fuzz_ticks", "seed": args.seed, "ticks": sum(f.ticks for f in results),
                                  "wrong": wrong, "wall_s": time.perf_counter() - begin, "robots": [asdict(f) for f in results]}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
