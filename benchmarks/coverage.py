"""Whether recalibrated intervals hold what they say on a real robot's run that was neither fitted nor calibrated on.

    python benchmarks/coverage.py --data FOLDER --json report.json --picture reliability.png

FOLDER holds one CSV log a run (found at any depth), with the columns that the robot's YAML names. Every run in turn is the test. The
recalibration is cross-fitted over the others: each of them is predicted by a model that was fitted without it and without the test. What
is tested are the intervals of just these models on the test, as they are (`before`) and recalibrated (`after`), and beside them those of
the model that was fitted to all the others (`more`): it knows more than the models that the widths are of, so they are wide for it.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import log_options
import numpy as np
import torch

from mbrl_calibration import uncertainty
from mbrl_calibration.uncertainty import LEVELS, Coverage
from mbrl_control import parts, robot
from mbrl_control.data.csv_log import episodes_from_csv
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import Sequences, sequences
from mbrl_control.errors import UserError
from mbrl_control.models.base import LearnedModel
from mbrl_control.planning import coverage as intervals
from mbrl_control.stack.report import machine

STEPS = (1, 10, 50)
TOLD = (0.68, 0.95)


def fitted(spec: robot.RobotSpec, runs: list[Episode], without: set[int], seed: int, epochs: int) -> LearnedModel:
    """A model fitted to all runs but some."""
    model: LearnedModel = parts.find("models", spec.model.kind).build(
        spec, parts.options("models", spec.model.kind, dict(spec.model.options)))
    train = Sequences.join(sequences(r, spec, model.stretch) for i, r in enumerate(runs) if i not in without)
    model.fit(train, np.random.default_rng([seed, *sorted(without)]), epochs=epochs)
    return model


def errors(spec: robot.RobotSpec, runs: list[Episode], seed: int, epochs: int) -> dict[tuple[int, int], np.ndarray]:
    """Normalised errors on run i of the model that was fitted without i and j, by (i, j); j = i for the model without i alone."""
    test = [sequences(r, spec, max(STEPS), spec.model_dt) for r in runs]
    out = {}
    for i, j in itertools.combinations_with_replacement(range(len(runs)), 2):
        began = time.monotonic()
        model = fitted(spec, runs, {i, j}, seed, epochs)
        for a, b in {(i, j), (j, i)}:
            out[a, b] = intervals.normalised(model, test[a], spec, np.random.default_rng([seed, a, b]))
        print(f"without {i} and {j}: {time.monotonic() - began:.0f} s", flush=True)
    return out


def joined(tables: list[Coverage]) -> Coverage:
    """Mean over tests."""
    first = tables[0]
    return Coverage(first.levels, first.steps, first.signals, np.mean([t.share for t in tables], axis=0),
                    np.sum([t.independent for t in tables], axis=0))


def main() -> int:
    """Run from the command line; 1 when a mean coverage over the tests is off by more than 5 points."""
    parser = log_options.parser(__doc__)
    parser.add_argument("--picture", type=Path, help="write the reliability plot here")
    parser.add_argument("--json", type=Path, help="write report.json here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    try:
        spec = robot.load(given.robot)
        runs = [e for p in sorted(given.data.rglob("*.csv")) for e in episodes_from_csv(p, spec)]
        found = errors(spec, runs, given.seed, given.epochs)
        before: list[Coverage] = []
        after: list[Coverage] = []
        inside: list[Coverage] = []
        more: list[Coverage] = []
        curves: dict[str, list[Coverage]] = {"before": [], "after": []}
        for test in range(len(runs)):
            rest = [i for i in range(len(runs)) if i != test]
            others, here = [found[i, test] for i in rest], [found[test, i] for i in rest]
            made = uncertainty.of_errors(others, spec.state_names)
            inside.append(uncertainty.left_out(others, spec.state_names, TOLD, STEPS))
            more.append(uncertainty.covered([found[test, test]], spec.state_names, made, TOLD, STEPS))
            for kind, tables, use in (("before", before, None), ("after", after, made)):
                tables.append(uncertainty.covered(here, spec.state_names, use, TOLD, STEPS))
                curves[kind].append(uncertainty.covered(here, spec.state_names, use, LEVELS.tolist(), STEPS))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    model: dict[str, Any] = {}
    for name, tables in (("before", before), ("inside", inside), ("after", after), ("more", more)):
        mean = joined(tables)
        model[name] = {"mean": mean.rows(), "off": mean.off(), "tests": [t.rows() for t in tables]}
        print(f"{name}: off by {100 * mean.off():.1f} points at most, mean over {len(tables)} tests")
        for k, row in mean.rows().items():
            print(f"  k = {k}: " + ", ".join(f"{n} {100 * v['0.68']:.1f} / {100 * v['0.95']:.1f}" for n, v in row.items()))
    if given.picture:
        uncertainty.picture(joined(curves["before"]), joined(curves["after"]), given.picture, f"{spec.name}: runs that were not seen")
    if given.json:
        report = {"schema": 1, "command": " ".join(sys.argv), "robot": spec.name, "seed": given.seed, "wall_s": time.monotonic() - began,
                  "coverage": model, "machine": machine()}
        given.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0 if model["after"]["off"] <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
