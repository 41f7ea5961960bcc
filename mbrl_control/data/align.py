"""From topics with clocks and rates of their own to episodes on one time grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import unwrap
from mbrl_control.intervals import Interval, overlaps
from mbrl_control.robot import RobotSpec, wrap_angle

GAP_S = 0.25
GAP_TICKS = 5
GAP_PERIODS = 3
# Beyond this a header clock is another clock than the receiver's, not a delay.
CLOCKS_DIFFER_S = 0.5
# With fewer messages a command topic has no rhythm: each is held until the next.
RHYTHM = 5

# A grid has no more rows than this for each message: two messages a century apart must not ask for all memory, and are no data.
ROWS_PER_MESSAGE = 1000


@dataclass(frozen=True)
class Stream:
    """Numbers of one topic.

    Attributes:
        topic: for notes.
        index: [K] their places in the state (or command) vector.
        time_ns: [N] int64, not necessarily in order.
        values: [N, K].
    """

    topic: str
    index: np.ndarray
    time_ns: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Clocks:
    """The times that one topic's messages carry, [N] int64 ns each; 0 where there is none."""

    topic: str
    stamp_ns: np.ndarray
    publish_ns: np.ndarray
    receive_ns: np.ndarray

    @property
    def lag_s(self) -> float:
        """Median of receipt minus stamp."""
        return float(np.median(self.receive_ns - self.stamp_ns)) / 1e9


def choose_times(topics: list[Clocks]) -> tuple[list[np.ndarray], list[str]]:
    """When each message was measured or sent, on one common clock.

    Header stamps where they can be trusted; else the time of sending, where recorded; else the time of receipt.

    Args:
        topics: all topics that go into an episode.

    Returns:
        [N] ns for each topic, and notes on what could not be used.
    """
    notes: list[str] = []
    usable = [_stamps_usable(c, notes) for c in topics]
    lags = [c.lag_s for c, ok in zip(topics, usable, strict=True) if ok]
    # all stamped by one other clock (a simulation's, say): then that clock serves as well
    common = all(usable) and bool(lags) and max(lags) - min(lags) < CLOCKS_DIFFER_S
    times = []
    for clocks, ok in zip(topics, usable, strict=True):
        if ok and (common or abs(clocks.lag_s) < CLOCKS_DIFFER_S):
            times.append(clocks.stamp_ns)
            continue
        if ok:
            notes.append(f"{clocks.topic}: header stamps are {clocks.lag_s:.6g} s away from the time of receipt (another clock); "
                         "the time of receipt is used")
        times.append(clocks.publish_ns if len(clocks.publish_ns) and clocks.publish_ns.all() else clocks.receive_ns)
    return times, notes


