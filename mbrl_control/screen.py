"""What a program that drives a robot says must not hold it up: its words go to the terminal through a thread of their own."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import queue
import sys
import threading
import time
from typing import TextIO

MOST_WAITING = 10_000
END_S = 2.0


class Screen(io.TextIOBase):
    """A text stream that never blocks and never fails, whatever reads it: what a slow reader leaves waiting is dropped, and what a reader
    that is gone would have got, too.

    Args:
        target: the stream whose descriptor is written to.
    """

    def __init__(self, target: TextIO) -> None:
        target.flush()
        self._target = target
        self._waiting: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._pass_on, name="screen", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The target's."""
        return self._target.encoding

    def isatty(self) -> bool:
        """Whether the target is a terminal."""
        return self._target.isatty()

    def fileno(self) -> int:
        """The target's descriptor."""
        return self._target.fileno()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Hand over some text; at once."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(text.encode(self.encoding, "replace"))
        return len(text)

    def _pass_on(self) -> None:
        gone = False
        while True:
            left = self._waiting.get()
            try:
                while left and not gone:
                    left = left[os.write(self.fileno(), left) :]
            except OSError:
                gone = True
            self._waiting.task_done()

    def finish(self, most_s: float = END_S) -> None:
        """Wait until all is written, but not for a reader that takes nothing for so long.

        Args:
            most_s: s.
        """
        end, before = time.monotonic() + most_s, self._waiting.unfinished_tasks
        while (left := self._waiting.unfinished_tasks) and time.monotonic() < end:
            if left < before:
                end, before = time.monotonic() + most_s, left
            time.sleep(0.005)


def detach() -> None:
    """From here on neither standard output nor standard error can hold this process up or end it; what they were told is written at its
    end as far as somebody reads it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.fileno()
        except (OSError, ValueError, AttributeError):
            continue  # closed, or a test's: nothing that could block
        if not isinstance(stream, Screen):
            screen = Screen(stream)
            setattr(sys, name, screen)
            atexit.register(screen.finish)
