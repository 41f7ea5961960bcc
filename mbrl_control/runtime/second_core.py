"""Has the tick made on another core where its own stands still: the host took it away, or something more urgent holds it."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Sequence

from mbrl_control.priority import pin, urgent
from mbrl_control.runtime.cadence import Cadence

SHARE = 0.25
"""Of a period, after which a tick is taken for one that its core does not make."""
AWAY_S = 1.0
POLL_S = 1e-3
STACK_BYTES = 1 << 18
"""Of the thread: a process that has locked its memory has all of it in memory."""


class SecondCore:
    """A thread on other cores that looks after each deadline whether the thread which made this object has woken for it.

    If not, it binds that one to its own cores and wakes it there; a second later it lets it go back. So a core that stands still costs a
    quarter of a period, unless it stopped in the midst of a tick: what is stopped while it runs cannot be moved.

    To be made in the main thread of a process. SIGURG is used for waking: it means nothing to those that do not ask for it.

    Args:
        cadence: by which the calling thread waits.
        others: cores to move to, none of those that the calling thread is bound to.
        priority: SCHED_FIFO priority of the looking; without permission it goes on without.

    Attributes:
        moved: ticks that were moved so far.
    """

    def __init__(self, cadence: Cadence, others: Sequence[int], priority: int) -> None:
        self.moved = 0
        self._cadence, self._others, self._priority = cadence, list(others), priority
        self._own = sorted(os.sched_getaffinity(0))
        self._waiting, self._number = threading.get_ident(), threading.get_native_id()
        self._ended = False
        size = threading.stack_size(STACK_BYTES)
        try:
            self._thread = threading.Thread(target=self._watch, name="second core", daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(size)
        self._before = signal.signal(signal.SIGURG, lambda *_: None)
        signal.siginterrupt(signal.SIGURG, False)

    def stop(self) -> None:
        """Move nothing any more; takes no time."""
        self._ended = True

    def close(self) -> None:
        """End the looking; the calling thread is on its own cores again. Takes a period."""
        self.stop()
        self._thread.join()
        self._bind(self._own)
        signal.signal(signal.SIGURG, self._before or signal.SIG_DFL)

    def _watch(self) -> None:
        pin(self._others)
        urgent(self._priority)
        moved_for, back_at = math.nan, math.inf
        while True:
            due = self._cadence.next
            time.sleep(max(due + SHARE * self._cadence.period - time.monotonic(), POLL_S))
            if self._ended:
                return
            if self._cadence.next == due != moved_for:
                self._bind(self._others)
                signal.pthread_kill(self._waiting, signal.SIGURG)
                self.moved += 1
                moved_for, back_at = due, time.monotonic() + AWAY_S
            elif time.monotonic() >= back_at:
                self._bind(self._own)
                back_at = math.inf

    def _bind(self, cores: Sequence[int]) -> None:
        """The thread that ticks; where the cores are not to be had (any longer), it stays as it is."""
        with contextlib.suppress(OSError):
            os.sched_setaffinity(self._number, cores)


def beside(cadence: Cadence, others: Sequence[int], priority: int) -> SecondCore | None:
    """A `SecondCore` for the calling thread; None without other cores, where threads cannot be bound, where no thread is left to be had,
    and outside of the main thread, which alone may ask for signals."""
    if others and hasattr(os, "sched_setaffinity") and threading.current_thread() is threading.main_thread():
        with contextlib.suppress(RuntimeError):
            return SecondCore(cadence, others, priority)
    return None
