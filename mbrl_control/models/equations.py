"""A robot's signals in equations of motion, and these over a time step; without torch, so that the control tick can use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import casadi as ca
import numpy as np

from mbrl_control.errors import UserError, nearest
from mbrl_control.models import extras
from mbrl_control.models.expressions import SYSTEMS, System
from mbrl_control.models.extras import Extras
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Which equations, and how the robot's signals stand in them.

    Attributes:
        system: a key of `mbrl_control.models.expressions.SYSTEMS`; empty for the robot's `nominal` section and all that it says.
        parameters: physical parameters that differ from the system's defaults (or from `nominal`), by name, SI units.
        states: the robot's signal for each state of the system, in its order; empty where they have the same names.
        inputs: the robot's command for each input of the system, '' for one that is not driven; empty where they have the same names.
    """

    system: str = ""
    parameters: dict[str, float] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Equations:
    """Equations of motion and where a robot's signals stand in them.

    Attributes:
        system: the equations.
        parameters: all of them, by name, SI units.
        order: [S] index of the robot's signal for each state of the system.
        driven: indices of the inputs that the robot commands.
        command: index of the command for each of these.
        extras: terms of friction and drives that are in them besides.
    """

    system: System
    parameters: dict[str, float]
    order: np.ndarray
    driven: np.ndarray
    command: np.ndarray
    extras: Extras = field(default_factory=Extras)


def integrator(system: System, parameters: dict[str, float], dt: float, substeps: int) -> Any:
    """CasADi function (x, u) to x after dt: classical Runge-Kutta of order 4, u held."""
    x, u = ca.SX.sym("x", len(system.states)), ca.SX.sym("u", len(system.inputs))
    f = ca.Function("f", [x, u], [system.rate(x, u, parameters)])
    h, y = dt / substeps, x
    for _ in range(substeps):
        k1 = f(y, u)
        k2 = f(y + h / 2 * k1, u)
        k3 = f(y + h / 2 * k2, u)
        k4 = f(y + h * k3, u)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return ca.Function("step", [x, u], [y])


def of(spec: RobotSpec, options: Options, who: str) -> Equations:
    """The equations of a robot.

    Args:
        spec: the robot.
        options: which equations.
        who: start of error messages.

    Raises:
        UserError: no such system or parameter, or signals that do not fit its states and inputs.
    """
    kinds: list[str] = []
    if not options.system:
        if spec.nominal is None:
            raise UserError(f"{who}: option 'system' is missing, and '{spec.name}' has no key 'nominal'; give one of them "
                            f"(known systems: {', '.join(SYSTEMS)})")
        given = spec.nominal
        kinds = list(given.extras)
        options = replace(options, system=given.system, parameters={**given.parameters, **options.parameters},
                          states=options.states or given.states, inputs=options.inputs or given.inputs)
    if options.system not in SYSTEMS:
        raise UserError(f"{who}: system = '{options.system}' is not known{nearest(options.system, list(SYSTEMS))}")
    system = SYSTEMS[options.system]
    states = options.states or list(system.states)
    inputs = options.inputs or [name if name in spec.command_names else "" for name in system.inputs]
    if sorted(states) != sorted(spec.state_names) or len(states) != len(system.states):
        raise UserError(f"{who}: states of '{options.system}' are {', '.join(system.states)}; option 'states' must give the signal for "
                        f"each, out of {', '.join(spec.state_names)}; it gives {', '.join(states)}")
    if sorted(filter(None, inputs)) != sorted(spec.command_names) or len(inputs) != len(system.inputs):
        raise UserError(f"{who}: inputs of '{options.system}' are {', '.join(system.inputs)}; option 'inputs' must give the command "
                        f"for each ('' for none) and use all of {', '.join(spec.command_names)}; it gives {inputs}")
    driven = {name: system.inputs[i] for i, name in enumerate(inputs) if name}
    units = [spec.state[spec.state_names.index(states[system.states.index(rate)])].unit for rate in system.rates]
    added = extras.of(spec, kinds, system, [driven[name] for name in spec.command_names], units, who)
    system = extras.added(system, added)
    for name in options.parameters:
        if name not in system.parameters:
            raise UserError(f"{who}: system '{options.system}' has no parameter '{name}'{nearest(name, list(system.parameters))}")
    return Equations(system, {**system.parameters, **options.parameters}, np.array([spec.state_names.index(n) for n in states]),
                     np.array([i for i, n in enumerate(inputs) if n]), np.array([spec.command_names.index(n) for n in inputs if n]), added)


def drive(spec: RobotSpec) -> Callable[[np.ndarray], np.ndarray] | None:
    """What a robot's drives make of commands [A], in the commands' units; None where its `nominal` says nothing of it.

    For simulations that know the rest of the robot by themselves, such as an MJCF.

    Raises:
        UserError: see `of`.
    """
    if spec.nominal is None or not spec.nominal.extras:
        return None
    known = of(spec, Options(), "nominal")
    return (lambda u: np.array(known.extras.acting(u, known.parameters))) if known.extras.actuators else None