def _stamps_usable(clocks: Clocks, notes: list[str]) -> bool:
    n, filled = len(clocks.stamp_ns), int(np.count_nonzero(clocks.stamp_ns))
    if n == 0:
        return False
    if filled < n:
        if filled or n > 1:
            notes.append(f"{clocks.topic}: {n - filled} of {n} messages have no header stamp; the time of receipt is used")
        return False
    if len(np.unique(clocks.stamp_ns)) < max(2, n // 2) and n > 1:
        notes.append(f"{clocks.topic}: header stamps do not advance; the time of receipt is used")
        return False
    return True


@dataclass(frozen=True)
class _Ordered:
    stream: Stream
    time: np.ndarray  # [N] s from the origin, strictly increasing
    values: np.ndarray  # [N, K]
    median: float  # period, s; 0 with fewer than 2 messages


def _ordered(stream: Stream, origin_ns: int, notes: list[str]) -> _Ordered:
    order = np.argsort(stream.time_ns, kind="stable")
    ns = stream.time_ns[order]
    last = np.append(np.diff(ns) > 0, True) if len(ns) else np.empty(0, bool)
    if len(ns) - int(last.sum()):
        notes.append(f"{stream.topic}: {len(ns) - int(last.sum())} messages bear the same time as the next and are left out")
    time = (ns[last] - origin_ns) / 1e9
    return _Ordered(stream, time, stream.values[order][last], float(np.median(np.diff(time))) if len(time) > 1 else 0.0)


def gap_limit(spec: RobotSpec, period: float) -> float:
    """The longest time between two samples that is no gap, s; `period` is the topic's own."""
    return max(GAP_S, GAP_TICKS * spec.tick_s, GAP_PERIODS * period)


def _pieces(time: np.ndarray, limit: float, hold: float) -> list[Interval]:
    """Stretches without a gap above `limit`; each lasts `hold` beyond its last message."""
    breaks = np.flatnonzero(np.diff(time) > limit)
    starts, ends = np.append(0, breaks + 1), np.append(breaks, len(time) - 1)
    return [(float(time[a]), float(time[b]) + hold) for a, b in zip(starts, ends, strict=True)]


def _hold(source: _Ordered, at: np.ndarray) -> np.ndarray:
    """[M, K] the last values at or before each time (1 ns of tolerance for rounding)."""
    return source.values[np.clip(np.searchsorted(source.time, at + 1e-9, side="right") - 1, 0, None)]


def align(states: list[Stream], commands: list[Stream], spec: RobotSpec, name: str = "", notes: Iterable[str] = (),
          on_commands: bool = False, version: Stream | None = None, origin_ns: int | None = None) -> list[Episode]:
    """Put topics on one time grid, one episode per stretch without a gap.

    States are interpolated (angles around the circle), commands are held until the next. Time is in seconds from the first message.

    Args:
        states: streams that fill the state between them.
        commands: streams that fill the command between them.
        spec: the robot; gives the control period and which angles wrap.
        name: of the episodes; they are numbered.
        notes: to go with them.
        on_commands: rows are the instants at which commands were sent, if they come at about the control rate (else an even grid).
        version: [N, 1] model version by time, if known.
        origin_ns: when time is 0; by default at the first message.

    Returns:
        Episodes of two rows or more.
    """
    said = list(notes)
    everything = [*states, *commands]
    if not everything or any(not len(s.time_ns) for s in everything):
        return []
    origin = min(int(s.time_ns.min()) for s in everything) if origin_ns is None else origin_ns
    sensed = [_ordered(s, origin, said) for s in states]
    sent = [_ordered(s, origin, said) for s in commands]
    end = max(float(o.time[-1]) for o in (*sensed, *sent))
    valid = [(0.0, end)]
    for o in sensed:
        valid = overlaps(valid, _pieces(o.time, gap_limit(spec, o.median), 0.0))
    for o in sent:
        if len(o.time) < RHYTHM:
            said.append(f"{o.stream.topic}: {len(o.time)} command messages only; each is held until the next")
            valid = overlaps(valid, [(float(o.time[0]), end + spec.tick_s)])
        else:
            valid = overlaps(valid, _pieces(o.time, gap_limit(spec, o.median), o.median))
    clocked = on_commands and len(sent) == 1 and abs(sent[0].median - spec.tick_s) < 0.2 * spec.tick_s
    wraps = spec.wraps
    out: list[Episode] = []
    smoothed = [unwrap(o.values, wraps[o.stream.index]) for o in sensed]
    newest = _ordered(version, origin, []) if version is not None and len(version.time_ns) else None
    longest = ROWS_PER_MESSAGE * spec.tick_s * sum(len(o.time) for o in (*sensed, *sent))
    for low, high in [piece for piece in valid if piece[1] - piece[0] <= longest]:
        if clocked:
            grid = sent[0].time[(sent[0].time >= low - 1e-9) & (sent[0].time <= high + 1e-9)]
        else:
            grid = low + spec.tick_s * np.arange(int((high - low) / spec.tick_s + 1e-6) + 1)
        if len(grid) < 2:
            continue
        state, action = np.empty((len(grid), spec.state_dim)), np.empty((len(grid), spec.action_dim))
        for o, smooth in zip(sensed, smoothed, strict=True):
            for k, i in enumerate(o.stream.index):
                column = np.interp(grid, o.time, smooth[:, k])
                state[:, i] = wrap_angle(column) if wraps[i] else column
        for o in sent:
            action[:, o.stream.index] = _hold(o, grid)
        versions = None if newest is None else np.where(grid + 1e-9 >= newest.time[0], _hold(newest, grid)[:, 0], 0).astype(np.int64)
        out.append(Episode(grid, state, action, model_version=versions, name=f"{name}#{len(out)}", notes=tuple(said)))
    return out
