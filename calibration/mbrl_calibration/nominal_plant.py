"""A plant from a mechanism's equations, for robots that have no MJCF and for what is planned before one is simulated."""

from __future__ import annotations

import math
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import mechanism
from mbrl_calibration.mechanism import Mechanism
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec

LONGEST_STEP_S = 0.01
STABLE = 2.0
"""Greatest step times eigenvalue: Runge-Kutta of order 4 is stable on the real axis to 2.78."""


def substeps(m: Mechanism, spec: RobotSpec, values: np.ndarray) -> int:
    """Integration steps per tick for which the friction's steep slope at rest stays stable."""
    x, u, p = ca.SX.sym("x", 2 * m.count), ca.SX.sym("u", spec.action_dim), ca.SX.sym("p", len(m.parameters))
    slope = ca.Function("slope", [x, u, p], [ca.jacobian(mechanism.forward(m, spec.action_dim)(x, u, p), x)])
    stiff = np.abs(np.linalg.eigvals(np.array(slope(np.zeros(2 * m.count), spec.action_zero, values)))).max()
    return math.ceil(spec.tick_s / min(LONGEST_STEP_S, STABLE / max(float(stiff), 1e-9)))


class NominalPlant:
    """A mechanism under commands, each in force for a tick and `delay_s` later, rounded to whole ticks.

    Args:
        m: the mechanism.
        spec: the robot.
        start: [S] where `reset` puts it.
        values: [P] its parameters; by default those that the search begins with.

    Raises:
        UserError: signals of the state that the mechanism does not have.
    """

    def __init__(self, m: Mechanism, spec: RobotSpec, start: np.ndarray, values: np.ndarray | None = None) -> None:
        if set(range(spec.state_dim)) - {*m.positions.tolist(), *m.rates.tolist()}:
            raise UserError(f"robot '{spec.name}': its equations '{m.name}' do not give all of its state; give it a `sim` to play in")
        self.spec, self.mechanism, self.start = spec, m, start
        self.values = m.start if values is None else values
        self._order = np.concatenate((m.positions, m.rates))
        self._step: Any = mechanism.step(m, spec.action_dim, spec.tick_s, substeps(m, spec, self.values))
        self._delay = np.round(spec.delays * spec.rate_hz).astype(int)
        self.place(start)

    def place(self, state: np.ndarray) -> np.ndarray:
        """To an exact state [S] with no command under way. Returns it."""
        self._state = np.array(state, dtype=float)
        self._sent = np.tile(self.spec.action_zero, (int(self._delay.max()) + 1, 1))
        return self.state()

    def reset(self, rng: np.random.Generator) -> np.ndarray:
        """To the start. Returns the state [S]."""
        return self.place(self.start)

    def state(self) -> np.ndarray:
        """[S] now."""
        return self._state.copy()

    @property
    def acting(self) -> np.ndarray:
        """[A] the command in force."""
        return np.asarray(self._sent[self._delay, np.arange(self.spec.action_dim)])

    def step(self, command: np.ndarray, dt: float) -> np.ndarray:
        """Hold a command [A] for a tick. Returns the state [S] after it.

        Raises:
            UserError: dt is no tick, or the motion is not finite.
        """
        if abs(dt - self.spec.tick_s) > 1e-9:
            raise UserError(f"dt = {dt:g} s: the equations of '{self.spec.name}' are stepped by its tick of {self.spec.tick_s:g} s")
        self._sent = np.concatenate((command[None], self._sent[:-1]))
        self._state[self._order] = np.array(self._step(self._state[self._order], self.acting, self.values)).ravel()
        if not np.isfinite(self._state).all():
            raise UserError(f"the equations of '{self.spec.name}' became unstable; use smaller command limits or a faster `rate_hz`")
        return self.state()
