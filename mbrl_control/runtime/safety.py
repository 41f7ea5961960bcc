"""The last stage before a command leaves: finite, within the limits, within the rates. Whatever was learned, this holds."""

from __future__ import annotations

import numpy as np

from mbrl_control.robot import RobotSpec


def safe_command(spec: RobotSpec, wanted: np.ndarray, last: np.ndarray, dt: float) -> tuple[np.ndarray, bool]:
    """Limit a command.

    Args:
        spec: limits and greatest rates.
        wanted: [A]; any numbers, also non-finite.
        last: [A] the command before, within the limits.
        dt: seconds since it was sent.

    Returns:
        [A] a command within limits and rates, and whether `wanted` had to be changed. A non-finite axis keeps its last value.
    """
    finite = np.isfinite(wanted)
    out = np.where(finite, wanted, last)
    out = np.clip(out, spec.action_low, spec.action_high)
    step = spec.action_max_rate * max(dt, 1e-12)  # not 0: an axis without a rate limit has none at any time, and inf x 0 is no number
    out = np.clip(out, last - step, last + step)
    out = np.clip(out, spec.action_low, spec.action_high)
    return out, not (finite.all() and np.array_equal(out, wanted))


def safe_action(spec: RobotSpec, state: np.ndarray | None, last: np.ndarray) -> np.ndarray:
    """[A] what the robot's YAML asks for when there is nothing better: `zero`, `hold`, `brake`.

    `brake` opposes the first rates of the state, one per command axis, by `brake_gain`; without a state it is `zero`.
    """
    if spec.safe_action == "hold":
        return last.copy()
    if spec.safe_action == "brake" and state is not None:
        rates = [i for _, i in spec.rate_pairs][: spec.action_dim]
        out = spec.action_zero.copy()
        out[: len(rates)] -= spec.brake_gain * state[rates]
        return np.asarray(np.clip(out, spec.action_low, spec.action_high))
    return spec.action_zero.copy()
