"""Deadlines kept in one thread: ROS callbacks are served until shortly before each, and what was late is counted.

An rclpy timer skips missed periods silently and a second thread shares the interpreter lock, so neither is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

SERVE_UNTIL_S = 5e-4
"""Callbacks are no longer begun when the deadline is so near: most take less."""

SPIN_FROM_S = 2e-4
"""From here on the clock is polled, because a sleeping thread wakes up 0.1 ms late or worse."""


class Pacer:
    """Absolute deadlines on the monotonic clock.

    Args:
        period_s: time between deadlines.
        serve: waits for and executes at most one callback, for at most the given number of seconds.
        late_s: lateness from which a period counts as late.
    """

    def __init__(self, period_s: float, serve: Callable[[float], None], late_s: float) -> None:
        self.period_s = period_s
        self.deadline = time.monotonic() + period_s
        self.passed = self.deadline - period_s
        self.late = 0
        self.missed = 0
        self.lateness = Window()
        self._serve = serve
        self._late_s = late_s

    def wait(self) -> int:
        """Serve callbacks until the deadline.

        Returns:
            Periods that end now: 1 when on time; more when whole periods went by unserved. They are counted in
            `missed` and never made up for by a burst. `passed` is the last deadline gone by.
        """
        while (left := self.deadline - time.monotonic() - SERVE_UNTIL_S) > 0:
            self._serve(left)
        if (left := self.deadline - time.monotonic() - SPIN_FROM_S) > 0:
            time.sleep(left)
        while (now := time.monotonic()) < self.deadline:
            pass
        lateness = now - self.deadline
        self.lateness.add(lateness)
        self.late += lateness > self._late_s
        whole = int(lateness / self.period_s)
        self.missed += whole
        self.passed = self.deadline + whole * self.period_s
        self.deadline = self.passed + self.period_s
        return whole + 1

    def restart(self) -> None:
        """Begin anew from now; the time since the last deadline is not counted as late."""
        self.deadline = time.monotonic() + self.period_s


class Window:
    """The last `size` values of a figure, for percentiles."""

    def __init__(self, size: int = 1000) -> None:
        self._values = np.zeros(size)
        self._count = 0

    def add(self, value: float) -> None:
        """Append a value; the oldest is forgotten."""
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def summary(self) -> tuple[float, float, float]:
        """(median, 99th percentile, maximum); NaN without values."""
        if self._count == 0:
            return float("nan"), float("nan"), float("nan")
        values = self._values[: self._count]
        p50, p99 = np.percentile(values, [50, 99])
        return float(p50), float(p99), float(values.max())
