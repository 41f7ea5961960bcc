"""From what each member predicts to one number per candidate: risk over returns, and what the members disagree on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from mbrl_control.robot import RobotSpec
from mbrl_control.schema import PlannerSpec


def aggregate(returns: torch.Tensor, planner: PlannerSpec) -> torch.Tensor:
    """[E, N] costs of whole rollouts to [N]. Risk is taken over returns, not per step: a step's worst member is nobody's future.

    `mean`; `std`: mean + k std over members; `cvar`: mean over the worst share of the members (Rockafellar and Uryasev 2000).
    """
    if planner.risk == "mean" or returns.shape[0] == 1:
        return returns.mean(0)
    if planner.risk == "std":
        return returns.mean(0) + planner.risk_weight * returns.std(0, correction=0)
    worst = max(1, math.ceil(planner.cvar_alpha * returns.shape[0] - 1e-9))
    return returns.topk(worst, dim=0).values.mean(0)


def disagreement(states: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[N] sum over steps of the members' spread, in typical one-step changes and averaged over the signals.

    Args:
        states: [E, N, H, S] predicted.
        scale: [S] typical one-step changes.
    """
    return (states.std(0, correction=0) / scale).mean(-1).sum(-1)


def roughness(rows: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """[N] sum of squared changes from one action to the next, and from the last command sent [A] to the first, of rows [N, H, A]."""
    return rows.diff(dim=1, prepend=last.expand(len(rows), 1, -1)).square().sum((1, 2))


@dataclass(frozen=True)
class Ranges:
    """How far states are outside of where the robot may be.

    Attributes:
        index: [R] signals that have a range.
        middle: [R] of it.
        half: [R] half of its width.
    """

    index: torch.Tensor
    middle: torch.Tensor
    half: torch.Tensor

    @staticmethod
    def of(spec: RobotSpec) -> Ranges | None:
        """The ranges of a robot; None where it has none."""
        index = np.flatnonzero(np.isfinite(spec.range_low))
        if not len(index):
            return None
        low, high = (torch.as_tensor(a[index], dtype=torch.float32) for a in (spec.range_low, spec.range_high))
        return Ranges(torch.as_tensor(index), (low + high) / 2, (high - low) / 2)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """[E, N] sum over steps and signals of the excess in half widths, of states [E, N, H, S]."""
        return (((states[..., self.index] - self.middle).abs() / self.half - 1.0).clamp(min=0.0)).sum((-1, -2))
