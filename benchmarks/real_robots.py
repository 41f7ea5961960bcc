"""Open-loop prediction on a real robot's logs, leave one run out: the ensemble beside persistence and a linear model.

    python benchmarks/real_robots.py --data FOLDER --json report.json

FOLDER holds one CSV log a run (found at any depth), with the columns that the robot's YAML names. Every run is predicted by
models that were fitted to the other runs. Stretches begin at measured states as they are and are compared with measured
states as they are.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import log_options
import numpy as np
import torch

from mbrl_control import parts, robot
from mbrl_control.data.csv_log import episodes_from_csv
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import Sequences, sequences
from mbrl_control.errors import UserError
from mbrl_control.models import evaluate, linear

STEPS = (1, 10, 50)
METHODS = ("persistence", "linear", "k_step_rmse")


def fold(spec: robot.RobotSpec, runs: list[Episode], left_out: int, seed: int, epochs: int, stride_s: float | None) -> dict[str, Any]:
    """Fit to all runs but one and predict that one."""
    options = parts.options("models", spec.model.kind, dict(spec.model.options))
    model = parts.find("models", spec.model.kind).build(spec, options)
    others = [r for i, r in enumerate(runs) if i != left_out]
    train = Sequences.join(sequences(r, spec, model.stretch) for r in others)
    test = sequences(runs[left_out], spec, max(STEPS), stride_s)
    baseline = linear.build(spec)
    baseline.fit(Sequences.join(sequences(r, spec, 1, stride_s) for r in others), np.random.default_rng(seed))
    figures = model.fit(train, np.random.default_rng([seed, left_out]), epochs=epochs)
    return evaluate.report(model, test, spec, baseline, STEPS) | {"run": runs[left_out].name, "fit": figures}


def mean_over(folds: list[dict[str, Any]], method: str) -> dict[str, dict[str, float]]:
    """Mean over the folds of each k's and signal's root mean square error."""
    return {k: {n: float(np.mean([f[method][k][n] for f in folds])) for n in folds[0][method][k]} for k in folds[0][method]}


def table(model: dict[str, Any], names: tuple[str, ...]) -> str:
    """Markdown table of the three methods."""
    titles = {"persistence": "persistence", "linear": "linear", "k_step_rmse": "ensemble"}
    lines = ["| k | " + " | ".join(f"{titles[m]} {' '.join(names)}" for m in METHODS) + " |", "|---|" + "---|" * len(METHODS)]
    lines += [f"| {k} | " + " | ".join(" ".join(f"{model[m][k][n]:.4f}" for n in names) for m in METHODS) + " |" for k in model["linear"]]
    return "\n".join(lines)


def main() -> int:
    """Run from the command line; 1 when the ensemble is not below both baselines everywhere."""
    parser = log_options.parser(__doc__)
    parser.add_argument("--folds", type=int, nargs="*", help="runs to leave out, counted from 0 (default: each in turn)")
    parser.add_argument("--grid", action="store_true", help="test stretches and the linear fit on the even grid of the model step")
    parser.add_argument("--json", type=Path, help="write report.json here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    try:
        spec = robot.load(arguments.robot)
        paths = sorted(arguments.data.rglob("*.csv"))
        runs = [e for p in paths for e in episodes_from_csv(p, spec)]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if len(runs) < 2:
        print(f"{arguments.data}: {len(runs)} CSV logs; leaving one out needs at least 2", file=sys.stderr)
        return 2
    folds = []
    for left_out in arguments.folds if arguments.folds is not None else range(len(runs)):
        folds.append(fold(spec, runs, left_out, arguments.seed, arguments.epochs, spec.model_dt if arguments.grid else None))
        print(f"without {paths[left_out].relative_to(arguments.data)}: fitted in {folds[-1]['fit']['fit_s']:.0f} s", flush=True)
    model: dict[str, Any] = {m: mean_over(folds, m) for m in METHODS}
    model |= {c: float(np.mean([f[c] for f in folds])) for c in ("coverage_68", "coverage_95")}
    below = all(model["k_step_rmse"][k][n] < min(model["persistence"][k][n], model["linear"][k][n])
                for k in model["linear"] for n in spec.state_names)
    print(table(model, spec.state_names))
    print(f"coverage {model['coverage_68']:.3f} of 0.68, {model['coverage_95']:.3f} of 0.95; below both everywhere: {below}")
    if arguments.json:
        report = {"schema": 1, "command": " ".join(sys.argv), "robot": spec.name, "seed": arguments.seed,
                  "wall_s": time.monotonic() - began, "model": model, "below_baselines": below, "folds": folds,
                  "machine": {"cores": os.cpu_count(), "cpu": platform.processor(), "gpu": None}}
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0 if below else 1


if __name__ == "__main__":
    sys.exit(main())
