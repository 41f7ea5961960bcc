"""What a bad policy's rows do to plans: the same request and the same last plan, with them and without.

    python benchmarks/bad_proposals.py --policies policies --robots cartpole acrobot runner --seeds 20 --json F

Returns of swing-ups differ so much by the seed that a loss of 2 % cannot be told from chance in hundreds of episodes. So each plan of an
episode without a policy is made once more with the rows of a random and of an adversarial one, which are asked in every plan here, and
the costs of both plans, by the planner's model, which is the simulated robot's own, are compared. `--policies` as for proposals.py.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proposals import HISTORY, parser_of, planned, spoilt

from mbrl_control.planning.plan import PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.stack import report
from mbrl_control.store import ModelStore
from mbrl_sim.plant import MujocoPlant

BAD = ("random", "adversarial")
SAME = 1e-9
"""Relative differences of costs below it are none."""


@dataclass(frozen=True)
class Pair:
    """A plan without a policy and one with its rows.

    Attributes:
        without, with_rows: their costs.
        won: a row of the policy is what is played.
    """

    robot: str
    policy: str
    seed: int
    without: float
    with_rows: float
    won: bool


def core_of(spec: RobotSpec, seed: int) -> PlannerCore:
    """The planner of a robot whose model is known."""
    with tempfile.TemporaryDirectory() as store:
        return PlannerCore(spec, ModelStore(Path(store)), seed)


def episode(name: str, policies: dict[str, Path], seed: int, seconds: float) -> list[Pair]:
    """The plans of an episode that is driven without a policy, each made again with the rows of every bad one."""
    spec = planned(name, 32, None, False)
    core, others = core_of(spec, seed), {bad: core_of(planned(name, 32, policies[bad], False), seed) for bad in BAD}
    plant, out = MujocoPlant(spec), list[Pair]()
    state = plant.reset(np.random.default_rng([seed, 7]))
    every = round(spec.model_dt * spec.rate_hz)
    sent_time, sent = np.zeros(0), np.zeros((0, spec.action_dim))
    for k in range(round(seconds * spec.rate_hz)):
        now = k * spec.tick_s
        if k % every == 0:
            request, before = PlanRequest(k // every, state, now, now, sent_time, sent), core.previous
            plan, _ = core.plan(request)
            asked = dataclasses.replace(before, idle=()) if before is not None else None
            for bad, other in others.items():
                again = other.planner.plan(request, asked)
                out.append(Pair(name, bad, seed, plan.cost, again.cost, again.winner == "learned"))
        command = plan.at(now)
        assert command is not None
        state = plant.step(command, spec.tick_s)
        sent_time, sent = np.append(sent_time, now)[-HISTORY:], np.vstack([sent, command])[-HISTORY:]
    return out


def summary(pairs: list[Pair]) -> list[dict[str, Any]]:
    """One row per robot and policy. The error of the mean is by seeds: plans of an episode depend on each other."""
    rows = []
    for name, bad in dict.fromkeys((p.robot, p.policy) for p in pairs):
        mine = [p for p in pairs if (p.robot, p.policy) == (name, bad)]
        more = np.array([p.with_rows / p.without - 1 for p in mine])
        seeds = np.array([p.seed for p in mine])
        by_seed = np.array([more[seeds == seed].mean() for seed in np.unique(seeds)])
        error = float(100 * by_seed.std(ddof=1) / np.sqrt(len(by_seed))) if len(by_seed) > 1 else None
        rows.append({"robot": name, "policy": bad, "seeds": len(by_seed), "plans": len(mine), "more_percent": float(100 * by_seed.mean()),
                     "error_percent": error, "worse": float((more > SAME).mean()), "better": float((more < -SAME).mean()),
                     "won": float(np.mean([p.won for p in mine]))})
    return rows


def main() -> None:
    """Run, print the table, write the JSON."""
    args = parser_of(__doc__, 20).parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    begin, pairs = time.perf_counter(), list[Pair]()
    for name in args.robots:
        with tempfile.TemporaryDirectory() as folder:
            policies = spoilt(name, args.policies / name, Path(folder))
            for seed in range(args.seeds):
                pairs += episode(name, policies, seed, args.seconds)
                print(f"{name} seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    table = summary(pairs)
    for row in table:
        print(f"{row['robot']:10} {row['policy']:12} {row['plans']:>6} plans  cost {row['more_percent']:+.4f} % "
              f"(standard error {row['error_percent'] or 0:.4f})  worse {row['worse']:.1%}  better {row['better']:.1%}  "
              f"won {row['won']:.1%}")
    if args.json:
        report.save({"schema": 1, "command": "bad_proposals", "seconds": args.seconds, "wall_s": time.perf_counter() - begin,
                     "machine": report.machine(), "table": table, "pairs": [asdict(p) for p in pairs]}, args.json)


if __name__ == "__main__":
    main()
