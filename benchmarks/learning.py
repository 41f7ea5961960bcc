"""How much experience the stack needs from nothing: lockstep runs over seeds, a table and a picture of the learning.

    python benchmarks/learning.py --task cartpole --seeds 0-9 --jobs 2 --json learning.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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


def seeds(text: str) -> list[int]:
    """[0, 1, 2, 5] of `0-2,5`."""
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def run_all(task: str, wanted: list[int], jobs: int) -> list[dict[str, Any]]:
    """Every seed in a process of its own, `jobs` at a time."""
    waiting, running, done = list(wanted), [], []
    while waiting or running:
        while waiting and len(running) < jobs:
            command = [sys.executable, __file__, "--task", task, "--one", str(waiting.pop(0))]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise SystemExit(f"a seed failed with status {process.returncode}")
            row = json.loads(process.communicate()[0].splitlines()[-1])
            done.append(row)
            print(f"seed {row['seed']}: solved {row['solved_s']} s, return {row.get('return_1000_steps', float('nan')):.1f}, "
                  f"{row['wall_s']:.0f} s of wall time, {len(done)} of {len(wanted)}", flush=True)
        time.sleep(0.2)
    return sorted(done, key=lambda row: row["seed"])


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
    rows = run_all(args.task, seeds(args.seeds), args.jobs)
    solved = [row["solved_s"] if row["solved_s"] is not None else float("inf") for row in rows]
    figures: dict[str, Any] = {"schema": 1, "task": args.task, "machine": report.machine(), "median_solved_s": statistics.median(solved),
                               "worst_solved_s": max(solved), "solved": sum(np.isfinite(solved)), "seeds": len(rows), "runs": rows}
    if "return_1000_steps" in rows[0]:
        returns = [row["return_1000_steps"] for row in rows]
        figures |= {"median_return": statistics.median(returns), "least_return": min(returns)}
    print({k: v for k, v in figures.items() if k not in ("runs", "machine")})
    if args.json:
        report.save(figures, args.json)


if __name__ == "__main__":
    main()
