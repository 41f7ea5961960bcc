"""Grey box, plain ensemble and physics alone on a quarter of a real robot's logs, leave one run out.

    python benchmarks/greybox.py --data FOLDER --json report.json

FOLDER holds one CSV log a run (found at any depth), with the columns that the robot's YAML names. Every run is predicted by models that
were fitted to a part of each of the other runs: its beginning, or a contiguous part drawn by the seed. The physics are the nominal
equations of the YAML with lumped parameters identified on the same data from commands (`mbrl_calibration.dynamics`, delays as the YAML has
them); the grey box stands on just these. Stretches begin at measured states as they are and are compared with measured states as
they are, so that errors include the sensors' noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_robots import mean_over

from mbrl_calibration.dynamics import Settings, identify
from mbrl_calibration.mechanism import build
from mbrl_calibration.runs import Run
from mbrl_control import parts, robot
from mbrl_control.data.csv_log import episodes_from_csv
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import Sequences, sequences, unwrap
from mbrl_control.errors import UserError
from mbrl_control.models import evaluate
from mbrl_control.models.base import Model

STEPS = (1, 10, 50)
METHODS = ("persistence", "physics", "ensemble", "greybox")
SUBSTEPS = 10


@dataclass(frozen=True)
class Setting:
    """What a fold is run with.

    Attributes:
        share: of each training run that is used.
        random: a contiguous part drawn by the seed, instead of the beginning.
        seed: of that part and of the fits.
        epochs: passes over the data, of the grey box.
        ensemble_epochs: of the plain ensemble.
        stretch: model steps per stretch of the grey box' training data.
        decay: its weight decay; None for that of the YAML.
    """

    share: float
    random: bool
    seed: int
    epochs: int
    ensemble_epochs: int
    stretch: int
    decay: float | None


def part_of(run: Episode, setting: Setting, number: int) -> Episode:
    """The part of a training run that is used."""
    rows = round(setting.share * len(run))
    begin = int(np.random.default_rng([setting.seed, number]).integers(len(run) - rows + 1)) if setting.random else 0
    return run.cut(begin, begin + rows)


def identified(spec: robot.RobotSpec, runs: list[Episode]) -> robot.RobotSpec:
    """The robot with the nominal parameters under which free runs from the runs' commands follow them best."""
    mechanism = build(spec)
    logs = [Run(r.name, r.time, unwrap(r.state, spec.wraps), r.action, np.full(r.action.shape, np.nan)) for r in runs]
    found = identify(logs, [], mechanism, spec.delays, Settings(measured=False))
    parameters = mechanism.system(dict(zip(mechanism.names, found.values.tolist(), strict=True)))
    nominal = spec.nominal.model_copy(update={"parameters": {**spec.nominal.parameters, **parameters}})
    return spec.model_copy(update={"nominal": nominal})


def learned(spec: robot.RobotSpec, kind: str, runs: list[Episode], setting: Setting, rng: np.random.Generator) -> tuple[Model, float]:
    """A model of a kind fitted to runs, with the options of the YAML, and the seconds that the fit took."""
    given = dict(spec.model.options)
    if kind == "greybox":
        given |= {"stretch": setting.stretch} | ({} if setting.decay is None else {"weight_decay": setting.decay})
    chosen = spec.model_copy(update={"model": spec.model.model_copy(update={"kind": kind, "options": given})})
    model = parts.find("models", kind).build(chosen, parts.options("models", kind, given))
    train = Sequences.join(sequences(r, chosen, model.stretch) for r in runs)
    epochs = setting.epochs if kind == "greybox" else setting.ensemble_epochs
    return model, model.fit(train, rng, epochs=epochs)["fit_s"]


