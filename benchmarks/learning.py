"""How much experience the stack needs from nothing: lockstep runs over seeds, a table and a picture of the learning.

    python benchmarks/learning.py --task cartpole --seeds 0-9 --jobs 2 --json learning.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import parallel
import torch

from mbrl_control import robot
from mbrl_control.stack import report
from mbrl_control.stack.lockstep import Lockstep, Settings
from mbrl_control.stack.plants import make


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        robot: shipped robot.
        plant: what is driven.
        duration_s: of a run.
        resets_s: when the plant goes back to its start.
        stop: end when solved.
    """

    robot: str
    plant: str
    duration_s: float
    resets_s: tuple[float, ...] = ()
    stop: bool = False


TASKS = {
    "cartpole": Task("cartpole", "suite", 30.0, (20.0,)),
    "pendulum": Task("pendulum", "mujoco", 20.0, (), True),
    "acrobot": Task("acrobot", "mujoco", 120.0, (), True),
    "pendubot": Task("pendubot", "mujoco", 120.0, (), True),
}


def run(name: str, seed: int) -> dict[str, Any]:
    """One seed of a task."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    task, begin = TASKS[name], time.monotonic()
    spec = robot.load(task.robot)
    plant = make(task.plant, spec)
    with tempfile.TemporaryDirectory() as folder:
        lockstep = Lockstep(spec, plant, Path(folder), Settings(task.duration_s, seed, task.resets_s, task.stop))
        log = lockstep.run()
    made = report.build(spec, log, command=f"benchmarks/learning.py --task {name}", seed=seed, wall_s=time.monotonic() - begin, cadence={})
    out = {"seed": seed, "solved_s": made["solved_at_experience_s"], "wall_s": made["wall_s"], "experience_s": log.time[-1] + spec.tick_s,
           "plan_ms": made["planner"]["latency_ms"], "refit_s": made["trainer"]["refit_s"], "refits": made["trainer"]["refits"],
           "cost": [float(np.mean(log.cost[i : i + round(spec.rate_hz)])) for i in range(0, len(log.cost), round(spec.rate_hz))]}
    if task.plant == "suite":
        out["return_1000_steps"] = float(plant.reward)  # type: ignore[attr-defined]
    return out


def tell(row: dict[str, Any]) -> str:
    """What to say of a seed."""
    gained = row.get("return_1000_steps", float("nan"))
    return f"seed {row['seed']}: solved {row['solved_s']} s, return {gained:.1f}, {row['wall_s']:.0f} s of wall time"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), default="cartpole")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(run(args.task, args.one)))
        return
    jobs = [["--task", args.task, "--one", str(seed)] for seed in parallel.seeds(args.seeds)]
    rows = parallel.run(__file__, jobs, args.jobs, tell)
    solved = [row["solved_s"] if row["solved_s"] is not None else float("inf") for row in rows]
    figures: dict[str, Any] = {"schema": 1, "task": args.task, "machine": report.machine(), "median_solved_s": statistics.median(solved),
                               "worst_solved_s": max(solved), "solved": int(np.isfinite(solved).sum()), "seeds": len(rows), "runs": rows}
    if "return_1000_steps" in rows[0]:
        returns = [row["return_1000_steps"] for row in rows]
        figures |= {"median_return": statistics.median(returns), "least_return": min(returns)}
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items() if name not in ("schema", "runs", "machine")))
    if args.json:
        report.save(figures, args.json)


if __name__ == "__main__":
    main()
