"""The known model as equations: a CasADi expression of xdot, integrated by Runge-Kutta for a batch of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mbrl_control.errors import UserError
from mbrl_control.models import equations
from mbrl_control.models.known import Array, KnownModel
from mbrl_control.robot import RobotSpec


@dataclass
class Options(equations.Options):
    """Which equations, and how the robot's signals stand in them.

    Attributes:
        system: `pendulum`, `cartpole`, `double_pendulum` or `car` (see `mbrl_control.models.expressions`); empty for the robot's
            `nominal` section and all that it says.
        parameters: physical parameters that differ from the system's defaults (or from `nominal`), by name, SI units.
        states: the robot's signal for each state of the system, in its order; empty where they have the same names.
        inputs: the robot's command for each input of the system, '' for one that is not driven; empty where they have the same names.
        substeps: Runge-Kutta steps per model step.
    """

    substeps: int = 4


class CasadiModel(KnownModel):
    """Equations of motion as a model."""

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        super().__init__(spec)
        who = "models 'casadi'"
        if options.substeps < 1:
            raise UserError(f"{who}: substeps = {options.substeps} must be at least 1")
        known = equations.of(spec, options, who)
        self.parameters, self.order, self.driven, self.command = known.parameters, known.order, known.driven, known.command
        self.input_dim = len(known.system.inputs)
        self.function = equations.integrator(known.system, known.parameters, self.dt, options.substeps)

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
