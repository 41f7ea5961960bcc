"""What the planner's process is up to, and what to do about it: started, killed when it hangs, started again. Pure, on a given clock."""

from __future__ import annotations

import math

from mbrl_control.runtime.planner_events import Event, Order
from mbrl_control.runtime.restarts import PLANNER, RestartPolicy, Restarts

HANG_S = 2.0
HANG_PLANS = 20
START_S = 60.0
PREPARE_S = 180.0
NO_FAULTS: frozenset[str] = frozenset()
FAILING = frozenset({"planner_failing"})


class PlannerWatch:
    """Follows the worker by its events, by the requests that it was sent and the answers that came.

    A worker that is ready hangs when a request stays without an answer for two seconds or twenty plan periods, whichever is longer,
    while requests go on: it was stopped, or its computation does not end.

    Args:
        plan_period_s: time between requests, s.
        policy: of restarts.

    Attributes:
        pid: of the worker; 0 when there is none.
        starts: of workers so far.
    """

    def __init__(self, plan_period_s: float, policy: RestartPolicy = PLANNER) -> None:
        self.pid = self.starts = 0
        self.hang_s = max(HANG_S, HANG_PLANS * plan_period_s)
        self._going_on_s = max(1.0, 3 * plan_period_s)
        self._restarts = Restarts(policy)
        self._phase: Event | None = None
        self._since = -math.inf
        self._asked = self._last_asked = math.nan
        self._ordered: Order | None = None

    def sent(self, now: float) -> None:
        """A request was left for it."""
        self._last_asked = now
        if self._asked != self._asked:  # nan: none is open
            self._asked = now

    def answered(self) -> None:
        """A plan came."""
        self._asked = math.nan

    def event(self, event: Event, number: int, now: float) -> None:
        """Take in what happened.

        Args:
            event: what.
            number: process id or status, see `Event`.
            now: when it happened, s.
        """
        self._phase, self._since = event, now
        if event == Event.STARTED:
            self.pid, self.starts, self._ordered = number, self.starts + 1, None
        elif event == Event.ENDED:
            self.pid, self._ordered = 0, None
            self._restarts.ended(now)

    def order(self, now: float) -> Order | None:
        """What to tell the keeper now; each order is given once."""
        if self._ordered is not None:
            return None
        if self._phase is None or (self._phase == Event.ENDED and self.due(now)):
            self._ordered = Order.START
        elif self._phase != Event.ENDED and self._hangs(now):
            self._ordered = Order.KILL
        return self._ordered

    def due(self, now: float) -> bool:
        """Whether a worker that ended is to be started again."""
        return self._restarts.due(now)

    def faults(self, now: float) -> frozenset[str]:
        """Codes of `mbrl_control.runtime.faults` that are present: {"planner_failing"} after three ends within ten seconds."""
        return FAILING if self._restarts.tripped(now) else NO_FAULTS

    def _hangs(self, now: float) -> bool:
        lasted = now - self._since
        if self._phase == Event.STARTED:
            return lasted > START_S
        if self._phase == Event.PREPARING:
            return lasted > PREPARE_S
        # Without further requests (the robot's state is lost, or control was ended) nobody took the answers from the mailbox.
        going_on = now - self._last_asked <= self._going_on_s
        return self._phase == Event.READY and going_on and now - max(self._asked, self._since) > self.hang_s
