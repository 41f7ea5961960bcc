"""RunLog: what a run did, tick by tick, and what its planner and trainer did; reports and pictures are made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from mbrl_control.data.episodes import Episode
from mbrl_control.planning.plan import Verdict
from mbrl_control.stack.column import Column
from mbrl_control.training.trainer import Refit


class PlanFigures(Protocol):
    """What a report tells of a plan; see `mbrl_control.planning.plan.Plan`."""

    @property
    def verdict(self) -> Verdict:
        """How it came about."""
        ...

    @property
    def latency_s(self) -> float:
        """Seconds that it took."""
        ...

    @property
    def winner(self) -> str:
        """Source of what it plays."""
        ...


class PlanNote(NamedTuple):
    """The figures alone: in an hour the plans themselves would come to a gigabyte."""

    verdict: Verdict
    latency_s: float
    winner: str


class PlanNotes(Sequence[PlanNote]):
    """The figures of every plan, ten bytes each."""

    def __init__(self) -> None:
        self._verdict, self._latency, self._winner = Column(np.int8), Column(), Column(np.int8)
        self._names: list[str] = []

    def add(self, plan: PlanFigures) -> None:
        """Note a plan."""
        if plan.winner not in self._names:
            self._names.append(plan.winner)
        self._verdict.append(plan.verdict)
        self._latency.append(plan.latency_s)
        self._winner.append(self._names.index(plan.winner))

    def __len__(self) -> int:
        return len(self._verdict)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return PlanNote(Verdict(self._verdict[index]), self._latency[index], self._names[self._winner[index]])


@dataclass
class RunLog:
    """Rows of ticks, and the plans, refits and swaps between them. A day of them fits into the memory of a small computer.

    Attributes:
        time: s from the run's start.
        state: [S] per tick.
        command: [A] per tick.
        cost: stage cost per tick; of a row that stands for several their mean.
        mode: controller's mode per tick.
        faults: the faults behind it, as `mbrl_control.runtime.faults.mask` writes them.
        version: model version per tick.
        ticks: that a row stands for: 1 until the log was thinned.
        starts: tick numbers at which an episode begins.
        plans: every plan that arrived, or what a report needs of it.
        refits: every refit.
        swaps: (time, version) of every model swap.
        refused: snapshots refused before they were used.
        rolled_back: snapshots taken out of use again.
        reused: plan periods in which no new plan arrived and the last one was used on; None when the controller could not tell.
    """

    time: Column = field(default_factory=Column)
    state: Column = field(default_factory=Column)
    command: Column = field(default_factory=Column)
    cost: Column = field(default_factory=Column)
    mode: Column = field(default_factory=partial(Column, np.int8))
    faults: Column = field(default_factory=partial(Column, np.int64))
    version: Column = field(default_factory=partial(Column, np.int64))
    ticks: Column = field(default_factory=partial(Column, np.int32))
    starts: list[int] = field(default_factory=list)
    plans: Sequence[PlanFigures] = field(default_factory=list)
    refits: list[Refit] = field(default_factory=list)
    swaps: list[tuple[float, int]] = field(default_factory=list)
    refused: int = 0
    rolled_back: int = 0
    reused: int | None = 0

    def add(self, time: float, state: np.ndarray, command: np.ndarray, mode: int, version: int, faults: int = 0) -> None:
        """Add a tick."""
        self.time.append(time)
        self.state.append(state)
        self.command.append(command)
        self.mode.append(mode)
        self.faults.append(faults)
        self.version.append(version)
        self.ticks.append(1)

    def thin(self) -> None:
        """Let every second row go that differs in neither mode, faults nor model from the one before, which stands for both from now on.

        What a report counts and sums stays as it was. Call it again when there are too many rows: the older, the fewer they become.
        """
        count = len(self.time)
        go = np.arange(count) % 2 == 1
        for column in (self.mode, self.faults, self.version):
            go[1:] &= column.values[1:] == column.values[:-1]
        go[self.starts] = False
        go[-1:] = False  # what is behind the last tick may still become known
        gone, kept, ticks, cost = np.flatnonzero(go), np.flatnonzero(go) - 1, self.ticks.values, self.cost.values
        both = ticks[kept] + ticks[gone]
        cost[kept] = (cost[kept] * ticks[kept] + cost[gone] * ticks[gone]) / both
        ticks[kept] = both
        self.starts = [int(start - go[:start].sum()) for start in self.starts]
        for column in (self.time, self.state, self.command, self.cost, self.mode, self.faults, self.version, self.ticks):
            column.select(~go)

    def bounds(self) -> list[tuple[int, int]]:
        """First tick and end of each episode."""
        return list(zip(self.starts, [*self.starts, len(self.time)][1:], strict=True))

    def episodes(self) -> list[Episode]:
        """The data of each episode of at least two ticks."""
        return [Episode(np.array(self.time[a:b]), np.array(self.state[a:b]), np.array(self.command[a:b]),
                        model_version=np.array(self.version[a:b]), name=f"episode {i}")
                for i, (a, b) in enumerate(self.bounds()) if b - a > 1]
