"""A robot that changes in mid-run: what holding costs before and after, over seeds, and how much that ratio wobbles without a change.

    python benchmarks/change.py --seeds 0-9 --jobs 2 --json change.json               # pole mass x 2 at 60 s
    python benchmarks/change.py --factors 1 2 --option trainer.forget_s=null          # another setting than the robot's own

Lockstep on the virtual clock, a refit being used 1.3 s after it began, as in real time on two cores. Costs are means of the stage cost:
`before` from 20 s to the change, `after` from 15 s after it to the end. Factor 1 is a run without a change: its ratios are what
sampling and the random data do by themselves.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import parallel
import torch

from mbrl_control import robot
from mbrl_control.robot import RobotSpec
from mbrl_control.stack import report
from mbrl_control.stack.lockstep import Lockstep, Settings
from mbrl_control.stack.plants import make

SETTLED_S, BACK_S = 20.0, 15.0
REFIT_LATENCY_S = 1.3
RESAMPLES = 10_000


def with_options(name: str, options: list[str]) -> RobotSpec:
    """A shipped robot with some numbers of its YAML set otherwise: `section.key=value`, the value as in JSON."""
    data = robot.load(name).model_dump()
    for option in options:
        path, _, value = option.partition("=")
        *sections, key = path.split(".")
        part = data
        for section in sections:
            part = part[section]
        part[key] = json.loads(value)
    return RobotSpec.model_validate(data)


def run(args: argparse.Namespace, factor: float, seed: int) -> dict[str, Any]:
    """One seed with one change."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    spec, begin = with_options(args.robot, args.option), time.monotonic()

    def change(plant: Any) -> None:
        plant.change(args.what, factor)

    settings = Settings(args.seconds, seed, refit_latency_s=REFIT_LATENCY_S, changes=((args.at, change),))
    with tempfile.TemporaryDirectory() as folder:
        log = Lockstep(spec, make("mujoco", spec), Path(folder), settings).run()
    cost, made = np.array(log.cost), report.build(spec, log, command="change", seed=seed, wall_s=time.monotonic() - begin, cadence={})
    mean = partial(_mean, cost, spec.rate_hz)
    return {"factor": factor, "seed": seed, "solved_s": made["solved_at_experience_s"], "wall_s": made["wall_s"],
            "before": mean(SETTLED_S, args.at), "during": mean(args.at, args.at + BACK_S), "after": mean(args.at + BACK_S, args.seconds),
            "worst_after": float(cost[round(args.at * spec.rate_hz):].max()),
            "every_5_s": [mean(t, t + 5) for t in range(0, round(args.seconds) - 4, 5)]}


def _mean(cost: np.ndarray, rate: float, begin: float, end: float) -> float:
    return float(cost[round(begin * rate) : round(end * rate)].mean())


def ratio(rows: list[dict[str, Any]], rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean cost after over mean cost before, over all seeds, and its 95 % interval by drawing seeds with replacement."""
    before, after = (np.array([row[key] for row in rows]) for key in ("before", "after"))
    drawn = rng.integers(len(rows), size=(RESAMPLES, len(rows)))
    low, high = np.quantile(after[drawn].mean(1) / before[drawn].mean(1), [0.025, 0.975])
    return float(after.mean() / before.mean()), float(low), float(high)


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each factor."""
    out = []
    for factor in sorted({row["factor"] for row in rows}):
        mine = [row for row in rows if row["factor"] == factor]
        value, low, high = ratio(mine, np.random.default_rng(0))
        means = {key: float(np.mean([row[key] for row in mine])) for key in ("before", "during", "after")}
        singles = [row["after"] / row["before"] for row in mine]
        out.append({"factor": factor, "seeds": len(mine), "solved": sum(row["solved_s"] is not None for row in mine), **means,
                    "ratio": value, "low": low, "high": high, "within_10_percent": sum(r <= 1.1 for r in singles),
                    "least": min(singles), "most": max(singles), "worst_after": max(row["worst_after"] for row in mine)})
    return out


def tell(row: dict[str, Any]) -> str:
    """What to say of a run."""
    return (f"factor {row['factor']:g}, seed {row['seed']}: before {1e3 * row['before']:.2f}, after {1e3 * row['after']:.2f} thousandths, "
            f"{row['wall_s']:.0f} s of wall time")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="cartpole")
    parser.add_argument("--what", default="mass:pole")
    parser.add_argument("--factors", type=float, nargs="*", default=[1.0, 2.0])
    parser.add_argument("--at", type=float, default=60.0, help="s")
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--option", action="append", default=[], help="section.key=value of the robot's YAML")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=float, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(run(args, args.one[0], int(args.one[1]))))
        return
    common = ["--robot", args.robot, "--what", args.what, "--at", str(args.at), "--seconds", str(args.seconds)]
    common += [part for option in args.option for part in ("--option", option)]
    jobs = [[*common, "--one", str(factor), str(seed)] for seed in parallel.seeds(args.seeds) for factor in args.factors]
    rows = parallel.run(__file__, jobs, args.jobs, tell)
    print(f"{'factor':>6} {'solved':>7} {'before':>8} {'after':>8} {'ratio':>6} {'95 %':>12} {'single':>12} {'<= 1.1':>7}   (thousandths)")
    for row in table(rows):
        interval, span = (f"{row[low]:5.2f}..{row[high]:<5.2f}" for low, high in (("low", "high"), ("least", "most")))
        print(f"{row['factor']:6g} {row['solved']:>3}/{row['seeds']:<3} {1e3 * row['before']:8.3f} {1e3 * row['after']:8.3f} "
              f"{row['ratio']:6.2f} {interval} {span} {row['within_10_percent']:>4}")
    if args.json:
        report.save({"schema": 1, "command": "change", "robot": args.robot, "what": args.what, "at_s": args.at, "option": args.option,
                     "machine": report.machine(), "table": table(rows), "runs": rows}, args.json)


if __name__ == "__main__":
    main()
