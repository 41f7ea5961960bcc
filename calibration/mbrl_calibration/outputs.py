"""What calibration found as a robot's YAML that simulation, nominal model, planner and safety filter read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mbrl_calibration.twin import Twin
from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec

DIGITS = 6


def rounded(value: float) -> float:
    """A number with as many digits as a YAML is read for."""
    return float(f"{value:.{DIGITS}g}")


def calibrated(spec: RobotSpec, source: dict[str, Any], parameters: dict[str, float], delays: np.ndarray | None,
               twin: Twin | None) -> dict[str, Any]:
    """A robot's YAML data with what was found.

    Args:
        spec: the robot.
        source: its YAML as data.
        parameters: of its system, by name; those that are not here stay.
        delays: [A] time from command to effect, s; None to leave them.
        twin: what makes its MJCF behave like this; None to leave it.
    """
    out = {key: value for key, value in source.items()}
    if parameters and spec.nominal is not None:
        out["nominal"] = {**source["nominal"], "parameters": {**spec.nominal.parameters, **{k: rounded(v) for k, v in parameters.items()}}}
        for section in ("model", "safety"):
            given = out.get(section, {})
            kind = given.get("kind") if section == "model" else given.get("model")
            if kind == "casadi":  # without a system of its own it takes all from `nominal`
                kept = {k: v for k, v in given.get("options", {}).items() if k not in ("system", "parameters", "states", "inputs")}
                out[section] = {**given, "options": kept}
    if delays is not None:
        out["command"] = [{**signal, "delay_s": rounded(float(delay))} for signal, delay in zip(source["command"], delays, strict=True)]
    if twin is not None and twin.fits:
        out["sim"] = {**source["sim"], "changes": {**source["sim"].get("changes", {}), **{k: rounded(v) for k, v in twin.changes.items()}},
                      "values": {**source["sim"].get("values", {}), **{k: rounded(v) for k, v in twin.values.items()}}}
    return out


def write(path: Path, data: dict[str, Any], heading: str) -> RobotSpec:
    """Write a robot's YAML, whole or not at all, and read it back.

    Args:
        path: of the new file.
        data: its content.
        heading: a comment at its top, one line.

    Raises:
        UserError: the file exists already.
        SpecError: what would be written is no valid robot.
    """
    if path.exists():
        raise UserError(f"{path} exists already; name a new file with -o")
    text = f"# {heading}\n" + yaml.safe_dump(data, sort_keys=False, width=140, allow_unicode=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.yaml")
    temporary.write_text(text, "utf-8")
    try:
        spec = robot.load(temporary)
    except UserError:
        temporary.unlink()
        raise
    temporary.replace(path)
    return spec