def fold(spec: robot.RobotSpec, runs: list[Episode], left_out: int, setting: Setting) -> dict[str, Any]:
    """Fit to parts of all runs but one and predict that one."""
    known = [part_of(r, setting, i) for i, r in enumerate(runs) if i != left_out]
    test = sequences(runs[left_out], spec, max(STEPS))
    found = identified(spec, known)
    physics = parts.find("models", "casadi").build(found, parts.options("models", "casadi", {"substeps": SUBSTEPS}))
    out: dict[str, Any] = {"run": runs[left_out].name, "seconds": sum(r.duration for r in known), "parameters": found.nominal.parameters}
    models: dict[str, Model] = {"physics": physics}
    for kind in ("ensemble", "greybox"):
        models[kind], out[f"{kind}_fit_s"] = learned(found, kind, known, setting, np.random.default_rng([setting.seed, left_out]))
    out["persistence"] = evaluate.k_step_rmse(evaluate.persistence(test), test, spec, STEPS)
    for kind, model in models.items():
        out[kind] = evaluate.k_step_rmse(evaluate.open_loop(model, test.state[:, 0], test.action), test, spec, STEPS)
    return out


def scaled(model: dict[str, Any], method: str, k: str) -> float:
    """Root mean square error in those of persistence, mean over signals."""
    return float(np.mean([model[method][k][n] / model["persistence"][k][n] for n in model[method][k]]))


def table(model: dict[str, Any], names: tuple[str, ...]) -> str:
    """Markdown table of the methods."""
    lines = ["| k | " + " | ".join(f"{m} {' '.join(names)}" for m in METHODS) + " |", "|---|" + "---|" * len(METHODS)]
    lines += [f"| {k} | " + " | ".join(" ".join(f"{model[m][k][n]:.4f}" for n in names) + f" ({scaled(model, m, k):.3f})" for m in METHODS)
              + " |" for k in model["physics"]]
    return "\n".join(lines)


def main() -> int:
    """Run from the command line; 1 when the grey box is not below both others at 10 and 50 steps, mean over signals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one CSV log a run")
    parser.add_argument("--robot", default="double_pendulum_c1", help="shipped robot or YAML with a key nominal (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.25, help="of each training run that is used (default: %(default)s)")
    parser.add_argument("--random", action="store_true", help="a contiguous part drawn by the seed, instead of the beginning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40, help="passes of the grey box over the data (default: %(default)s)")
    parser.add_argument("--ensemble-epochs", type=int, default=80, help="of the plain ensemble, which is slower to learn (default: "
                        "%(default)s)")
    parser.add_argument("--stretch", type=int, default=25, help="model steps per stretch for the grey box (default: %(default)s)")
    parser.add_argument("--decay", type=float, help="weight decay of the grey box (default: as in the YAML)")
    parser.add_argument("--folds", type=int, nargs="*", help="runs to leave out, counted from 0 (default: each in turn)")
    parser.add_argument("--json", type=Path, help="write report.json here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    setting = Setting(given.share, given.random, given.seed, given.epochs, given.ensemble_epochs, given.stretch,
                      given.decay)
    try:
        spec = robot.load(given.robot)
        paths = sorted(given.data.rglob("*.csv"))
        runs = [replace(e, name=str(p.relative_to(given.data))) for p in paths for e in episodes_from_csv(p, spec)]
        folds = []
        for left_out in given.folds if given.folds is not None else range(len(runs)):
            folds.append(fold(spec, runs, left_out, setting))
            print(f"without {runs[left_out].name}: {folds[-1]['seconds']:.1f} s of data, fitted in {folds[-1]['ensemble_fit_s']:.0f} s "
                  f"(ensemble) and {folds[-1]['greybox_fit_s']:.0f} s (grey box)", flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    model: dict[str, Any] = {m: mean_over(folds, m) for m in METHODS}
    below = all(scaled(model, "greybox", str(k)) < scaled(model, m, str(k)) for k in STEPS[1:] for m in ("physics", "ensemble"))
    everywhere = all(model["greybox"][str(k)][n] < model[m][str(k)][n] for k in STEPS[1:] for m in ("physics", "ensemble")
                     for n in spec.state_names)
    print(table(model, spec.state_names))
    print(f"grey box below both at 10 and 50 steps: {below} (mean over signals), {everywhere} (in every signal)")
    if given.json:
        report = {"schema": 1, "command": " ".join(sys.argv), "robot": spec.name, "seed": given.seed, "wall_s": time.monotonic() - began,
                  "model": model, "below": below, "everywhere": everywhere, "folds": folds,
                  "machine": {"cores": os.cpu_count(), "cpu": platform.processor(), "gpu": None}}
        given.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0 if below else 1


if __name__ == "__main__":
    sys.exit(main())
