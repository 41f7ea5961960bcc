"""iCEM: the cross-entropy method with coloured noise and kept elites (Pinneri et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Settings, with the paper's defaults (section 3 and table S1) where it has them.

    Attributes:
        elites: candidates that the refit uses.
        keep: share of the elites kept as candidates for the next iteration and the next plan.
        decay: factor by which the population shrinks each iteration.
        beta: exponent of the noise's spectrum (not comparable one to one with values for circular noise).
        init_std: initial spread in half ranges.
        min_std: floor of the spread.
        momentum: share of the old mean and spread that a refit keeps.
        execute: `mean` or `best`.
    """

    elites: int = 10
    keep: float = 0.3
    decay: float = 1.25
    beta: float = 2.0
    init_std: float = 0.5
    min_std: float = 0.05
    momentum: float = 0.1
    execute: Literal["mean", "best"] = "mean"


class ICEM(SamplingPlanner):
    """Top-k refit, population shrinking by `decay`, a share of the elites kept and shifted in time."""

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> None:
        self.options = options
        super().__init__(spec, model, cost, seed, beta=options.beta, init_std=options.init_std, min_std=options.min_std,
                         momentum=options.momentum, execute=options.execute)

    def population(self, iteration: int) -> int:
        """Never below twice the elites (section 3.3)."""
        return min(self.candidates, max(2 * self.options.elites, int(self.candidates * self.options.decay**-iteration)))

    def weights(self, costs: torch.Tensor) -> torch.Tensor:
        """Equal weight for the elites."""
        order = costs.topk(min(self.options.elites, len(costs)), largest=False).indices
        weights = torch.zeros_like(costs)
        weights[order] = torch.isfinite(costs[order]).float()
        return weights / weights.sum()

    def carry(self, rows: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
        """The best `keep` share of the elites; they are scored again, so luck is not kept."""
        count = max(1, int(self.options.keep * self.options.elites))
        return rows[costs.topk(min(count, len(costs)), largest=False).indices]


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> ICEM:
    """The planner for a robot."""
    return ICEM(spec, model, cost, seed, options)
