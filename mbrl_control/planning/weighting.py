"""Weights over candidates from their costs: the best one, the best few, or softly all. [N] costs in, [N] weights of sum 1 out."""

from __future__ import annotations

import math

import torch


def one_hot(costs: torch.Tensor) -> torch.Tensor:
    """All weight on the cheapest candidate."""
    weights = torch.zeros_like(costs)
    weights[costs.argmin()] = 1.0
    return weights


def elites(costs: torch.Tensor, count: int) -> torch.Tensor:
    """Equal weight on the `count` cheapest candidates whose cost is finite."""
    order = costs.topk(min(count, len(costs)), largest=False).indices
    weights = torch.zeros_like(costs)
    weights[order] = torch.isfinite(costs[order]).to(costs.dtype)
    return weights / weights.sum()


def softmax(costs: torch.Tensor, temperature: float) -> torch.Tensor:
    """exp(-(cost - least) / temperature), normalised (Williams et al. 2017, eq. 22); 0 for infinite costs."""
    return torch.softmax(-(costs - costs.min()) / temperature, 0)


def interquartile(costs: torch.Tensor) -> float:
    """Range of the middle half of the finite costs; the whole range where that is 0, and 1 where all are equal."""
    ordered = costs[torch.isfinite(costs)].sort().values
    last = len(ordered) - 1
    middle = float(ordered[math.ceil(0.75 * last)] - ordered[math.floor(0.25 * last)])
    return middle or float(ordered[last] - ordered[0]) or 1.0


def temperature_for(costs: torch.Tensor, ess: float, bounds: tuple[float, float] = (1e-3, 1e3), rounds: int = 24) -> float:
    """The softmax temperature at which the effective sample size 1 / sum w^2 (Kish 1965) is `ess`.

    Bisection in the logarithm, a fixed number of rounds, between bounds that are multiples of the interquartile range: the result
    scales with the costs, so that their unit does not matter, and one outlier (a collision) does not flatten the weights.

    Args:
        costs: [N], at least one finite.
        ess: wanted effective sample size, 1 to N; the bound is returned where it cannot be had.
        bounds: least and greatest temperature, in interquartile ranges.
        rounds: of bisection.
    """
    scale = interquartile(costs)
    # In double precision and relative to the scale: then a change of unit changes nothing but rounding.
    relative = (costs.double() - costs.min().double()) / scale
    low, high = math.log(bounds[0]), math.log(bounds[1])
    for _ in range(rounds):
        middle = (low + high) / 2
        size = 1.0 / float(softmax(relative, math.exp(middle)).square().sum())
        low, high = (middle, high) if size < ess else (low, middle)
    return scale * math.exp((low + high) / 2)
