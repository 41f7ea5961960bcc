"""A mechanism as calibration sees it: efforts that are linear in lumped parameters, and the forward dynamics that follow from them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import mechanisms
from mbrl_control.errors import UserError, nearest
from mbrl_control.models.equations import Equations, Options, of
from mbrl_control.robot import RobotSpec

Symbols = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """A lumped parameter.

    Attributes:
        name: of it.
        unit: SI.
        meaning: what it is made of, in the system's own parameters.
        start: where the search begins.
        low, high: what is physically possible.
    """

    name: str
    unit: str
    meaning: str
    start: float
    low: float
    high: float


@dataclass(frozen=True)
class Mechanism:
    """effort(q, v, a, p) = applied(u, p), both linear in p.

    Attributes:
        name: of the system.
        positions, rates: [n] indices of the coordinates and their rates in the robot's state.
        effort: what the drives must bring up for accelerations a at q, v: [n] CasADi expressions of q, v, a and the parameters.
        applied: what they bring up for commands u: [n] expressions of u [A] and the parameters.
        parameters: [P] to be found.
        feasible: expressions of the parameters that are at least 0 for anything that can be built, such as the determinant of the
            mass matrix.
        system: parameters of the system of equations (see `mbrl_control.models.expressions`) for values of the lumped ones.
        driven: [n] whether a command acts on the coordinate.
    """

    name: str
    positions: np.ndarray
    rates: np.ndarray
    effort: Callable[[Any, Any, Any, Symbols], Any]
    applied: Callable[[Any, Symbols], Any]
    parameters: tuple[Parameter, ...]
    feasible: Callable[[Symbols], list[Any]]
    system: Callable[[Mapping[str, float]], dict[str, float]]
    driven: np.ndarray

    @property
    def count(self) -> int:
        """n."""
        return len(self.positions)

    @property
    def names(self) -> tuple[str, ...]:
        """[P] of the parameters."""
        return tuple(p.name for p in self.parameters)

    @property
    def start(self) -> np.ndarray:
        """[P] where the search begins."""
        return np.array([p.start for p in self.parameters])

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[P] least and greatest values."""
        return np.array([p.low for p in self.parameters]), np.array([p.high for p in self.parameters])

    def named(self, values: Any) -> dict[str, Any]:
        """Parameters by name, of a column or array [P]."""
        return {name: values[i] for i, name in enumerate(self.names)}


def build(spec: RobotSpec, base: Path | None = None) -> Mechanism:
    """The mechanism of a robot's `nominal` section.

    Args:
        spec: the robot.
        base: folder that files which the robot names are relative to.

    Raises:
        UserError: it has none, or names a system that calibration does not know.
    """
    known = sorted(m.name for m in pkgutil.iter_modules(mechanisms.__path__))
    if spec.nominal is None:
        raise UserError(f"robot '{spec.name}' has no key 'nominal'; calibration must be told which equations the robot follows, e.g. "
                        f"nominal: {{system: {known[0]}}} (known: {', '.join(known)})")
    if spec.nominal.system not in known:
        raise UserError(f"nominal.system = '{spec.nominal.system}' cannot be calibrated{nearest(spec.nominal.system, known)}")
    made: Mechanism = importlib.import_module(f"mbrl_calibration.mechanisms.{spec.nominal.system}").build(spec, base)
    return made


def equations_of(spec: RobotSpec) -> Equations:
    """The equations of a robot's `nominal` section."""
    return of(spec, Options(), "nominal")


def dry(rate: Any, scale: float = 100.0) -> Any:
    """Coulomb friction made smooth: atan(100 v), which tends to pi / 2 (the law of the double pendulum's own papers)."""
    return ca.atan(scale * rate)


def effort_function(m: Mechanism) -> Any:
    """CasADi function (q, v, a, p) to the efforts [n]."""
    q, v, a = (ca.SX.sym(name, m.count) for name in "qva")
    p = ca.SX.sym("p", len(m.parameters))
    return ca.Function("effort", [q, v, a, p], [m.effort(q, v, a, m.named(p))])


def regressor(m: Mechanism, commands: int) -> Any:
    """CasADi function (q, v, a, u) to Y [n, P] and y [n] with effort - applied = Y p - y for every p."""
    q, v, a, u = ca.SX.sym("q", m.count), ca.SX.sym("v", m.count), ca.SX.sym("a", m.count), ca.SX.sym("u", commands)
    p = ca.SX.sym("p", len(m.parameters))
    gap = m.effort(q, v, a, m.named(p)) - m.applied(u, m.named(p))
    at_zero = ca.substitute(gap, p, ca.SX.zeros(len(m.parameters)))
    return ca.Function("regressor", [q, v, a, u], [ca.jacobian(gap, p), -at_zero])


def forward(m: Mechanism, commands: int) -> Any:
    """CasADi function (x, u, p) to xdot, x = (q, v): the mass matrix is the efforts' slope in the accelerations."""
    x, u, p = ca.SX.sym("x", 2 * m.count), ca.SX.sym("u", commands), ca.SX.sym("p", len(m.parameters))
    q, v, a = x[: m.count], x[m.count:], ca.SX.sym("a", m.count)
    need = m.effort(q, v, a, m.named(p))
    mass = ca.jacobian(need, a)
    bias = ca.substitute(need, a, ca.SX.zeros(m.count))
    return ca.Function("forward", [x, u, p], [ca.vertcat(v, ca.solve(mass, m.applied(u, m.named(p)) - bias))])


def step(m: Mechanism, commands: int, dt: float, substeps: int) -> Any:
    """CasADi function (x, u, p) to x after dt by classical Runge-Kutta of order 4, u held."""
    f = forward(m, commands)
    x, u, p = ca.SX.sym("x", 2 * m.count), ca.SX.sym("u", commands), ca.SX.sym("p", len(m.parameters))
    h, y = dt / substeps, x
    for _ in range(substeps):
        k1 = f(y, u, p)
        k2 = f(y + h / 2 * k1, u, p)
        k3 = f(y + h / 2 * k2, u, p)
        k4 = f(y + h * k3, u, p)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return ca.Function("step", [x, u, p], [y])
