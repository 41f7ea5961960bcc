"""Commands as a plant sees them: each acts from the physics step nearest its arrival, and none for longer than a timeout."""

from __future__ import annotations

from collections import deque

import numpy as np

_ROUNDING_S = 1e-9


class HeldCommand:
    """The command in force over time.

    Args:
        zero: [A] command in force before the first one and after the timeout.
        timeout_s: seconds that a command stays in force without a new one.
        step_s: physics step.

    Attributes:
        received: commands so far.
        timeouts: how often `zero` came into force for want of a command.
        silence_s: from the arrival of the last command to the beginning of the first step without it, at the last time-out. No step
            reaches beyond the time-out, so it is never longer than that.
    """

    def __init__(self, zero: np.ndarray, timeout_s: float, step_s: float) -> None:
        self.received = 0
        self.timeouts = 0
        self.silence_s = 0.0
        self._zero = zero
        self._timeout_s = timeout_s
        self._step_s = step_s
        self._current = zero
        self._expires = -np.inf
        self._waiting: deque[tuple[float, np.ndarray]] = deque()

    def arrive(self, time: float, command: np.ndarray) -> None:
        """A command [A] that arrived at `time`, s; times must not decrease."""
        self.received += 1
        self._waiting.append((time, command))

    def pieces(self, start: float, steps: int) -> list[tuple[np.ndarray, int]]:
        """What is in force over so many physics steps from `start`: (command [A], steps) in order, each longer than 0."""
        done: list[tuple[np.ndarray, int]] = []
        for k in range(steps):
            now = start + (k + 0.5) * self._step_s
            before = self._current
            while self._waiting and self._waiting[0][0] <= now:
                time, self._current = self._waiting.popleft()
                self._expires = time + self._timeout_s
            if self._expires < now + 0.5 * self._step_s - _ROUNDING_S and self._current is not self._zero:
                self._current = self._zero
                self.timeouts += 1
                self.silence_s = now - 0.5 * self._step_s - self._expires + self._timeout_s
            if done and self._current is before:
                done[-1] = (before, done[-1][1] + 1)
            else:
                done.append((self._current, 1))
        return done
