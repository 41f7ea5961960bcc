"""What happened of late, as successive requests for plans tell it: states measured and commands sent."""

from __future__ import annotations

import math

import numpy as np

from mbrl_control.data.sequences import Sequences, Trace
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.robot import RobotSpec

ROUGH_PERIODS = 1.5
"""Between states further apart than so many plan periods nothing is interpolated: held-out data was looked at once a period too."""


class History:
    """States and commands of the last seconds.

    A request tells commands of before its state and those that will have been sent when its plan begins; later requests overrule what
    earlier ones expected. One that does not reach back to the state of the request before, or is older, begins a new history: the
    robot was put back to its start, or requests passed by for long.

    Args:
        spec: the robot.
        seconds: kept.
    """

    def __init__(self, spec: RobotSpec, seconds: float) -> None:
        self.spec, self.seconds = spec, seconds
        tick = spec.tick_s
        self._rough = ROUGH_PERIODS * tick * max(1, round(spec.rate_hz / spec.plan_hz))
        self._reach = float(spec.delays.max())
        self._slack = 0.5 * tick
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._time, self._state = np.empty(0), np.empty((0, self.spec.state_dim))
        self._sent_time, self._sent = np.empty(0), np.empty((0, self.spec.action_dim))

    def add(self, request: PlanRequest) -> None:
        """Take in a request; one whose state is not newer than the last one's tells of commands only."""
        last = self._time[-1] if len(self._time) else -np.inf
        reach = request.sent_time[0] if len(request.sent_time) else np.inf
        if reach > last + self._slack or request.state_time < last:
            self.clear()
            last = -np.inf
        since = request.state_time - self.seconds
        if request.state_time > last:
            kept = self._time >= since
            self._time = np.append(self._time[kept], request.state_time)
            self._state = np.append(self._state[kept], request.state[None], axis=0)
        if len(request.sent_time):
            kept = (self._sent_time < reach) & (self._sent_time >= since - self._reach - self.spec.model_dt)
            self._sent_time = np.append(self._sent_time[kept], request.sent_time)
            self._sent = np.append(self._sent[kept], request.sent, axis=0)

    def latest(self) -> Sequences:
        """The model step that ends with the newest state; none when it is not known."""
        return self._known(self._time[-1:] - self.spec.model_dt, 1)

    def leading_to(self, time: float, state: np.ndarray, steps: int) -> Sequences:
        """The model steps that end in a state to come, as one stretch of at most `steps`; none where not even one is known.

        Args:
            time: of that state, s; not before the newest one known.
            state: [S] as predicted.
            steps: at most.
        """
        dt, known, count = self.spec.model_dt, self._time < time - 1e-9, 0
        times = np.append(self._time[known], time)
        if len(self._sent_time):
            jumps = np.flatnonzero(np.diff(times[:-1]) > self._rough)
            first = max(times[jumps[-1] + 1 if len(jumps) else 0], self._sent_time[0] + self._reach)
            count = max(0, min(steps, math.floor((time - first) / dt + 1e-6)))
        trace = Trace(times, np.vstack([self._state[known], state]), self._sent_time, self._sent)
        return trace.stretches(np.full(min(1, count), time - count * dt), count, self.spec)

    def stretches(self, steps: int, count: int) -> Sequences:
        """At most `count` stretches of `steps` model steps, spread evenly over what is known."""
        found = self._known(self._time, steps)
        return found.select(np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))) if len(found) > count else found

    def _known(self, starts: np.ndarray, steps: int) -> Sequences:
        """Those of the stretches for which states and commands are known throughout."""
        ends, time = starts + steps * self.spec.model_dt, self._time
        first = max(time[0], self._sent_time[0] + self._reach) if len(time) and len(self._sent_time) else np.inf
        inside = (starts >= first - 1e-9) & (ends <= time[-1:].max(initial=-np.inf) + 1e-9)
        starts, ends = starts[inside], ends[inside]
        rough = np.concatenate([[0], np.cumsum(np.diff(time) > self._rough)])
        begun, over = np.searchsorted(time, starts + 1e-9, side="right") - 1, np.searchsorted(time, ends - 1e-9)
        fine = rough[np.maximum(begun, 0)] == rough[np.minimum(over, len(rough) - 1)]
        return Trace(time, self._state, self._sent_time, self._sent).stretches(starts[fine], steps, self.spec)
