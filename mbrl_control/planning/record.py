"""What the turns of a plan found: written as tensors while it is made, read once at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

FIGURES = 4
"""Numbers of its own that a planner may report, and one for the spread."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a record.

    Attributes:
        turns: T, at most; a turn is one call of `Record.note`.
        rows: N candidates, at most.
        kept: K candidates handed on to the next plan, at most.
        horizon: H.
        axes: A.
    """

    turns: int
    rows: int
    kept: int
    horizon: int
    axes: int

    def holds(self, other: Shape) -> bool:
        """Whether a record of this shape has room for another's content, at the same addresses."""
        return self.turns >= other.turns and self.rows >= other.rows and self.kept >= other.kept


class Record:
    """One flat buffer, so that it crosses from device to host in one copy, and views into it; actions in half ranges.

    Attributes:
        shape: T, N, K, H, A.
        flat: all of it, float32.
        costs: [T, N] of each turn's candidates; NaN where there were fewer.
        best: [T, H, A] each turn's cheapest candidate.
        mean: [1, H, A] the refitted mean, within limits.
        mean_cost: [1] its cost.
        kept: [K, H, A] candidates handed on to the next plan.
        figures: [F] mean spread, then the planner's own figures.
    """

    def __init__(self, shape: Shape, device: torch.device, pinned: bool = False) -> None:
        self.shape = shape
        cells = (shape.horizon, shape.axes)
        parts = [(shape.turns, shape.rows), (shape.turns, *cells), (1, *cells), (1,), (shape.kept, *cells), (FIGURES,)]
        sizes = [math.prod(part) for part in parts]
        self.flat = torch.full((sum(sizes),), math.nan, device=device, pin_memory=pinned)
        views = [view.view(part) for view, part in zip(torch.split(self.flat, sizes), parts, strict=True)]
        self.costs, self.best, self.mean, self.mean_cost, self.kept, self.figures = views

    def clear(self) -> None:
        """Forget the turns; what `note` and `close` write anew is left as it is."""
        self.costs.fill_(math.nan)

    def note(self, turn: int, rows: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
        """Keep a turn's costs [N] and the cheapest of its rows [N, H, A]; gives the least cost, 0-d."""
        least, winner = costs.min(0, keepdim=True)
        self.costs[turn, : len(costs)].copy_(costs)
        torch.index_select(rows, 0, winner, out=self.best[turn : turn + 1])
        return least[0]

    def close(self, kept: torch.Tensor, std: torch.Tensor, figures: list[torch.Tensor]) -> None:
        """Keep what is handed on [R, H, A], the last spread [K, A] and further figures."""
        self.kept[: len(kept)].copy_(kept)
        torch.stack([std.mean(), *figures], out=self.figures[: 1 + len(figures)])


@dataclass(frozen=True)
class Summary:
    """A record read on the host.

    Attributes:
        counts: [T] candidates of each turn.
        finite: least share, over the turns, of candidates with a finite cost.
        turn: in which the best one was found.
        winner: its number among the candidates of that turn.
        cost: its cost; inf when no cost is finite.
    """

    counts: np.ndarray
    finite: float
    turn: int
    winner: int
    cost: float

    @staticmethod
    def of(record: Record, turns: int) -> Summary:
        """Of the first turns of a record that is on the host."""
        costs = record.costs[:turns].numpy()
        there = ~np.isnan(costs)
        counts = there.sum(1)
        if not counts.any():
            return Summary(counts, 1.0, 0, 0, math.inf)
        least = np.where(there, costs, math.inf)
        turn, winner = divmod(int(least.argmin()), costs.shape[1])
        return Summary(counts, float(((least < math.inf).sum(1) / counts).min()), turn, winner, float(least[turn, winner]))
