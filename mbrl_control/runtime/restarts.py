"""When a process that ends is started again, and when it has ended too often. Pure: the caller tells the time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RestartPolicy:
    """How a process is restarted.

    Attributes:
        pauses_s: from an end to the next start: after the first end within the window, the second, …; the last one counts on.
        most: so many ends within `window_s` trip the breaker.
        window_s: ends longer ago are forgotten.
    """

    pauses_s: tuple[float, ...]
    most: int
    window_s: float


PLANNER = RestartPolicy((0.05, 0.2, 0.5, 1.0, 2.0, 5.0), 3, 10.0)
RECORDER = RestartPolicy((0.0, 1.0, 5.0, 10.0, 20.0), 5, 600.0)
HELPER = RestartPolicy((0.5, 2.0, 5.0, 10.0, 20.0), 5, 600.0)


@dataclass
class Restarts:
    """The ends of one process.

    Args:
        policy: see there.

    Attributes:
        ends: when it ended, within the window, oldest first.
    """

    policy: RestartPolicy
    ends: list[float] = field(default_factory=list)

    def ended(self, now: float) -> None:
        """It ended at `now`, s; times must not decrease."""
        self.ends = [t for t in self.ends if t > now - self.policy.window_s] + [now]

    def due(self, now: float) -> bool:
        """Whether to start it again, having ended."""
        if not self.ends:
            return True
        pauses = self.policy.pauses_s
        return now >= self.ends[-1] + pauses[min(len(self.ends), len(pauses)) - 1] - 1e-9

    def tripped(self, now: float, more: int = 0) -> bool:
        """Whether it ended so often within the window that something is wrong with it, or would have, with so many ends more."""
        return more + sum(t > now - self.policy.window_s for t in self.ends) >= self.policy.most
