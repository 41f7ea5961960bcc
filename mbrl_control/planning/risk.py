"""From what each member predicts to one number per candidate: risk over returns, and what the members disagree on."""

from __future__ import annotations

import math

import torch

from mbrl_control.robot import PlannerSpec


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
