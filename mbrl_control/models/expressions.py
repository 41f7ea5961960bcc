"""Equations of motion as CasADi expressions: pendulum, cart-pole, double pendulum, car."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import casadi as ca


@dataclass(frozen=True)
class System:
    """xdot = rate(x, u, p).

    Attributes:
        states: names of x; positions first, then their rates. SI units, radians.
        inputs: names of u.
        rate: from x (column), u (column) and p (by name) to xdot (column), all CasADi expressions.
        parameters: p with its default values.
        rates: names of the states whose friction may be more than viscous and Coulomb (see `mbrl_control.models.extras`).
    """

    states: tuple[str, ...]
    inputs: tuple[str, ...]
    rate: Callable[[Any, Any, dict[str, float]], Any]
    parameters: dict[str, float] = field(default_factory=dict)
    rates: tuple[str, ...] = ()


STIFF, STRIBECK = "stiction_", "stribeck_"
"""How the names of parameters of Stribeck friction begin; the name of a rate follows."""


def smooth_sign(rate: Any, scale: float = 100.0) -> Any:
    """Dry friction's direction made smooth: atan(100 v), which tends to pi / 2 (the law of the double pendulum's own papers)."""
    return ca.atan(scale * rate)


def stiction(p: Mapping[str, Any], name: str, rate: Any) -> Any:
    """What dry friction is greater by near rest, cs exp(-(v / vs)^2) (Stribeck's effect; Armstrong-Helouvry et al., "A survey of models,
    analysis tools and compensation methods for the control of machines with friction", Automatica 1994).

    Args:
        p: parameters by name.
        name: of the rate, for those of cs and vs.
        rate: v.
    """
    return p[STIFF + name] * ca.exp(-((rate / p[STRIBECK + name]) ** 2))


def dry(p: Mapping[str, Any], coulomb: str, name: str, rate: Any) -> Any:
    """Dry friction: Coulomb's, and where p has it `stiction`.

    Args:
        p: parameters by name.
        coulomb: name of Coulomb's.
        name: of the rate.
        rate: v.
    """
    level = p[coulomb] + stiction(p, name, rate) if STIFF + name in p else p[coulomb]
    return level * smooth_sign(rate)


def _pendulum(x: Any, u: Any, p: dict[str, float]) -> Any:
    """I theta'' = m g l sin(theta) - b theta' - cf atan(100 theta') + gear u - offset.

    theta = 0 upright, I about the pivot, l from the pivot to the centre of mass; negative l for an angle that is 0 hanging.
    """
    fall = p["m"] * p["g"] * p["l"] * ca.sin(x[0])
    torque = fall - p["b"] * x[1] - dry(p, "cf", "theta_dot", x[1]) + p["gear"] * u[0] - p["offset"]
    return ca.vertcat(x[1], torque / p["I"])


def _cartpole(x: Any, u: Any, p: dict[str, float]) -> Any:
    """Cart on a rail without ends; theta = 0 upright, I about the pole's pivot (Barto et al. 1983, with damping and dry friction)."""
    couple = p["m_pole"] * p["l"] * ca.cos(x[1])
    force = p["gear"] * u[0] - p["b_cart"] * x[2] - dry(p, "cf_cart", "x_dot", x[2]) + p["m_pole"] * p["l"] * ca.sin(x[1]) * x[3] ** 2
    torque = p["m_pole"] * p["g"] * p["l"] * ca.sin(x[1]) - p["b_pole"] * x[3] - dry(p, "cf_pole", "theta_dot", x[3])
    mass = p["m_cart"] + p["m_pole"]
    det = mass * p["I"] - couple**2
    return ca.vertcat(x[2], x[3], (p["I"] * force - couple * torque) / det, (mass * torque - couple * force) / det)


