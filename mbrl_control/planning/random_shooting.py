"""Random shooting: sequences over the whole command range, the best one is played. The yardstick for the others."""

from __future__ import annotations

import math
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
        beta: exponent of the noise's spectrum; 0 is the textbook's independent actions.
    """

    beta: Annotated[float, Field(ge=0, le=5)] = 0.0


class RandomShooting(SamplingPlanner):
    """Samples know nothing of the last plan; that one is a candidate all the same, as in every planner here."""

    def sample(self, search: Search, noise: torch.Tensor) -> torch.Tensor:
        """Uniform over the range: a Gaussian number put through its own distribution function."""
        return torch.erf(noise / math.sqrt(2.0))

    def weights(self, search: Search, costs: torch.Tensor) -> torch.Tensor:
        """The best one."""
        return weighting.one_hot(costs)


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> RandomShooting:
    """The planner for a robot."""
    return RandomShooting(spec, model, cost, seed, beta=options.beta, execute="best")
