"""What goes into a planner and what comes out: plain arrays, no torch, so that the control tick can hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class Verdict(IntEnum):
    """How a plan came about."""

    MET = 0
    EARLY_STOP = 1
    REUSED = 2
    FALLBACK = 3


@dataclass(frozen=True)
class PlanRequest:
    """What the planner is asked.

    Attributes:
        seq: number of the request; also chooses the noise, so a request replays to the same bits.
        state: [S] measured state.
        state_time: when it was measured, s.
        apply_time: when the plan's first action will be sent, s.
        sent_time: [K] when the commands already sent were sent, s, increasing.
        sent: [K, A] those commands.
        experience_s: seconds of data that the robot has collected (fades exploration).
    """

    seq: int
    state: np.ndarray
    state_time: float
    apply_time: float
    sent_time: np.ndarray
    sent: np.ndarray
    experience_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Actions as a function of time, and what the planner thinks of them.

    Attributes:
        seq: number of the request that it answers.
        start: time of the first action, s; action k is held over [start + k dt, start + (k + 1) dt).
        dt: model step, s.
        actions: [H, A] physical units, within limits.
        cost: predicted cost (risk included), summed over the horizon.
        verdict: how it came about.
        model_version: the model that it was planned with.
        iterations: iterations done.
        latency_s: seconds from request to plan.
        winner: proposal source that the result came from.
        carry: [R, H, A] rows that the next plan starts from (row 0 the nominal), in half ranges, on the grid of whole multiples of
            dt: cell 0 is the one that `start` lies in. So plans at any rate pass them on without smearing them.
        stats: further numbers, for reports.
        faults: what was found wrong with it or with its model: codes of `mbrl_control.runtime.faults.FAULTS`, in their order.
        idle: of each further proposal source of the planner: plans in a row that asked it in vain.
    """

    seq: int
    start: float
    dt: float
    actions: np.ndarray
    cost: float
    verdict: Verdict
    model_version: int
    iterations: int
    latency_s: float
    winner: str
    carry: np.ndarray
    stats: dict[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    idle: tuple[int, ...] = ()

    def at(self, time: float) -> np.ndarray | None:
        """[A] action held at `time`; the first before the start, None after the end."""
        cell = float(time - self.start) / self.dt + 1e-9
        return self.actions[int(max(cell, 0.0))] if cell < len(self.actions) else None


def cell(time: float, dt: float) -> tuple[int, float]:
    """The cell of the grid of whole multiples of dt that a time lies in, and how far in: [0, 1)."""
    whole = math.floor(time / dt + 1e-6)
    part = time / dt - whole
    return whole, part if part > 1e-6 else 0.0


def shift(rows: np.ndarray, dt: float, elapsed: float) -> np.ndarray:
    """Move held actions to a grid that starts `elapsed` seconds later; exact mean over each new cell, the last action held.

    Args:
        rows: [R, H, A] actions held for dt each.
        dt: cell length, s.
        elapsed: seconds from the old start to the new; negative counts as 0.

    Returns:
        [R, H, A].
    """
    horizon = rows.shape[1]
    cells = max(elapsed, 0.0) / dt
    whole = int(np.floor(cells + 1e-9))
    part = max(cells - whole, 0.0)
    index = np.minimum(np.arange(horizon) + whole, horizon - 1)
    if not part:
        return rows[:, index]
    after = np.minimum(index + 1, horizon - 1)
    return np.asarray((1.0 - part) * rows[:, index] + part * rows[:, after])