def _double_pendulum(x: Any, u: Any, p: dict[str, float]) -> Any:
    """M(q) q'' + C(q, q') q' + G(q) + F(q') = u; q1 from hanging, q2 relative to link 1, inertias about each link's joint.

    Wiebe et al., "Open source dual-purpose acrobot and pendubot platform", IEEE Robotics & Automation Magazine 2023: motors
    with rotor inertia Ir behind a gear ratio gr, the second one riding on link 1 (hence its kinetic energy
    Ir (q1' - gr q2')^2 / 2), viscous friction b and Coulomb friction cf atan(100 q'), which tends to cf pi / 2.
    """
    q1, q2, v1, v2 = (x[i] for i in range(4))
    h = p["m2"] * p["l1"] * p["r2"]
    m12 = p["I2"] + h * ca.cos(q2) - p["gr"] * p["Ir"]
    m11 = p["I1"] + p["I2"] + p["m2"] * p["l1"] ** 2 + 2 * h * ca.cos(q2) + (p["gr"] ** 2 + 1) * p["Ir"]
    m22 = p["I2"] + p["gr"] ** 2 * p["Ir"]
    coriolis = ca.vertcat(-h * ca.sin(q2) * (2 * v1 * v2 + v2**2), h * ca.sin(q2) * v1**2)
    g2 = p["m2"] * p["g"] * p["r2"] * ca.sin(q1 + q2)
    gravity = ca.vertcat((p["m1"] * p["r1"] + p["m2"] * p["l1"]) * p["g"] * ca.sin(q1) + g2, g2)
    friction = ca.vertcat(p["b1"] * v1 + dry(p, "cf1", "q1_dot", v1), p["b2"] * v2 + dry(p, "cf2", "q2_dot", v2))
    t = u - coriolis - gravity - friction
    det = m11 * m22 - m12**2
    return ca.vertcat(v1, v2, (m22 * t[0] - m12 * t[1]) / det, (m11 * t[1] - m12 * t[0]) / det)


def _car(x: Any, u: Any, p: dict[str, float]) -> Any:
    """Steered car that does not slide: yaw' = v tan(steering + offset) / (L + K v^2), v' = (gear command - v) / tau.

    Single-track model in steady state (Rajamani, Vehicle Dynamics and Control, section 3.3): wheelbase L, understeer K in s^2/m.
    """
    rate = x[3] * ca.tan(u[1] + p["offset"]) / (p["L"] + p["K"] * x[3] ** 2)
    return ca.vertcat(x[3] * ca.cos(x[2]), x[3] * ca.sin(x[2]), rate, (p["gear"] * u[0] - x[3]) / p["tau"])


SYSTEMS = {
    "pendulum": System(("theta", "theta_dot"), ("torque",), _pendulum, {
        "m": 1.0, "l": 0.5, "I": 1.0 / 3.0, "g": 10.0, "b": 0.0, "cf": 0.0, "gear": 1.0, "offset": 0.0}, ("theta_dot",)),
    # The control suite's; I is that of its pole, a capsule of radius 0.045 m, about the pivot.
    "cartpole": System(("x", "theta", "x_dot", "theta_dot"), ("force",), _cartpole, {
        "m_cart": 1.0, "m_pole": 0.1, "l": 0.5, "I": 0.0344245927672956, "g": 9.81, "b_cart": 5e-4, "b_pole": 2e-6, "gear": 10.0,
        "cf_cart": 0.0, "cf_pole": 0.0}, ("x_dot", "theta_dot")),
    # Identified on a real robot: DFKI underactuated lab, design C.1, model 1.0 (see the robots acrobot and pendubot).
    "double_pendulum": System(("q1", "q2", "q1_dot", "q2_dot"), ("torque1", "torque2"), _double_pendulum, {
        "m1": 0.5234602302310271, "m2": 0.6255677234174437, "l1": 0.2, "r1": 0.2, "r2": 0.25569305436052964,
        "I1": 0.031887199591513114, "I2": 0.05086984812807257, "Ir": 6.287203962819607e-05, "gr": 6.0, "g": 9.81,
        "b1": 0.001, "b2": 0.001, "cf1": 0.16, "cf2": 0.12}, ("q1_dot", "q2_dot")),
    "car": System(("x", "y", "yaw", "speed"), ("speed_command", "steering_angle"), _car, {
        "L": 0.4, "K": 0.0, "tau": 0.3, "gear": 1.0, "offset": 0.0}),
}
