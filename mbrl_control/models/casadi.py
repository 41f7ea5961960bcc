"""The known model as equations: a CasADi expression of xdot, integrated by Runge-Kutta for a batch of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import casadi as ca
import numpy as np

from mbrl_control.errors import UserError, nearest
from mbrl_control.models.expressions import SYSTEMS, System
from mbrl_control.models.known import Array, KnownModel
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Which equations, and how the robot's signals stand in them.

    Attributes:
        system: `pendulum`, `cartpole` or `double_pendulum` (see `mbrl_control.models.expressions`).
        parameters: physical parameters that differ from the system's defaults, by name, SI units.
        states: the robot's signal for each state of the system, in its order; empty where they have the same names.
        inputs: the robot's command for each input of the system, '' for one that is not driven; empty where they have the same names.
        substeps: Runge-Kutta steps per model step.
    """

    system: str = "cartpole"
    parameters: dict[str, float] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    substeps: int = 4


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


class CasadiModel(KnownModel):
    """Equations of motion as a model."""

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        super().__init__(spec)
        who = "models 'casadi'"
        if options.system not in SYSTEMS:
            raise UserError(f"{who}: system = '{options.system}' is not known{nearest(options.system, list(SYSTEMS))}")
        if options.substeps < 1:
            raise UserError(f"{who}: substeps = {options.substeps} must be at least 1")
        system = SYSTEMS[options.system]
        for name in options.parameters:
            if name not in system.parameters:
                raise UserError(f"{who}: system '{options.system}' has no parameter '{name}'{nearest(name, list(system.parameters))}")
        self.parameters = {**system.parameters, **options.parameters}
        states = options.states or list(system.states)
        inputs = options.inputs or [name if name in spec.command_names else "" for name in system.inputs]
        if sorted(states) != sorted(spec.state_names) or len(states) != len(system.states):
            raise UserError(f"{who}: states of '{options.system}' are {', '.join(system.states)}; option 'states' must give the signal for "
                            f"each, out of {', '.join(spec.state_names)}; it gives {', '.join(states)}")
        if sorted(filter(None, inputs)) != sorted(spec.command_names) or len(inputs) != len(system.inputs):
            raise UserError(f"{who}: inputs of '{options.system}' are {', '.join(system.inputs)}; option 'inputs' must give the command "
                            f"for each ('' for none) and use all of {', '.join(spec.command_names)}; it gives {inputs}")
        self.order = np.array([spec.state_names.index(n) for n in states])
        self.driven = np.array([i for i, n in enumerate(inputs) if n])
        self.command = np.array([spec.command_names.index(n) for n in inputs if n])
        self.input_dim = len(system.inputs)
        self.function = integrator(system, self.parameters, self.dt, options.substeps)

    def simulate(self, start: Array, actions: Array) -> Array:
        """See `KnownModel.simulate`."""
        count, horizon, _ = actions.shape
        inputs = np.zeros((horizon, self.input_dim, count))
        inputs[:, self.driven] = actions[..., self.command].transpose(1, 2, 0)
        batched = self.function.map(count)
        after = np.empty((count, horizon, self.state_dim))
        x = start[:, self.order].T
        for k in range(horizon):
            x = batched(x, inputs[k]).full()
            after[:, k, self.order] = x.T
        return np.where(np.isfinite(after).all(-1, keepdims=True), after, np.nan)


def build(spec: RobotSpec, options: Options) -> CasadiModel:
    """The equations of a robot."""
    return CasadiModel(spec, options)
