"""From episodes at any rate to sequences on the model's own time grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mbrl_control.data.episodes import Episode
from mbrl_control.robot import RobotSpec, wrap_angle


@dataclass(frozen=True)
class Sequences:
    """M stretches of K model steps each.

    Attributes:
        state: [M, K + 1, S], wrapped angles kept continuous within a stretch.
        action: [M, K, A] mean of the command that was in effect during each model step (delays removed).
        start: [M] time of the first state, s.
    """

    state: np.ndarray
    action: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.state)

    def select(self, rows: np.ndarray) -> Sequences:
        """The stretches for which [M] `rows` holds."""
        return Sequences(self.state[rows], self.action[rows], self.start[rows])

    @staticmethod
    def join(parts: Iterable[Sequences]) -> Sequences:
        """All stretches of several sets with equal K."""
        sets = list(parts)
        return Sequences(*(np.concatenate([getattr(p, f) for p in sets]) for f in ("state", "action", "start")))


def unwrap(state: np.ndarray, wraps: np.ndarray) -> np.ndarray:
    """[T, S] with the wrapping angles made continuous along time."""
    out = state.copy()
    if wraps.any() and len(out):
        out[:, wraps] = np.unwrap(out[:, wraps], axis=0)
    return out


def effective_action(time: np.ndarray, action: np.ndarray, start: np.ndarray, dt: float, delays: np.ndarray) -> np.ndarray:
    """Mean command in effect over [start, start + dt], [M, A]: the exact integral of the zero-order hold, shifted by each axis' delay.

    Args:
        time: [T] when commands were sent, s, increasing.
        action: [T, A] those commands, each held until the next.
        start: [M] s.
        dt: s.
        delays: [A] from sending to effect, s.
    """
    widths = np.diff(time)
    total = np.vstack([np.zeros((1, action.shape[1])), np.cumsum(action[:-1] * widths[:, None], axis=0)])
    out = np.empty((len(start), action.shape[1]))
    for axis, delay in enumerate(delays):
        begin, end = start - delay, start + dt - delay

        def integral(at: np.ndarray, axis: int = axis) -> np.ndarray:
            cell = np.clip(np.searchsorted(time, at, side="right") - 1, 0, len(time) - 1)
            return np.asarray(total[cell, axis] + action[cell, axis] * (at - time[cell]))

        out[:, axis] = (integral(end) - integral(begin)) / dt
    return out


@dataclass(frozen=True)
class Trace:
    """States and commands, each at times of their own.

    Attributes:
        time: [T] of the states, s, increasing.
        state: [T, S] SI units.
        sent_time: [C] of the commands, s, increasing.
        sent: [C, A] as sent, each held until the next.
    """

    time: np.ndarray
    state: np.ndarray
    sent_time: np.ndarray
    sent: np.ndarray

    def stretches(self, starts: np.ndarray, steps: int, spec: RobotSpec) -> Sequences:
        """The stretches of `steps` model steps that begin at `starts` [M], s; all must lie within the states' times."""
        if not len(starts):
            return Sequences(np.empty((0, steps + 1, spec.state_dim)), np.empty((0, steps, spec.action_dim)), np.empty(0))
        dt = spec.model_dt
        smooth = unwrap(self.state, spec.wraps)
        state = np.empty((len(starts), steps + 1, spec.state_dim))
        action = np.empty((len(starts), steps, spec.action_dim))
        for k in range(steps + 1):
            at = starts + k * dt
            for i in range(spec.state_dim):
                state[:, k, i] = np.interp(at, self.time, smooth[:, i])
            if k < steps:
                action[:, k] = effective_action(self.sent_time, self.sent, at, dt, spec.delays)
        shift = wrap_angle(state[:, 0, spec.wraps]) - state[:, 0, spec.wraps]
        state[:, :, spec.wraps] += shift[:, None, :]
        return Sequences(state, action, starts)


def sequences(episode: Episode, spec: RobotSpec, steps: int = 1, stride_s: float | None = None, every: int = 1) -> Sequences:
    """Cut an episode into overlapping stretches on the model's grid.

    Args:
        episode: data at any rate, without gaps.
        spec: gives the model step, the delays and which angles wrap.
        steps: K, model steps per stretch.
        stride_s: time between starts; by default every sample starts one, so data faster than the model step is used whole.
        every: take only every so many-th state, as somebody who is told less often; commands all count.

    Returns:
        The stretches; none when the episode is shorter than one.
    """
    trace = Trace(episode.time[::every], episode.state[::every], episode.time, episode.action)
    dt, last = spec.model_dt, trace.time[-1] if len(episode) else -np.inf
    first = (trace.time[0] if len(episode) else 0.0) + spec.delays.max()
    starts = trace.time if stride_s is None else np.arange(first, last, stride_s)
    starts = starts[(starts >= first - 1e-9) & (starts + steps * dt <= last + 1e-9)]
    return trace.stretches(starts, steps, spec)


def within_range(data: Sequences, spec: RobotSpec) -> Sequences:
    """Stretches that stay within the states' ranges: what happens outside (a cart at its stop) follows other laws."""
    inside = ((data.state >= spec.range_low) & (data.state <= spec.range_high)).all((1, 2))
    return data.select(np.asarray(inside))
