"""What dead time costs, with and without compensation: closed loop on the true model, so that nothing but the delay differs.

    python benchmarks/delay.py --json delay.json                                   # two plan periods of delay, 10 seeds
    python benchmarks/delay.py --robots cartpole --periods 4 --picture delay.png

The plant obeys each command `periods` plan periods after it was sent. `none` plans for a plant without delay on a plant without it;
`compensated` knows the delay and plans from the state that the commands on their way lead to; `ignored` plans as if there were none.
Costs are mean stage costs over the episode, and over its last half (holding, after the swing-up). The first command acts on the delayed
plant `periods` plan periods late, whoever sends it, and until then the robot hangs: `acting` is the cost over equally long from there on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import parallel
import torch
from known_model import holds, known_model
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbrl_control import robot
from mbrl_control.costs import base as costs
from mbrl_control.planning import base as planning
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_control.stack import report
from mbrl_sim.plant import MujocoPlant

HISTORY = 60
CASES = ("none", "compensated", "ignored")
MODELS = {"cartpole": "casadi"}
PLANNERS: dict[str, dict[str, Any]] = {
    "cartpole": {"candidates": 96, "iterations": 3, "options": {"execute": "best"}},
    "pendubot": {"candidates": 96, "iterations": 3, "options": {"execute": "best"}},
    "acrobot": {"candidates": 96, "iterations": 3, "options": {"execute": "best"}},
}


@dataclass(frozen=True)
class Result:
    """One episode.

    Attributes:
        cost: mean stage cost over all ticks.
        late_cost: the same over the last half.
        acting_cost: the same over equally many ticks from the one in which the first command acts.
        solved: whether the success condition held as long as asked at some time.
    """

    robot: str
    case: str
    seed: int
    cost: float
    late_cost: float
    acting_cost: float
    solved: bool


def with_delay(name: str, delay_s: float) -> RobotSpec:
    """A shipped robot with settings for a known model, which knows of a dead time."""
    data = robot.load(name).model_dump()
    data["planner"] |= {"options": {}} | PLANNERS[name]
    for command in data["command"]:
        command["delay_s"] = delay_s
    return RobotSpec.model_validate(data)


def episode(name: str, case: str, seed: int, periods: int, seconds: float) -> Result:
    """From rest, in virtual time; a plan acts the moment that it was asked for."""
    plain = robot.load(name)
    delay = 0.0 if case == "none" else periods / plain.plan_hz
    spec = with_delay(name, delay if case == "compensated" else 0.0)
    assert spec.success is not None
    cost = costs.build(spec)
    optimiser = planning.build(spec, known_model(spec, MODELS.get(name, "mujoco")), cost, seed)
    plant = MujocoPlant(with_delay(name, delay))
    state, plan = plant.reset(np.random.default_rng([seed, 7])), None
    every, ticks, dead = round(spec.rate_hz / spec.plan_hz), round(seconds * spec.rate_hz), round(delay * spec.rate_hz)
    sent_time, sent, stage, since, solved = np.zeros(0), np.zeros((0, spec.action_dim)), [], None, False
    for k in range(ticks + dead):
        now = k * spec.tick_s
        if k % every == 0:
            plan = optimiser.plan(PlanRequest(k // every, state, now, now, sent_time, sent), plan)
        command = plan.at(now) if plan is not None else None
        assert command is not None
        state = plant.step(command, spec.tick_s)
        sent_time, sent = np.append(sent_time, now)[-HISTORY:], np.vstack([sent, command])[-HISTORY:]
        stage.append(float(cost.stage(torch.as_tensor(state), torch.as_tensor(command))))
        if k >= ticks:
            continue
        since = (since if since is not None else now) if holds(spec, state) else None
        solved |= since is not None and now - since >= spec.success.hold_s - 1e-9
    whole, late, acting = (float(np.mean(stage[some])) for some in (slice(ticks), slice(ticks // 2, ticks), slice(dead, dead + ticks)))
    return Result(name, case, seed, whole, late, acting, bool(solved))


def summary(results: list[Result]) -> list[dict[str, Any]]:
    """One row per robot and case; ratios are of means over the same seeds, to the case without delay."""
    rows = []
    for name in dict.fromkeys(r.robot for r in results):
        for case in CASES:
            mine = [r for r in results if (r.robot, r.case) == (name, case)]
            rows.append({"robot": name, "case": case, "seeds": len(mine), "solved": sum(r.solved for r in mine),
                         **{kind: float(np.mean([getattr(r, kind) for r in mine])) for kind in ("cost", "late_cost", "acting_cost")}})
            for kind, key in (("cost", "over_none"), ("acting_cost", "acting_over_none")):
                base = np.mean([getattr(r, kind) for r in results if (r.robot, r.case) == (name, "none")])
                ratios = np.array([getattr(r, kind) for r in mine]) / base
                rows[-1][key] = float(ratios.mean())
                rows[-1][f"{key}_error"] = float(ratios.std(ddof=1) / np.sqrt(len(mine))) if len(mine) > 1 else None
    return rows


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Bars of the cost beside that without delay."""
    names = list(dict.fromkeys(row["robot"] for row in rows))
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, case in enumerate(CASES):
        mine = [row for row in rows if row["case"] == case]
        axes.bar(np.arange(len(names)) + 0.25 * (i - 1), [row["over_none"] for row in mine], 0.23, label=case,
                 yerr=[row["over_none_error"] or 0 for row in mine])
    axes.axhline(1.05, color="k", lw=0.6, ls="--")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("cost, that without delay = 1")
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", nargs="*", default=["cartpole", "pendubot"], choices=list(PLANNERS))
    parser.add_argument("--periods", type=int, default=2, help="of planning")
    parser.add_argument("--seeds", type=parallel.seeds, default="0-9", help="for example 0-2,5")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        print(json.dumps(asdict(episode(args.one[0], args.one[1], int(args.one[2]), args.periods, args.seconds))))
        return
    jobs = [(name, case, seed) for name in args.robots for seed in args.seeds for case in CASES]
    common = ["--periods", str(args.periods), "--seconds", str(args.seconds)]
    rows = parallel.run(__file__, [[*common, "--one", *map(str, job)] for job in jobs], args.jobs, str)
    results = sorted((Result(**row) for row in rows), key=lambda r: (r.robot, CASES.index(r.case), r.seed))
    table = summary(results)
    print(f"{'robot':10} {'case':12} {'solved':>7} {'cost':>8} {'late':>8} {'/ none':>7} {'+-':>6} {'acting':>8} {'/ none':>7} {'+-':>6}")
    for row in table:
        print(f"{row['robot']:10} {row['case']:12} {row['solved']:>3}/{row['seeds']:<3} {row['cost']:8.4f} {row['late_cost']:8.4f} "
              f"{row['over_none']:7.3f} {row['over_none_error'] or 0:6.3f} {row['acting_cost']:8.4f} {row['acting_over_none']:7.3f} "
              f"{row['acting_over_none_error'] or 0:6.3f}")
    if args.json:
        figures = {"schema": 1, "command": "delay", "periods": args.periods, "seconds": args.seconds, "machine": report.machine(),
                   "table": table, "episodes": [asdict(r) for r in results]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.picture:
        draw(table, args.picture)


if __name__ == "__main__":
    main()
