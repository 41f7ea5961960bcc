"""MPPI: the mean of all candidates, weighted softly by cost (Williams et al. 2017), at a temperature that finds itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

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
        ess: wanted effective sample size as a share of the candidates; the temperature is solved for it at every iteration.
        temperature: fixed temperature in units of cost; 0 for the solved one.
        beta: exponent of the noise's spectrum.
        std: spread in half ranges.
        anneal: factor on the spread from one iteration to the next (Xue et al. 2024, section III-B).
        execute: `mean` (MPPI's own) or `best`.
    """

    ess: Annotated[float, Field(gt=0, le=1)] = 0.08
    temperature: Annotated[float, Field(ge=0)] = 0.0
    beta: Annotated[float, Field(ge=0, le=5)] = 2.0
    std: Annotated[float, Field(gt=0, le=5)] = 0.5
    anneal: Annotated[float, Field(gt=0, le=1)] = 0.7
    execute: Literal["mean", "best"] = "mean"


class MPPI(SamplingPlanner):
    """Softmax weights; the spread follows a schedule instead of the candidates."""

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> None:
        self.options = options
        super().__init__(spec, model, cost, seed, beta=options.beta, init_std=options.std, execute=options.execute)

    def weights(self, search: Search, costs: torch.Tensor) -> torch.Tensor:
        """Softmax; reports the temperature."""
        fixed = self.options.temperature
        temperature = (torch.full_like(costs[0], fixed) if fixed
                       else weighting.temperature_for(costs, max(1.0, self.options.ess * len(costs))))
        search.figures["temperature"] = temperature
        return weighting.softmax(costs, temperature)

    def spread(self, search: Search, knots: torch.Tensor, mean: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Annealed."""
        return self.options.anneal * search.std


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> MPPI:
    """The planner for a robot."""
    return MPPI(spec, model, cost, seed, options)
