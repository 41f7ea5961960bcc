"""Double pendulum with both joints driven, or one of them; lumped parameters of `mbrl_control.models.expressions`' double pendulum."""

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
    """The mechanism of a robot.

    What logs determine is the inertia J of link 1 with all that rides on it, the inertia I2, the rotors' Ir, and the moments mu1, mu2;
    masses and centres of mass only as their products (with l1, g and the gear ratio known).
    """
    known = equations_of(spec)
    c = known.parameters
    l1, g, gr = c["l1"], c["g"], c["gr"]
    of = {"J": c["I1"] + c["m2"] * l1**2 + (gr**2 + 1) * c["Ir"], "I2": c["I2"], "Ir": c["Ir"], "mu1": c["m1"] * c["r1"] + c["m2"] * l1,
          "mu2": c["m2"] * c["r2"], **{name: c[name] for name in ("b1", "b2", "cf1", "cf2")}}
    positive = [("J", "kg*m^2", "I1 + m2 l1^2 + (gr^2 + 1) Ir"), ("I2", "kg*m^2", "I2"), ("Ir", "kg*m^2", "Ir"),
                ("mu1", "kg*m", "m1 r1 + m2 l1"), ("mu2", "kg*m", "m2 r2"), ("b1", "N*m*s/rad", "b1"), ("b2", "N*m*s/rad", "b2"),
                ("cf1", "N*m", "cf1 (Coulomb: times pi/2)"), ("cf2", "N*m", "cf2 (Coulomb: times pi/2)")]
    parameters = tuple(Parameter(name, unit, meaning, of[name], 0.0, np.inf) for name, unit, meaning in positive)

    def effort(q: Any, v: Any, a: Any, p: Symbols) -> Any:
        cos, sin, h = ca.cos(q[1]), ca.sin(q[1]), p["mu2"] * l1
        coupling = p["I2"] + h * cos - gr * p["Ir"]
        low = p["mu2"] * g * ca.sin(q[0] + q[1])
        first = ((p["J"] + p["I2"] + 2 * h * cos) * a[0] + coupling * a[1] - h * sin * (2 * v[0] * v[1] + v[1] ** 2)
                 + p["mu1"] * g * ca.sin(q[0]) + low + p["b1"] * v[0] + p["cf1"] * smooth_sign(v[0]))
        second = (coupling * a[0] + (p["I2"] + gr**2 * p["Ir"]) * a[1] + h * sin * v[0] ** 2 + low + p["b2"] * v[1]
                  + p["cf2"] * smooth_sign(v[1]))
        return ca.vertcat(first, second)

    def applied(u: Any, p: Symbols) -> Any:
        inputs: list[Any] = [0.0, 0.0]
        for place, command in zip(known.driven, known.command, strict=True):
            inputs[int(place)] = u[int(command)]
        return ca.vertcat(*inputs)

    def feasible(p: Symbols) -> list[Any]:
        # M is positive definite for every q2 if it is so at 0 and at pi: its determinant is a parabola in cos q2 that opens downwards.
        first, second, h = p["J"] + p["I2"], p["I2"] + gr**2 * p["Ir"], p["mu2"] * l1
        return [(first + sign * 2 * h) * second - (p["I2"] + sign * h - gr * p["Ir"]) ** 2 for sign in (1, -1)]

    def system(values: Mapping[str, float]) -> dict[str, float]:
        m1, m2 = c["m1"], c["m2"]  # cannot be told from logs; kept
        return {**{name: values[name] for name in ("I2", "Ir", "b1", "b2", "cf1", "cf2")}, "r2": values["mu2"] / m2,
                "r1": (values["mu1"] - m2 * l1) / m1, "I1": values["J"] - m2 * l1**2 - (gr**2 + 1) * values["Ir"]}

    driven = np.isin(np.arange(2), known.driven)
    return Mechanism("double_pendulum", known.order[:2], known.order[2:], effort, applied, parameters, feasible, system, driven)
