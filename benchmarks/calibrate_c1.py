"""Identification of the real double pendulum C.1, leave one run out, beside the models that were published for it.

    python benchmarks/calibrate_c1.py --data FOLDER --json report.json

FOLDER holds the runs as `sys_id_*/trajectory.csv` and the published parameters as `identified/*.yml`. Every run is judged with parameters
that were found on the others; the published ones were found by their authors on whatever runs they had, perhaps these.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mbrl_calibration import dynamics, mechanism, regression, runs, zeros
from mbrl_calibration.effort_sensors import EffortSensor
from mbrl_control import robot
from mbrl_control.robot import RobotSpec
from mbrl_control.stack import report

ROBOT = "double_pendulum_c1"

ZERO_RAD = 0.05
"""About the standard deviation of a zero that is set anywhere that joint 1 hangs still: 0.27 N m of dry friction (published) hold it
against 3.6 N m per rad of gravity within 0.075 rad to both sides."""


def published(spec: RobotSpec, path: Path) -> np.ndarray:
    """[P] lumped parameters of a published model."""
    given = yaml.safe_load(path.read_text("utf-8"))
    known = mechanism.equations_of(spec).parameters
    data = spec.model_dump(exclude_unset=True)
    nominal = {**data["nominal"], "parameters": {name: float(given[name]) for name in known if name in given}}
    return mechanism.build(RobotSpec.model_validate({**data, "nominal": nominal})).start


def judge(test: list[runs.Run], train: list[runs.Run], m: mechanism.Mechanism, values: np.ndarray, delays: np.ndarray,
          s: dynamics.Settings, sensors: Sequence[EffortSensor]) -> dict[str, float]:
    """How good parameters [P] are: torque, what its sensors show, free runs, and these again when a run's first seconds have told where
    its zeros are."""
    plain = dynamics.score_unseen(test, train, m, values, delays, s, told=False, sensors=sensors)
    out = {"torque_rmse": plain.torque_rmse, **({} if plain.sensor_rmse is None else {"sensor_rmse": plain.sensor_rmse}),
           **{f"free_{h:g}_s": v for h, v in plain.free_run_rmse.items()}}
    if s.zero > 0:
        told = dynamics.score_unseen(test, train, m, values, delays, s)
        out |= {f"told_{h:g}_s": v for h, v in told.free_run_rmse.items()}
    return out


def fold(spec: RobotSpec, logs: list[runs.Run], out: int, others: dict[str, np.ndarray], settings: dynamics.Settings) -> dict[str, Any]:
    """One fold: figures of all parameters on the run that was left out."""
    begin, cpu = time.monotonic(), time.process_time()
    m = mechanism.build(spec)
    train = [r for i, r in enumerate(logs) if i != out]
    found = dynamics.identify(train, [], m, spec.delays, settings)
    spent = {"wall_s": time.monotonic() - begin, "cpu_s": time.process_time() - cpu}
    clean, test = [dynamics.without_spikes(r) for r in train], [dynamics.without_spikes(logs[out])]
    all_of = others | {"regression": found.regression.values, "shooting": found.values}
    scores = {name: judge(test, clean, m, values, found.delays, settings, found.sensors) for name, values in all_of.items()}
    low, high = found.estimate.interval()
    return {"run": logs[out].name, **spent, "delay_s": found.delays.tolist(), "converged": found.converged, "zeros": found.zeros.tolist(),
            "sensors": [asdict(s) for s in found.sensors],
            "scores": scores,
            "parameters": {n: [v, a, b] for n, v, a, b in zip(found.estimate.names, found.estimate.values, low, high, strict=True)}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--commands", action="store_true", help="drive all models with commands instead of measured torques")
    parser.add_argument("--find-delays", action="store_true", help="find the commands' delays with the parameters")
    parser.add_argument("--zeros", action="store_true", help="find each run's zeros of the positions too, with the parameters; those of "
                        "the run left out are told, for every model, for its torque by its motion alone, for free runs by nothing (free) "
                        f"or by its first {zeros.FIRST_S:g} s, the rest being judged (told)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    zero = ZERO_RAD if args.zeros else 0.0
    spec, settings = robot.load(ROBOT), dynamics.Settings(not args.commands, find_delays=args.find_delays, zero=zero)
    logs = [runs.load([path], spec)[0] for path in sorted(args.data.glob("sys_id_*"))]
    if not logs:
        parser.error(f"--data {args.data}: there is no sys_id_*/trajectory.csv in this folder; name the one that holds the runs")
    others = {path.stem: published(spec, path) for path in sorted((args.data / "identified").glob("model_*.yml"))}
    m = mechanism.build(spec)
    rows = [regression.rows(dynamics.without_spikes(r), m, spec.delays, not args.commands) for r in logs]
    all_runs = regression.rmse(rows, np.linalg.lstsq(np.concatenate([r.matrix.reshape(-1, 9) for r in rows]),
                                                     np.concatenate([r.target.ravel() for r in rows]), rcond=None)[0])
    print(f"unconstrained least squares on all five runs, on these runs themselves: {all_runs:.4f} N m")
    folds = []
    for out in range(len(logs)):
        folds.append(fold(spec, logs, out, others, settings))
        print(f"{logs[out].name}: {folds[-1]['cpu_s']:.0f} s of one core", flush=True)
        for name, figures in folds[-1]["scores"].items():
            print(f"  {name:12}", "  ".join(f"{key} {value:.4f}" for key, value in figures.items()), flush=True)
    mean = {name: {key: float(np.mean([f["scores"][name][key] for f in folds])) for key in figures}
            for name, figures in folds[0]["scores"].items()}
    print("mean of the folds")
    for name, figures in mean.items():
        print(f"  {name:12}", "  ".join(f"{key} {value:.4f}" for key, value in figures.items()))
    if args.json:
        driven = "commands" if args.commands else "measured torque"
        report.save({"schema": 1, "robot": ROBOT, "machine": report.machine(), "driven_by": driven, "find_delays": args.find_delays,
                     "zero_rad": zero,
                     "least_squares_all_runs": all_runs, "mean": mean, "folds": folds}, args.json)


if __name__ == "__main__":
    main()
