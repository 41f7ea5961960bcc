"""Cart-pole; lumped parameters of `mbrl_control.models.expressions`' cart-pole."""

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
    """The mechanism of a robot: mass M of both, moment mu and inertia I of the pole about its pivot, friction; gear known."""
    known = equations_of(spec)
    c, command = known.parameters, int(known.command[0])
    free = (("M", "kg", "m_cart + m_pole", c["m_cart"] + c["m_pole"]), ("mu", "kg*m", "m_pole l", c["m_pole"] * c["l"]),
            ("I", "kg*m^2", "I", c["I"]), ("b_cart", "N*s/m", "b_cart", c["b_cart"]), ("b_pole", "N*m*s/rad", "b_pole", c["b_pole"]),
            ("cf_cart", "N", "cf_cart (Coulomb: times pi/2)", c["cf_cart"]),
            ("cf_pole", "N*m", "cf_pole (Coulomb: times pi/2)", c["cf_pole"]))
    parameters = tuple(Parameter(name, unit, meaning, start, 0.0, np.inf) for name, unit, meaning, start in free)

    def effort(q: Any, v: Any, a: Any, p: Symbols) -> Any:
        cos, sin = ca.cos(q[1]), ca.sin(q[1])
        cart = p["M"] * a[0] + p["mu"] * (cos * a[1] - sin * v[1] ** 2) + p["b_cart"] * v[0] + p["cf_cart"] * smooth_sign(v[0])
        pole = p["mu"] * (cos * a[0] - c["g"] * sin) + p["I"] * a[1] + p["b_pole"] * v[1] + p["cf_pole"] * smooth_sign(v[1])
        return ca.vertcat(cart, pole)

    def applied(u: Any, p: Symbols) -> Any:
        return ca.vertcat(c["gear"] * u[command], 0.0)

    def system(values: Mapping[str, float]) -> dict[str, float]:
        pole = values["mu"] / c["l"]
        kept = ("I", "b_cart", "b_pole", "cf_cart", "cf_pole")
        return {"m_pole": pole, "m_cart": values["M"] - pole, **{name: values[name] for name in kept}}

    return Mechanism("cartpole", known.order[:2], known.order[2:], effort, applied, parameters,
                     lambda p: [p["M"] * p["I"] - p["mu"] ** 2], system, np.array([True, False]))
