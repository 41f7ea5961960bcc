"""Whether the robot follows its commands, where a state signal shows it: `tracks_within` of a command in the robot's YAML."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from mbrl_control.robot import RobotSpec, wrap_angle

TICKS = 10
AGAIN_S = 60.0
FOLLOWS: frozenset[str] = frozenset()
ONCE = frozenset({"no_response"})
AGAIN = frozenset({"no_response_again"})


class ResponseWatch:
    """Compares the state with the command that was in force when it was made, dead time taken off.

    While the robot brakes nothing is compared, so the fault is over as soon as it has had its effect, and a second later the robot is
    driven again. If it then fails to follow once more, it would do so for ever: the fault of a second time latches.

    Args:
        spec: the robot.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._command = np.array([a for a, _, _ in spec.tracked], dtype=int)
        self._state = np.array([s for _, s, _ in spec.tracked], dtype=int)
        self._within = np.array([w for _, _, w in spec.tracked])
        self._wraps = spec.wraps[self._state] if len(self._state) else np.zeros(0, dtype=bool)
        self._delays = spec.delays[self._command] if len(self._command) else np.zeros(0)
        keep = math.ceil((float(spec.delays.max()) + spec.state_timeout_s) * spec.rate_hz) + 2
        self._sent: deque[tuple[float, np.ndarray]] = deque(maxlen=keep)
        self._ticks = np.zeros(len(self._command), dtype=int)
        self._faults, self._last_s = FOLLOWS, -math.inf

    def tick(self, now_s: float, command: np.ndarray, state: np.ndarray | None, measured_s: float) -> None:
        """Take over a tick.

        Args:
            now_s: when its command was sent, monotonic.
            command: [A] as sent.
            state: [S] the newest, None when there is none to act on or the command is not the plan's: the count begins anew.
            measured_s: when that was measured, monotonic.
        """
        if not len(self._command):
            return
        if state is None:
            self._ticks[:] = 0
        else:
            for k in range(len(self._command)):
                wanted = self._in_force(measured_s - self._delays[k], int(self._command[k]))
                error = state[self._state[k]] - wanted
                far = abs(wrap_angle(error) if self._wraps[k] else error) > self._within[k]  # not so while nothing was sent: nan
                self._ticks[k] = self._ticks[k] + 1 if far else 0
        self._sent.append((now_s, command.copy()))
        if not (self._ticks >= TICKS).any():
            self._faults = FOLLOWS
        elif not self._faults:
            self._faults = AGAIN if now_s - self._last_s < AGAIN_S else ONCE
            self._last_s = now_s

    def _in_force(self, when_s: float, axis: int) -> float:
        """The command up to an instant: what was sent at that very instant has not had any effect yet."""
        return next((float(command[axis]) for at, command in reversed(self._sent) if at < when_s - 1e-9), math.nan)

    def faults(self) -> frozenset[str]:
        """{"no_response"} after ten ticks of too great an error, until it is small again or nothing is compared.

        {"no_response_again"} instead when that began less than a minute after it had begun before.
        """
        return self._faults
