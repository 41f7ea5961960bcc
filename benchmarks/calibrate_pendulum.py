"""The real simple pendulum: what was published, least squares and shooting side by side, and their free runs on other recordings.

    python benchmarks/calibrate_pendulum.py --data FOLDER --json report.json

FOLDER holds `sysid/data_measured.csv`, `sysid/system_identification.txt` and the other recordings. None of the answers is the truth: the
recording for identification is 3.9 s long, and its torque sensor spikes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_calibration import dynamics, mechanism, runs
from mbrl_calibration.mechanism import Mechanism
from mbrl_control import robot
from mbrl_control.stack import report

ROBOT, HORIZON_S = "simple_pendulum", 0.5
OTHERS = ("energy_shaping", "sac", "gravity_compensation")
THEIRS = {"I": "J", "mu": r"m\*cx", "b": "Fv", "cf": "Fc", "offset": "offset"}


def published(m: Mechanism, path: Path) -> np.ndarray:
    """[P] lumped parameters of the authors' text; their angle is 0 hanging, which is a negative moment here."""
    text = path.read_text("utf-8")
    found = {ours: float(re.search(rf"^{name}\s*=\s*(\S+)", text, re.MULTILINE)[1]) for ours, name in THEIRS.items()}  # type: ignore[index]
    return np.array([-found[n] if n == "mu" else found[n] for n in m.names])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    spec = robot.load(ROBOT)
    m, settings = mechanism.build(spec), dynamics.Settings(horizons_s=(HORIZON_S,))
    train = runs.load([args.data / "sysid" / "data_measured.csv"], spec)
    found = dynamics.identify(train, [], m, spec.delays, settings)
    answers = {"published": published(m, args.data / "sysid" / "system_identification.txt"), "least squares": found.regression.values,
               "shooting": found.values}
    print(f"{'':14}" + "".join(f"{n:>18}" for n in m.names))
    for name, values in answers.items():
        std = {"least squares": found.regression.std, "shooting": found.estimate.std}.get(name)
        half = [f" ± {1.96 * s:.3f}" for s in std] if std is not None else [""] * len(values)
        print(f"{name:14}" + "".join(f"{f'{v:.4f}{h}':>18}" for v, h in zip(values, half, strict=True)))
    rows: dict[str, Any] = {}
    for other in ("sysid", *OTHERS):
        logs = [dynamics.without_spikes(r) for r in runs.load([args.data / other / "data_measured.csv"], spec)]
        rows[other] = {name: dynamics.score(logs, m, values, spec.delays, settings) for name, values in answers.items()}
        print(f"{other}: rmse of torque, N m, and of free runs of {HORIZON_S:g} s, rad")
        for name, score in rows[other].items():
            print(f"  {name:14} {score.torque_rmse:8.3f} {score.free_run_rmse[HORIZON_S]:8.4f}")
    if args.json:
        report.save({"schema": 1, "robot": ROBOT, "machine": report.machine(), "names": m.names,
                     "parameters": {name: values.tolist() for name, values in answers.items()},
                     "std": {"least squares": found.regression.std.tolist(), "shooting": found.estimate.std.tolist()},
                     "scores": {other: {name: vars(s) for name, s in of.items()} for other, of in rows.items()}}, args.json)


if __name__ == "__main__":
    main()
