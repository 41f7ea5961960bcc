"""Driven pendulum; lumped parameters of `mbrl_control.models.expressions`' pendulum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration.mechanism import Mechanism, Symbols, equations_of
from mbrl_control.models.expressions import smooth_sign
from mbrl_control.models.parameter import Parameter
from mbrl_control.robot import RobotSpec


def build(spec: RobotSpec, _base: Path | None = None) -> Mechanism:
    """The mechanism of a robot: inertia I, moment mu = m l (its sign tells which way 0 points), friction, offset; g and gear are known."""
    known = equations_of(spec)
    c, command = known.parameters, int(known.command[0])
    free = (("I", "kg*m^2", "I", c["I"], 0.0), ("mu", "kg*m", "m l", c["m"] * c["l"], -np.inf), ("b", "N*m*s/rad", "b", c["b"], 0.0),
            ("cf", "N*m", "cf (Coulomb: times pi/2)", c["cf"], 0.0), ("offset", "N*m", "offset", c["offset"], -np.inf))
    parameters = tuple(Parameter(name, unit, meaning, start, low, np.inf) for name, unit, meaning, start, low in free)

    def effort(q: Any, v: Any, a: Any, p: Symbols) -> Any:
        return p["I"] * a - p["mu"] * c["g"] * ca.sin(q) + p["b"] * v + p["cf"] * smooth_sign(v) + p["offset"]

    def applied(u: Any, p: Symbols) -> Any:
        return c["gear"] * u[command]

    def system(values: Mapping[str, float]) -> dict[str, float]:
        return {"I": values["I"], "l": values["mu"] / c["m"], **{name: values[name] for name in ("b", "cf", "offset")}}

    return Mechanism("pendulum", known.order[:1], known.order[1:], effort, applied, parameters, lambda p: [], system, np.array([True]))
