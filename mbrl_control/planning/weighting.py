"""Weights over candidates from their costs: the best one, the best few, or softly all. [N] costs in, [N] weights of sum 1 out.

Nothing here waits for a result: everything stays a tensor. Where no cost is finite the weights are NaN.
"""

from __future__ import annotations

import math

import torch

GRID = 32
ROUNDS = 4


def one_hot(costs: torch.Tensor) -> torch.Tensor:
    """All weight on the cheapest candidate."""
    return torch.zeros_like(costs).scatter_(0, costs.argmin(0, keepdim=True), 1.0)


def elites(costs: torch.Tensor, count: int) -> torch.Tensor:
    """Equal weight on the `count` cheapest candidates whose cost is finite."""
    least, order = costs.topk(min(count, len(costs)), largest=False)
    alive = (least < math.inf).to(costs.dtype)
    return torch.zeros_like(costs).scatter_(0, order, alive / alive.sum())


def softmax(costs: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """exp(-(cost - least) / temperature), normalised (Williams et al. 2017, eq. 22); 0 for infinite costs."""
    return torch.softmax((costs.min() - costs) / temperature, 0)


def average(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """[K, A] weighted sum of rows [N, K, A]."""
    return (weights @ rows.flatten(1)).view(rows.shape[1:])


def interquartile(costs: torch.Tensor) -> torch.Tensor:
    """Range of the middle half of the finite costs; the whole range where that is 0, and 1 where all are equal."""
    ordered = costs.sort().values
    last = (ordered < math.inf).sum() - 1
    # In whole numbers, -(-a // b) being the quotient rounded up.
    places = torch.stack([last // 4, -(-3 * last // 4), torch.zeros_like(last), last])
    low, high, least, most = ordered[places.clamp(min=0)]
    whole = torch.where(most > least, most - least, 1.0)
    return torch.where(high > low, high - low, whole)


def temperature_for(costs: torch.Tensor, ess: float, bounds: tuple[float, float] = (1e-3, 1e3)) -> torch.Tensor:
    """The softmax temperature, 0-d, at which the effective sample size 1 / sum w^2 (Kish 1965) is `ess`.

    A grid of temperatures, evenly spaced in the logarithm, is tried at once, and then a finer one where the size is passed; between
    bounds that are multiples of the interquartile range: the result scales with the costs, so that their unit does not matter, and
    one outlier (a collision) does not flatten the weights.

    Args:
        costs: [N], at least one finite.
        ess: wanted effective sample size, 1 to N; the bound is returned where it cannot be had.
        bounds: least and greatest temperature, in interquartile ranges.
    """
    scale = interquartile(costs)
    # Relative to the scale: then a change of unit changes nothing but rounding.
    relative = (costs - costs.min()) / scale
    low, width = torch.full_like(scale, math.log(bounds[0])), math.log(bounds[1] / bounds[0])
    steps = torch.arange(1, GRID, dtype=costs.dtype, device=costs.device) / GRID
    for _ in range(ROUNDS):
        unnormalised = torch.outer(-torch.exp(-low - width * steps), relative).exp_()
        size = unnormalised.sum(1) / torch.linalg.vector_norm(unnormalised, dim=1)
        low = low + (size < math.sqrt(ess)).sum() * (width / GRID)
        width /= GRID
    return scale * torch.exp(low + width / 2)
