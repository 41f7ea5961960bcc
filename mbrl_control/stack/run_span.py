"""When a timed run is over: by what was recorded of it, and by this machine's clock where nothing is recorded any more."""

from __future__ import annotations

LAG_S = 2.0
"""What the recording may be behind: its recorder's time to write, and the seconds in which another one takes over."""


class RunSpan:
    """A run's time from its first command on.

    Args:
        duration_s: how long it is to last.
    """

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s
        self._first: float | None = None

    def over(self, recorded_s: float | None, now: float) -> bool:
        """Whether the run has lasted long enough; call it a few times a second.

        Args:
            recorded_s: s from the first command to the newest that was recorded; None before there is one.
            now: s, monotonic.
        """
        if recorded_s is None:
            return False
        if self._first is None:
            self._first = now
        return recorded_s >= self._duration_s or now - self._first >= self._duration_s + LAG_S
