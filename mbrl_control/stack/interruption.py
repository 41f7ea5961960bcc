"""Being asked to end (Ctrl-C, SIGTERM, a closed terminal) only where nothing is cut in half."""

from __future__ import annotations

import signal
from types import TracebackType

from mbrl_control.stack.processes import signals


class Interruption:
    """While it is entered, signals are noted and nothing else; the work asks at the places where it may end. For the main thread.

    An exception out of a signal's handler comes anywhere: between two columns of a log, or between the start of a process and the note
    that there is one.

    Attributes:
        asked: whether an end has been asked for.
    """

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, *_: object) -> None:
        self.asked = True

    def __enter__(self) -> Interruption:
        signals(self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        signals(signal.SIG_DFL)

    def point(self) -> None:
        """A place where the work may end.

        Raises:
            KeyboardInterrupt: an end has been asked for.
        """
        if self.asked:
            raise KeyboardInterrupt
