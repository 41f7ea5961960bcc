"""A mechanism as calibration sees it: efforts that are linear in lumped parameters, and the forward dynamics that follow from them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import mechanisms
from mbrl_control.errors import UserError, nearest
from mbrl_control.models.equations import Equations, Options, of
from mbrl_control.models.expressions import smooth_sign, stiction
from mbrl_control.models.extras import STRIBECK_TERM
from mbrl_control.models.parameter import Parameter
from mbrl_control.robot import RobotSpec

Symbols = Mapping[str, Any]


@dataclass(frozen=True)
class Mechanism:
    """effort(q, v, a, p) = applied(u, p), both linear in those p that say so.

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
        actuators: whether `applied` holds terms of the drives: then what sensors measured of the commands cannot stand in their place.
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
    actuators: bool = False

    @property
    def count(self) -> int:
        """n."""
        return len(self.positions)

    @property
    def names(self) -> tuple[str, ...]:
        """[P] of the parameters."""
        return tuple(p.name for p in self.parameters)

    @property
    def nonlinear(self) -> tuple[str, ...]:
        """Names of the parameters in which efforts are not linear."""
        return tuple(p.name for p in self.parameters if not p.linear)

    def starting(self, values: Mapping[str, float]) -> Mechanism:
        """The same with other starts for some parameters, by name."""
        return replace(self, parameters=tuple(replace(p, start=values.get(p.name, p.start)) for p in self.parameters))

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
    return extended(made, spec) if spec.nominal.extras else made


def extended(m: Mechanism, spec: RobotSpec) -> Mechanism:
    """A mechanism with the terms of the robot's `nominal.extras`.

    Raises:
        UserError: the gain of a drive is asked for, and nothing that it could be told by is known.
    """
    known = equations_of(spec)
    more, own = known.extras, spec.nominal.known if spec.nominal is not None else []
    if "gain" in more.kinds and not any(p.start for p in m.parameters if p.name in own):
        raise UserError(f"nominal.extras: a drive's gain cannot be told apart from all masses and friction together; name one of "
                        f"{', '.join(m.names)} that is right under nominal.known, or leave 'gain' out")
    added = tuple(replace(term, start=known.parameters[term.name]) for term in more.terms)
    rates = known.system.rates if STRIBECK_TERM in more.kinds else ()

    def effort(q: Any, v: Any, a: Any, p: Symbols) -> Any:
        need = m.effort(q, v, a, p)
        each = [stiction(p, name, v[i]) * smooth_sign(v[i]) for i, name in enumerate(rates)]
        return need + ca.vertcat(*each) if each else need

    def applied(u: Any, p: Symbols) -> Any:
        return m.applied(more.acting(u, p), p)

    def system(values: Mapping[str, float]) -> dict[str, float]:
        return {**m.system(values), **{t.name: values[t.name] for t in more.terms}}

    return replace(m, effort=effort, applied=applied, parameters=m.parameters + added, system=system, actuators=more.actuators)


def equations_of(spec: RobotSpec) -> Equations:
    """The equations of a robot's `nominal` section."""
    return of(spec, Options(), "nominal")


def effort_function(m: Mechanism) -> Any:
    """CasADi function (q, v, a, p) to the efforts [n]."""
    q, v, a = (ca.SX.sym(name, m.count) for name in "qva")
    p = ca.SX.sym("p", len(m.parameters))
    return ca.Function("effort", [q, v, a, p], [m.effort(q, v, a, m.named(p))])


def regressor(m: Mechanism, commands: int, at: np.ndarray | None = None) -> Any:
    """CasADi function (q, v, a, u) to Y [n, P] and y [n] with effort - applied = Y p - y for every p.

    Parameters in which efforts are not linear have the values `at` [P] (by default their start), and columns of 0.
    """
    q, v, a, u = ca.SX.sym("q", m.count), ca.SX.sym("v", m.count), ca.SX.sym("a", m.count), ca.SX.sym("u", commands)
    p = ca.SX.sym("p", len(m.parameters))
    gap = m.effort(q, v, a, m.named(p)) - m.applied(u, m.named(p))
    held = [i for i, parameter in enumerate(m.parameters) if not parameter.linear]
    if held:
        fixed: Any = ca.SX(p)
        fixed[held] = ca.DM((m.start if at is None else at)[held])
        gap = ca.substitute(gap, p, fixed)
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
