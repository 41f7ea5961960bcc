"""The operator's two ways in: an emergency stop, and a heartbeat whose loss counts as one."""

from __future__ import annotations

import math

_STOP, _LOST, _NONE = frozenset({"estop"}), frozenset({"heartbeat_lost"}), frozenset[str]()


class OperatorWatch:
    """Turns the operator's messages into faults.

    Args:
        heartbeat_s: the heartbeat is lost when none came for so long; 0: none is expected.
    """

    def __init__(self, heartbeat_s: float = 0.0) -> None:
        self._most = heartbeat_s or math.inf
        self._pressed = self._was_pressed = False
        self._beat: float | None = None

    def stop(self, pressed: bool) -> None:
        """The emergency stop's newest position."""
        self._pressed = pressed
        self._was_pressed |= pressed

    def begin(self) -> None:
        """Control begins: what counts of the emergency stop is its position now."""
        self._was_pressed = False

    def beat(self, now: float) -> None:
        """A heartbeat arrived, s on the tick's clock."""
        self._beat = now

    def faults(self, now: float) -> frozenset[str]:
        """Codes of the faults since the last call; call it once a tick. The first call starts the wait for the first heartbeat."""
        if self._beat is None:
            self._beat = now
        found = _STOP if self._pressed or self._was_pressed else _NONE
        self._was_pressed = False
        return found | _LOST if now - self._beat > self._most + 1e-9 else found
