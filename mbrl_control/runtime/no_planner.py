"""The place of a planner's process where none is wanted: nothing is asked of it, and nothing comes from it."""

from __future__ import annotations

from collections import deque

import numpy as np

from mbrl_control.planning.plan import Plan, PlanRequest


class NoPlanner:
    """See `mbrl_control.runtime.process_link.ProcessLink`."""

    restarts = 0

    def __init__(self) -> None:
        self.answers: deque[np.ndarray] = deque()

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def check(self) -> bool:
        """All is as it should be."""
        return True

    def look(self) -> bool:
        """Nothing happens to it."""
        return True

    def faults(self, now: float) -> frozenset[str]:
        """None."""
        return frozenset()

    def send(self, request: PlanRequest) -> None:
        """Goes nowhere."""

    def receive(self, now: float) -> Plan | None:
        """Nothing."""
        return None
