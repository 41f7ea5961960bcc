"""Stamps on the monotonic clock: when a message was measured, whatever steps the system's clock makes meanwhile.

ROS time minus monotonic time is followed as one running offset. Where it changes between two looks by more than the clocks can drift,
this machine's clock was set. The source of a topic may live on this machine, and its stamps step too, or on another, and they do not: both
are tried on each message of the next second, and the one with which the message is as old as those before it is kept. So a
step of the clock costs no message, in either case.
"""

from __future__ import annotations

from mbrl_control.refusal import Refusal

LEAST_STEP_S = 0.005
TRANSITION_S = 1.0
MOST_READINGS = 8
_NS = 1e-9


class RosClock:
    """ROS time against monotonic time.

    Args:
        step_s: a change of their difference by more than this is a step of the clock and no drift.

    Attributes:
        base_ns: ROS time minus monotonic time without the steps since the first look, ns.
        steps: how many there were.
    """

    def __init__(self, step_s: float) -> None:
        self._step_ns = int(step_s * 1e9)
        self._offset_ns: int | None = None
        self._stepped_ns = 0
        self.base_ns = 0
        self.steps = 0

    def look(self, ros_ns: int, now_s: float) -> int:
        """Compare the clocks, read one right after the other. Returns the step since the last look in ns, 0 for none."""
        offset = ros_ns - round(now_s * 1e9)
        change = 0 if self._offset_ns is None else offset - self._offset_ns
        step = change if abs(change) > self._step_ns else 0
        self._offset_ns = offset
        self._stepped_ns += step
        self.steps += int(step != 0)
        self.base_ns = offset - self._stepped_ns
        return step


class TopicStamps:
    """Order and age of the stamps of one topic.

    Args:
        clock: that stamps are compared with.
        ahead_s: how far a stamp may lie in the future.
    """

    def __init__(self, clock: RosClock, ahead_s: float) -> None:
        self._clock, self._ahead_s = clock, ahead_s
        self._newest_ns: int | None = None
        self._lag_s = 0.0
        self._readings = [0]
        """What to take off stamps to be rid of the steps, the reading in use first."""
        self._settled_s = 0.0

    def stepped(self, step_ns: int, now_s: float) -> None:
        """This machine's clock made a step; the source's may have made it or not."""
        readings = [reading + more for reading in self._readings for more in (0, step_ns)]
        self._readings = list(dict.fromkeys(readings))[:MOST_READINGS]
        self._settled_s = now_s + TRANSITION_S

    def measured(self, stamp_ns: int, arrival_s: float) -> float | Refusal:
        """When a message was measured, s on the monotonic clock and not after its arrival; or why it is not taken.

        Args:
            stamp_ns: its header stamp.
            arrival_s: monotonic.
        """
        if len(self._readings) > 1:
            self._choose(stamp_ns, arrival_s)
        own = stamp_ns - self._readings[0]
        lag = arrival_s - (own - self._clock.base_ns) * _NS
        if lag < -self._ahead_s - 1e-6:
            return Refusal("stamp_future", f"its stamp lies {1e3 * -lag:.1f} ms in the future; {1e3 * self._ahead_s:.1f} ms are allowed")
        if self._newest_ns is not None and own <= self._newest_ns:
            if own == self._newest_ns:
                return Refusal("stamp_duplicate", "its stamp is that of the message before")
            return Refusal("stamp_disordered", f"its stamp is {1e-6 * (self._newest_ns - own):.1f} ms older than one that came before")
        self._newest_ns, self._lag_s = own, lag
        return arrival_s - max(lag, 0.0)

    def _choose(self, stamp_ns: int, arrival_s: float) -> None:
        def unlike(reading: int) -> float:
            return abs(arrival_s - (stamp_ns - reading - self._clock.base_ns) * _NS - self._lag_s)

        best = min(self._readings, key=unlike)
        self._readings = [best] if arrival_s >= self._settled_s else [best, *(r for r in self._readings if r != best)]
