"""Absolute-time cadence of the tick, and its statistics."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

SPIN_S = 2e-4
MOST_NOTED = 1000


class Cadence:
    """Deadlines on the monotonic clock: period k begins at start + k x period; a passed period is counted and skipped, never caught up.

    Args:
        period_s: of the tick.
        capacity: latenesses kept for the statistics.

    Attributes:
        missed_at: (deadline on the monotonic clock, lateness), both in seconds, of ticks so late that others were skipped; the first 1000.
    """

    def __init__(self, period_s: float, capacity: int = 1_000_000) -> None:
        self.period = period_s
        self._late = np.zeros(capacity, np.float32)
        self.ticks = 0
        self.missed = 0
        self.missed_at: list[tuple[float, float]] = []
        self.next = time.monotonic() + period_s

    def wait(self, idle: Callable[[float], None] | None = None) -> float:
        """Return at the next deadline, having called `idle(seconds left)` while there was time. Gives the deadline."""
        while (left := self.next - time.monotonic()) > SPIN_S:
            if idle is not None and left > 1.5e-3:
                idle(left - 1e-3)
            else:
                time.sleep(max(left - SPIN_S, 0.0))
        while time.monotonic() < self.next:
            pass
        deadline = self.next
        lateness = time.monotonic() - deadline
        self._late[self.ticks % len(self._late)] = lateness
        self.ticks += 1
        skipped = int(lateness // self.period)
        self.missed += skipped
        if skipped and len(self.missed_at) < MOST_NOTED:
            self.missed_at.append((deadline, lateness))
        self.next += (1 + skipped) * self.period
        return deadline

    def lateness_us(self) -> dict[str, float]:
        """p50, p99 and max of the lateness, microseconds."""
        late = self._late[: min(self.ticks, len(self._late))] * 1e6
        if not len(late):
            return {"p50": 0.0, "p99": 0.0, "max": 0.0}
        return {"p50": float(np.percentile(late, 50)), "p99": float(np.percentile(late, 99)), "max": float(late.max())}
