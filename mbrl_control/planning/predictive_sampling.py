"""Predictive sampling: noise around the last plan, the best one is the new plan (Howell et al. 2022). Natural with spline knots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning import weighting
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.planning.search import Search
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Settings.

    Attributes:
        std: spread in half ranges.
        beta: exponent of the noise's spectrum, over the knots.
    """

    std: Annotated[float, Field(gt=0, le=5)] = 0.3
    beta: Annotated[float, Field(ge=0, le=5)] = 1.0


class PredictiveSampling(SamplingPlanner):
    """One-hot weights, constant spread (Howell et al. 2022, algorithm 1)."""

    def weights(self, search: Search, costs: torch.Tensor) -> torch.Tensor:
        """The best one."""
        return weighting.one_hot(costs)

    def spread(self, search: Search, knots: torch.Tensor, mean: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """As it was."""
        return search.std


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> PredictiveSampling:
    """The planner for a robot."""
    return PredictiveSampling(spec, model, cost, seed, beta=options.beta, init_std=options.std, execute="best")
