"""Clocks and rhythm of logs: offset and drift between clocks, jitter, and samples that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mbrl_calibration.runs import Run
from mbrl_control.data.bags import Columns, Recording
from mbrl_control.errors import DataError
from mbrl_control.messages import parts
from mbrl_control.robot import RobotSpec

BLOCKS = 100
"""Stretches whose quickest message stands for the clock: the others were only held up on the way."""

QUEUE = 10
"""Messages that may be held up together without one counting as lost."""

JUMP_S = 1e-3
"""Least step of a clock that is told."""


@dataclass(frozen=True)
class Rhythm:
    """How regularly samples come.

    Attributes:
        name: of the topic or file.
        count: samples.
        period_s: median time between two.
        jitter_s: 68 % of the times between two lie within so much of the period.
        late_s: 99 % of them do.
        longest_s: greatest time between two.
        longest_at_s: when it began, after the first sample.
        dropped: samples missing from the rhythm; those that come late and together are not.
        backwards: samples that bear a time at or before the one before.
    """

    name: str
    count: int
    period_s: float
    jitter_s: float
    late_s: float
    longest_s: float
    longest_at_s: float
    dropped: int
    backwards: int


@dataclass(frozen=True)
class ClockFit:
    """One clock read against another: reading = reference + offset + drift (reference - its first value).

    Attributes:
        name: of the topic, or of the two.
        clock, reference: which times, such as `stamp` and `receipt`.
        offset_s: of the clock at the first message, the least time under way included.
        low_s, high_s: ends of its 95 % interval.
        drift_ppm: how much faster the clock runs, 1e-6.
        low_ppm, high_ppm: ends of its 95 % interval.
        delay_s: median time under way beyond the least.
        late_s: 99 % of messages are under way for less than that beyond the least.
        problem: why offset and drift mean little; empty if they hold.
    """

    name: str
    clock: str
    reference: str
    offset_s: float
    low_s: float
    high_s: float
    drift_ppm: float
    low_ppm: float
    high_ppm: float
    delay_s: float
    late_s: float
    problem: str

    @property
    def drifts(self) -> bool:
        """Whether the two clocks run at different speeds, beyond doubt."""
        return not self.problem and (self.low_ppm > 0 or self.high_ppm < 0)


@dataclass(frozen=True)
class TopicTimes:
    """The times of one topic.

    Attributes:
        name: of it.
        receipt: its rhythm as received.
        stamp: its rhythm by header stamps; None without them.
        clock: header stamps against receipt; None without them.
        sending: header stamps against times of sending; None where either is not recorded.
    """

    name: str
    receipt: Rhythm
    stamp: Rhythm | None
    clock: ClockFit | None
    sending: ClockFit | None


def rhythm(name: str, time: np.ndarray) -> Rhythm:
    """How regularly samples come.

    Args:
        name: of the topic or file.
        time: [N] s, in order of arrival.

    Raises:
        DataError: fewer than 3 samples.
    """
    if len(time) < 3:
        raise DataError(f"{name}: {len(time)} samples have no rhythm; at least 3 are needed")
    steps = np.diff(time)
    forward = steps[steps > 0]
    if not len(forward):
        raise DataError(f"{name}: its times do not advance from {time[0]:.9g} s on; look at the clock that stamps them")
    period, longest = float(np.median(forward)), int(np.argmax(steps))
    jitter, late = (float(x) for x in np.quantile(np.abs(steps - period), (0.68, 0.99)))
    return Rhythm(name, len(time), period, jitter, late, float(steps[longest]), float(time[longest] - time[0]),
                  _dropped(time, period), int((steps <= 0).sum()))


def _dropped(time: np.ndarray, period: float) -> int:
    """Steps of whole periods that do not come back: a late sample is made up for by the next ones, a lost one is not."""
    late = time - period * np.arange(len(time))
    padded = np.concatenate([late, np.full(QUEUE - 1, np.inf)])
    floor = np.lib.stride_tricks.sliding_window_view(padded, QUEUE).min(axis=1)
    return int(np.maximum(np.round(np.diff(floor) / period), 0).sum())


def compare(name: str, reading: np.ndarray, reference: np.ndarray, clock: str = "stamp", against: str = "receipt") -> ClockFit:
    """Offset and drift of a clock by the messages that were under way least.

    A message is stamped, then received: receipt less stamp is the offset between the clocks and the time under way, which is never
    below its least. So the quickest message of each block of time is kept, and a line is laid through these by the median of all
    slopes between two (Theil 1950; interval by Sen, JASA 63, 1968). On clocks and the lower envelope: Moon, Skelly & Towsley,
    INFOCOM 1999.

    Args:
        name: of the topic.
        reading: [N] s by the clock in question, earlier than `reference` on the way of a message.
        reference: [N] s by the other clock.
        clock, against: how the two are called.

    Raises:
        DataError: fewer than 3 messages, or not as many of both.
    """
    if len(reading) != len(reference) or len(reading) < 3:
        raise DataError(f"{name}: {len(reading)} times of {clock} and {len(reference)} of {against}; clocks need at least 3 of both")
    under_way = reference - reading
    since = reference - reference[0]
    quick = np.array([part[np.argmin(under_way[part])] for part in np.array_split(np.argsort(since, kind="stable"),
                                                                                 min(BLOCKS, len(since)))])
    x, y = since[quick], under_way[quick]
    if float(np.ptp(x)) <= 0:
        raise DataError(f"{name}: all {len(x)} times of {against} are the same; there is nothing to compare")
    slope, _, least, most = (float(v) for v in stats.theilslopes(y, x))
    rest = y - slope * x
    level, spread = float(np.median(rest)), 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    half = 1.96 * spread * float(np.sqrt(np.pi / 2 / len(x))) + 0.5 * (most - least) * float(np.median(x))
    beyond = under_way - slope * since
    beyond = beyond - beyond.min()
    return ClockFit(name, clock, against, -level, -level - half, -level + half, -1e6 * slope, -1e6 * most, -1e6 * least,
                    float(np.median(beyond)), float(np.quantile(beyond, 0.99)), _jump(x, rest, clock))


def _jump(x: np.ndarray, rest: np.ndarray, clock: str) -> str:
    """A sentence where the clock was set on the way: no line fits it then."""
    if len(x) < 8:
        return ""
    steps = np.diff(rest)
    scatter = 1.4826 * float(np.median(np.abs(steps - np.median(steps))))
    at = int(np.argmax(np.abs(steps)))
    before, after = rest[max(0, at - 3): at + 1], rest[at + 1: at + 5]
    lasting = float(np.median(after) - np.median(before))
    if abs(lasting) < max(JUMP_S, 8 * scatter):
        return ""
    return (f"the clock of '{clock}' was set by {-lasting:+.4g} s about {x[at + 1]:.4g} s after the start; offset and drift hold for "
            "neither side: cut the log there")


def between(one: ClockFit, two: ClockFit) -> ClockFit:
    """The first clock against the second, both known against the same third.

    Raises:
        DataError: they were not compared with the same clock.
    """
    if one.reference != two.reference:
        raise DataError(f"{one.name} was compared with {one.reference}, {two.name} with {two.reference}; compare both with the same clock")
    half_s = float(np.hypot(one.high_s - one.low_s, two.high_s - two.low_s)) / 2
    half_ppm = float(np.hypot(one.high_ppm - one.low_ppm, two.high_ppm - two.low_ppm)) / 2
    offset, drift = one.offset_s - two.offset_s, one.drift_ppm - two.drift_ppm
    return ClockFit(f"{one.name} - {two.name}", one.clock, f"{two.clock} of {two.name}", offset, offset - half_s, offset + half_s, drift,
                    drift - half_ppm, drift + half_ppm, one.delay_s, max(one.late_s, two.late_s), one.problem or two.problem)


def of_columns(name: str, columns: Columns) -> TopicTimes:
    """The times of one topic as it was read from a bag.

    Raises:
        DataError: fewer than 3 messages.
    """
    origin = int(columns.receive_ns[0]) if len(columns.receive_ns) else 0

    def seconds(ns: np.ndarray) -> np.ndarray:
        return np.asarray((ns - origin) / 1e9)  # integers first: float64 holds 1.7e18 ns to 256 ns only

    receipt = seconds(columns.receive_ns)
    stamped = len(columns.stamp_ns) > 0 and bool(columns.stamp_ns.all()) and len(np.unique(columns.stamp_ns)) > len(columns.stamp_ns) // 2
    sent = len(columns.publish_ns) > 0 and bool(columns.publish_ns.all())
    stamp = seconds(columns.stamp_ns)
    return TopicTimes(name, rhythm(name, receipt), rhythm(name, stamp) if stamped else None,
                      compare(name, stamp, receipt) if stamped else None,
                      compare(name, stamp, seconds(columns.publish_ns), against="sending") if stamped and sent else None)


def of_bag(recording: Recording, spec: RobotSpec) -> list[TopicTimes]:
    """The times of each topic that the robot's state and commands come from; topics with fewer than 3 messages are left out.

    Raises:
        DataError: a topic is recorded as another type, or may be one of several.
    """
    anything = np.full(spec.action_dim, np.inf)
    out = []
    for part in (*parts(spec.state, spec.state_low, spec.state_high), *parts(spec.command, -anything, anything)):
        found = recording.match(part.topic, part.reader.type)
        if found is None or recording.topics[found].count < 3:
            continue
        columns = recording.topics[found].columns(part.reader)
        if len(columns.values) >= 3:
            out.append(of_columns(found, columns))
    return out


def of_runs(runs: Sequence[Run]) -> list[Rhythm]:
    """The rhythm of each run, such as a CSV log's rows.

    Raises:
        DataError: a run has fewer than 3 samples.
    """
    return [rhythm(r.name, r.time) for r in runs]
