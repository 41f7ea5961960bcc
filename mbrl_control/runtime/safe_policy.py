"""What the robot does when there is nothing better, where commands begin, and where it is held: by axis, from the robot's YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mbrl_control.robot import RobotSpec


@dataclass(frozen=True)
class SafePolicy:
    """The safe actions of all axes as one expression: `rest + keep * last - gain * state[rate]`, changing by `ramp` at most.

    `zero` sends the zero command. `hold` repeats the last one. `ramp` goes to zero within `ramp_s`. `brake` is by what the axis sets:
    an effort opposes its rate, a speed is zero, a position stays.

    Attributes:
        rest: [A] what is sent at rest, in the command's unit.
        keep: [A] 1 where the last command is repeated, else 0.
        gain: [A] command per unit of the rate; 0 where nothing is opposed.
        rate: [A] index of that rate in the state.
        ramp: [A] greatest change, command's unit per s; inf where only the axis' own rate limit acts.
        low, high: [A] limits of the commands.
    """

    rest: np.ndarray
    keep: np.ndarray
    gain: np.ndarray
    rate: np.ndarray
    ramp: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(spec: RobotSpec) -> SafePolicy:
        """The policy of a robot."""
        zero, low, high = spec.action_zero, spec.action_low, spec.action_high
        chosen = list(zip(spec.safe_actions, spec.axes, strict=True))
        keep = np.array([action == "hold" or (action == "brake" and axis.kind == "position") for action, axis in chosen])
        opposed = [axis.rate if action == "brake" and axis.kind == "effort" else None for action, axis in chosen]
        ramps = np.array([action == "ramp" for action, _ in chosen])
        return SafePolicy(
            rest=np.where(keep, 0.0, zero), keep=keep.astype(float),
            gain=np.array([0.0 if rate is None else spec.brake_gain for rate in opposed]), rate=np.array([rate or 0 for rate in opposed]),
            ramp=np.where(ramps, np.maximum(high - zero, zero - low) / spec.ramp_s, math.inf), low=low, high=high)

    def command(self, state: np.ndarray | None, last: np.ndarray, dt: float) -> np.ndarray:
        """The safe command.

        Args:
            state: [S] finite; None: nothing can be opposed, so `brake` on an effort is the zero command.
            last: [A] the command before.
            dt: seconds since it was sent, > 0.

        Returns:
            [A] within the limits; the axes' own rate limits are not applied.
        """
        out = self.rest + self.keep * last
        if state is not None:
            out -= self.gain * state[self.rate]
        step = self.ramp * dt
        return np.asarray(np.minimum(np.maximum(np.minimum(np.maximum(out, last - step), last + step), self.low), self.high))


def _measured(spec: RobotSpec, state: np.ndarray | None, else_: np.ndarray, kinds: tuple[str, ...]) -> np.ndarray:
    out = else_.copy()
    for k, axis in enumerate(spec.axes):
        if state is not None and axis.tracks is not None and axis.kind in kinds and math.isfinite(state[axis.tracks]):
            out[k] = state[axis.tracks]
    return np.asarray(np.clip(out, spec.action_low, spec.action_high))


def start_command(spec: RobotSpec, state: np.ndarray | None, last: np.ndarray) -> np.ndarray:
    """The command that the robot obeys already, so that control begins without a bump.

    Args:
        spec: the robot.
        state: [S] as measured; None before any.
        last: [A] the command sent last, which many robots obey for ever; the zero command when none was ever sent.

    Returns:
        [A] the measured position or speed on axes that set one which is measured, the last command on all others; cut to the limits.
    """
    return _measured(spec, state, last, ("position", "speed"))


def hold_command(spec: RobotSpec, state: np.ndarray | None, last: np.ndarray) -> np.ndarray:
    """The command to stay where the robot has come to rest; take it once, when it has, for it does not correct drift.

    Args:
        spec: the robot.
        state: [S] as measured; None when there is none to trust.
        last: [A] the last command.

    Returns:
        [A] the measured position on axes that set one, the last command on the others whose safe action is `hold`, else zero: a speed
        that is measured at rest is noise, and an effort that has braked would push.
    """
    policy = SafePolicy.of(spec)
    return _measured(spec, state, policy.rest + policy.keep * last, ("position",))
