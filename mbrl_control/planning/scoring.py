"""What commands cost by a model: over the paths that they lead along, or on the way where that is enough."""

from __future__ import annotations

import torch

from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning import risk
from mbrl_control.planning.rollout import Propagation, price, rollout
from mbrl_control.planning.search import Problem
from mbrl_control.schema import PlannerSpec


def expected(planner: PlannerSpec, model: Model, cost: Cost, ranged: risk.Ranges | None, problem: Problem, actions: torch.Tensor,
             propagation: Propagation, rng: torch.Generator) -> torch.Tensor:
    """Risk-aggregated cost of commands, with what the members disagree on and what lies beyond ranges.

    Args:
        planner: weights and kind of risk.
        model: what will happen.
        cost: what is wanted.
        ranged: ranges of the robot's signals; None without.
        problem: start, and scale of the disagreement (None where that does not count).
        actions: [N, H, A] physical units, as they are played.
        propagation: see `rollout`.
        rng: see `rollout`.

    Returns:
        [N], not finite where a path is not.
    """
    if ranged is None and problem.scale is None:
        returns = price(model, problem.start, actions, propagation, cost)
        if returns is not None:
            return risk.aggregate(returns, planner)
    states = rollout(model, problem.start, actions, propagation, rng)
    ahead = states[:, :, 1:]
    returns = cost.stage(ahead, actions[None]).sum(-1) + cost.terminal(states[:, :, -1])
    if ranged is not None:
        returns = returns + planner.range_weight * ranged(ahead)
    total = risk.aggregate(returns, planner)
    if problem.scale is not None and len(states) > 1:
        total = total + planner.disagreement * risk.disagreement(ahead, problem.scale)
    return total
