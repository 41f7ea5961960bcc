"""Look ahead of the safety filter: what a command does to the robot when the safe action follows it, by a nominal model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mbrl_control import spec_checks
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.safe_policy import SafePolicy


class LookAhead(Protocol):
    """A nominal model under one command and then the safe action."""

    def __call__(self, state: np.ndarray, command: np.ndarray, sent: np.ndarray) -> np.ndarray:
        """What will be.

        Args:
            state: [S] as measured.
            command: [A] to be sent now, for one tick.
            sent: [D, A] commands sent before, the newest last.

        Returns:
            [K + 1, S] the state after the tick and after each step of the safe action; not finite where the model fails. Valid until
            the next call.
        """
        ...


@dataclass(frozen=True)
class Setting:
    """What a look ahead follows.

    Attributes:
        policy: the safe action.
        most_change: [A] greatest change of each command from step to step; inf where unlimited.
        delay: [A] ticks from command to effect.
        tick_s: how long the command acts, s.
        step_s: length of the steps after it, s.
        steps: K, how many these are.
        substeps: integration steps per tick and per step.
    """

    policy: SafePolicy
    most_change: np.ndarray
    delay: np.ndarray
    tick_s: float
    step_s: float
    steps: int
    substeps: int

    @staticmethod
    def of(spec: RobotSpec) -> Setting:
        """The setting of a robot."""
        step = spec_checks.look_ahead_step(spec)
        count = math.ceil(spec.safety.horizon_s / step - 1e-9)
        delay = np.ceil(spec.delays * spec.rate_hz - 1e-9).astype(int)
        return Setting(SafePolicy.of(spec), spec.action_max_rate * step, delay, spec.tick_s, step, count, spec.safety.substeps)

    def next_command(self, state: np.ndarray, last: np.ndarray) -> np.ndarray:
        """[A] the safe action within the rates, a step after the command `last` [A], in the state [S]."""
        wanted = self.policy.command(state, last, self.step_s)
        # Both are within the limits, so what lies between them is too.
        return np.asarray(np.minimum(np.maximum(wanted, last - self.most_change), last + self.most_change))


def build(spec: RobotSpec, base: Path | None = None) -> LookAhead:
    """The look ahead that a robot's `safety` section asks for. The model's package is imported only now.

    Args:
        spec: the robot.
        base: folder that `sim.mjcf` is looked up in first (that of the robot's YAML).

    Raises:
        UserError: the nominal model does not fit the robot.
    """
    if spec.safety.model == "casadi":
        from mbrl_control.runtime.look_ahead_casadi import CasadiLookAhead  # noqa: PLC0415

        return CasadiLookAhead(spec)
    from mbrl_control.runtime.look_ahead_mujoco import MujocoLookAhead  # noqa: PLC0415

    return MujocoLookAhead(spec, base)
