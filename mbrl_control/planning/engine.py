"""Where a planner's iterations run: here directly, one tensor operation after the other; `graphs.py` has the other way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mbrl_control.planning.record import Record
from mbrl_control.planning.search import Problem, Search

if TYPE_CHECKING:
    from mbrl_control.planning.base import SamplingPlanner


@dataclass(frozen=True)
class Found:
    """What a plan's iterations came to, on the host.

    Attributes:
        record: costs and rows.
        kept: how many of the record's kept candidates are this plan's.
        figures: names of the planner's figures, in the record's order.
        uncaptured: iterations that should have been replayed and were not.
    """

    record: Record
    kept: int
    figures: list[str]
    uncaptured: int = 0


class Engine(Protocol):
    """Runs the iterations of one plan after the other.

    Attributes:
        slowest: s, the longest iteration of late; `closing` the longest `finish`.
    """

    slowest: float
    closing: float

    def capture(self, problem: Problem, search: Search) -> None:
        """Make plans of these shapes ready; they may take long now so that they do not later."""
        ...

    def begin(self, problem: Problem, search: Search, iterations: int) -> None:
        """Take over a plan's problem and the start of its search (both on the host)."""
        ...

    def iterate(self, i: int, final: bool) -> None:
        """Start iteration i."""
        ...

    def settle(self) -> None:
        """Wait until what was started is done."""
        ...

    def finish(self) -> Found:
        """End the plan after the iterations started, and wait for it."""
        ...


class Direct:
    """Runs a planner's iterations where the planner itself is."""

    def __init__(self, planner: SamplingPlanner) -> None:
        self.planner = planner
        self.slowest = self.closing = 0.0
        self._problem: Problem
        self._search: Search

    def capture(self, problem: Problem, search: Search) -> None:
        """Nothing to do: there is one plan to warm up, and the planner does that."""

    def begin(self, problem: Problem, search: Search, iterations: int) -> None:
        """See `Engine.begin`."""
        self.planner.reserve(problem, search, iterations)
        self._problem, self._search = problem, search

    def iterate(self, i: int, final: bool) -> None:
        """See `Engine.iterate`."""
        self.planner.iterate(self._search, self._problem, i, final)

    def settle(self) -> None:
        """It has run already."""

    def finish(self) -> Found:
        """See `Engine.finish`."""
        self.planner.close(self._search, self._problem)
        return Found(self.planner.record, len(self._search.kept), list(self._search.figures))
