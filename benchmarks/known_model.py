"""Every planner on a model without error, closed loop with the simulated plant: what is left is the planner's own doing.

    python benchmarks/known_model.py --json known_model.json            # all planners, 5 seeds
    python benchmarks/known_model.py --quick --json known_model.json    # 1 seed, two planners
    python benchmarks/known_model.py --model mujoco --seeds 1           # MuJoCo instead of the same equations in CasADi (slower)

Time stands still while a plan is made. The cost is the robot's own stage cost, averaged over the ticks of the episode.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrl_control import parts, robot
from mbrl_control.costs import base as costs
from mbrl_control.planning import base as planning
from mbrl_control.planning.plan import Plan, PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_sim.plant import MujocoPlant

ROBOTS = ("cartpole", "pendulum")
HISTORY = 50
CASES: dict[str, dict[str, Any]] = {
    "random_shooting": {"kind": "random_shooting", "candidates": 512, "iterations": 1, "knots": 6},
    "predictive_sampling": {"kind": "predictive_sampling", "candidates": 256, "iterations": 1, "knots": 8},
    "cem_260": {"kind": "cem", "candidates": 65, "iterations": 4, "options": {"execute": "best"}},
    "icem_97": {"kind": "icem", "candidates": 40, "iterations": 3, "options": {"execute": "best", "keep": 0.6, "beta": 1.0}},
    "mppi": {"kind": "mppi", "candidates": 128, "iterations": 2, "options": {"execute": "best"}},
    "gradient": {"kind": "gradient", "candidates": 6, "iterations": 2, "knots": 8, "options": {"gradients": "differences"}},
}


@dataclass(frozen=True)
class Result:
    """One episode.

    Attributes:
        cost: mean stage cost over the ticks.
        solved_s: when the success condition began to hold for as long as asked; None when it never did.
        rollouts: candidate rollouts per decision, all kinds counted.
        plan_ms: median time of a plan.
    """

    robot: str
    planner: str
    seed: int
    cost: float
    solved_s: float | None
    rollouts: float
    plan_ms: float


def with_planner(name: str, planner: dict[str, Any]) -> RobotSpec:
    """A shipped robot with other planner settings, and with what the planner finds by itself only."""
    data = robot.load(name).model_dump()
    data["planner"] |= {"options": {}, "newton_rows": 0} | planner
    return RobotSpec.model_validate(data)


def known_model(spec: RobotSpec, kind: str) -> Any:
    """The robot's true dynamics: its own MJCF, or the same equations in CasADi."""
    given = {"system": spec.name, "substeps": 2} if kind == "casadi" else {}
    return parts.find("models", kind).build(spec, parts.options("models", kind, given))


def holds(spec: RobotSpec, state: np.ndarray) -> bool:
    """Whether a state [S] meets the robot's success conditions."""
    assert spec.success is not None
    for condition in spec.success.conditions:
        i = spec.state_names.index(condition.signal)
        error = state[i] - condition.target
        if abs(robot.wrap_angle(error) if spec.wraps[i] else error) >= condition.within:
            return False
    return True


def episode(name: str, case: str, planner: dict[str, Any], seed: int, seconds: float = 10.0, model: str = "casadi") -> Result:
    """Swing up from rest."""
    spec = with_planner(name, planner)
    assert spec.success is not None
    cost = costs.build(spec)
    optimiser = planning.build(spec, known_model(spec, model), cost, seed)
    plant = MujocoPlant(spec)
    state = plant.reset(np.random.default_rng([seed, 7]))
    every = round(spec.rate_hz / spec.plan_hz)
    plan: Plan | None = None
    sent_time, sent = np.zeros(0), np.zeros((0, spec.action_dim))
    latency, rollouts, total, since, solved = [], [], 0.0, None, None
    ticks = round(seconds * spec.rate_hz)
    for k in range(ticks):
        now = k * spec.tick_s
        if k % every == 0:
            plan = optimiser.plan(PlanRequest(k // every, state, now, now, sent_time, sent), plan)
            latency.append(plan.latency_s)
            rollouts.append(plan.stats["rollouts"])
        command = plan.at(now) if plan else None
        assert command is not None
        state = plant.step(command, spec.tick_s)
        sent_time, sent = np.append(sent_time, now)[-HISTORY:], np.vstack([sent, command])[-HISTORY:]
        total += float(cost.stage(torch.as_tensor(state), torch.as_tensor(command)))
        since = (since if since is not None else now) if holds(spec, state) else None
        if solved is None and since is not None and now - since >= spec.success.hold_s - 1e-9:
            solved = round(since, 3)
    return Result(name, case, seed, total / ticks, solved, float(np.mean(rollouts)), 1e3 * float(np.median(latency)))


def summary(results: list[Result]) -> list[dict[str, Any]]:
    """One row per robot and planner."""
    rows = []
    for name, case in dict.fromkeys((r.robot, r.planner) for r in results):
        mine = [r for r in results if (r.robot, r.planner) == (name, case)]
        cost = np.array([r.cost for r in mine])
        times = [r.solved_s for r in mine if r.solved_s is not None]
        rows.append({"robot": name, "planner": case, "seeds": len(mine), "solved": len(times),
                     "solved_s_median": float(np.median(times)) if times else None, "cost_mean": float(cost.mean()),
                     "cost_std": float(cost.std(ddof=1)) if len(cost) > 1 else 0.0,
                     "rollouts": float(np.mean([r.rollouts for r in mine])), "plan_ms": float(np.median([r.plan_ms for r in mine]))})
    return rows


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--quick", action="store_true", help="one seed, iCEM and CEM only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--planners", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--robots", nargs="*", default=list(ROBOTS))
    parser.add_argument("--model", choices=("casadi", "mujoco"), default="casadi")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases, seeds = (["cem_260", "icem_97"], 1) if args.quick else (args.planners, args.seeds)
    begin = time.perf_counter()
    results = []
    print(f"{'robot':10} {'planner':20} {'solved':>7} {'after s':>8} {'cost mean':>10} {'std':>7} {'rollouts':>9} {'plan ms':>8}")
    for name in args.robots:
        for case in cases:
            mine = [episode(name, case, CASES[case], seed, args.seconds, args.model) for seed in range(seeds)]
            results += mine
            r = summary(mine)[0]
            after = "-" if r["solved_s_median"] is None else f"{r['solved_s_median']:.2f}"
            print(f"{name:10} {case:20} {r['solved']:>3}/{r['seeds']:<3} {after:>8} {r['cost_mean']:10.4f} {r['cost_std']:7.4f} "
                  f"{r['rollouts']:9.0f} {r['plan_ms']:8.1f}", flush=True)
    if args.json:
        report = {"schema": 1, "command": "known_model", "model": args.model, "seconds": args.seconds,
                  "wall_s": time.perf_counter() - begin, "table": summary(results), "episodes": [asdict(r) for r in results]}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
