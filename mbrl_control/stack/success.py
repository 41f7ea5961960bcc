"""When a task counts as solved."""

from __future__ import annotations

import numpy as np

from mbrl_control.robot import RobotSpec, wrap_angle


def holds(spec: RobotSpec, state: np.ndarray) -> np.ndarray:
    """[...] bool: every condition of the robot's `success` holds in `state` [..., S]; False without conditions."""
    out = np.zeros(state.shape[:-1], bool)
    if spec.success is None:
        return out
    out[...] = True
    for condition in spec.success.conditions:
        i = spec.state_names.index(condition.signal)
        error = state[..., i] - condition.target
        out &= np.abs(wrap_angle(error) if spec.wraps[i] else error) < condition.within
    return out


def solved_at(spec: RobotSpec, time: np.ndarray, state: np.ndarray) -> float | None:
    """Time at which the conditions had first held for `hold_s` without a break; None if never.

    Args:
        spec: the robot.
        time: [T] s, of one episode.
        state: [T, S].
    """
    if spec.success is None or not len(time):
        return None
    good = holds(spec, state)
    since = time[0]
    before = False
    for t, ok in zip(time, good, strict=True):
        if ok and not before:
            since = t
        if ok and t - since >= spec.success.hold_s - 1e-9:
            return float(t)
        before = bool(ok)
    return None
