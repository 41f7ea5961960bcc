"""Heartbeat: a process shows the one that started it that its work goes on, through a pipe, of which nothing is left after a kill."""

from __future__ import annotations

import contextlib
import os
import time

VARIABLE = "MBRL_HEARTBEAT"
EVERY_S = 0.25


def nothing() -> None:
    """For work that nobody watches."""


class Heartbeat:
    """The working side. Call it from the loop that does the work, not from a thread beside it: that would beat on while the work hangs.

    Without effect where the starter did not ask for it.
    """

    def __init__(self) -> None:
        told = os.environ.pop(VARIABLE, "")  # not for children of this process: to them the number is another file
        self._handle = int(told) if told.isdigit() else -1
        self._next = 0.0

    def __call__(self) -> None:
        """Beat; at most four times a second it costs more than a look at the clock."""
        now = time.monotonic()
        if self._handle < 0 or now < self._next:
            return
        self._next = now + EVERY_S
        with contextlib.suppress(OSError):  # nobody reads: the pipe is full, or the other side is gone
            os.write(self._handle, b".")


class Pulse:
    """The watching side.

    Args:
        now: when the process is started, s; monotonic.

    Attributes:
        handle: for the child, to be inherited by it; its number goes into the environment variable `VARIABLE`.
        heard: whether a beat had come when it was last listened for.
    """

    def __init__(self, now: float) -> None:
        self._mine, self.handle = os.pipe()
        os.set_blocking(self._mine, False)
        os.set_blocking(self.handle, False)
        self._last, self._waited = now, 0.0
        self.heard = False

    def started(self) -> None:
        """The child has its end now."""
        os.close(self.handle)

    def silence(self, now: float, waited: float = 0.0) -> float:
        """Seconds since the newest beat, or since the start, in which the process could have worked.

        Args:
            now: s, monotonic.
            waited: s, since its start, in which the process did not get the processor (`mbrl_control.priority.kept_waiting_s`): one that
                starves beside others does not hang.
        """
        with contextlib.suppress(BlockingIOError):
            if os.read(self._mine, 4096):
                self._last, self._waited, self.heard = now, waited, True
        return now - self._last - (waited - self._waited)

    def close(self) -> None:
        """Give up the pipe."""
        os.close(self._mine)
