"""The cross-entropy method: a Gaussian refitted to the elites, clipped to the limits (Rubinstein 1999; as in Chua et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning.elites import ElitePlanner
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Settings.

    Attributes:
        elites: candidates that the refit uses, as a share of them all.
        beta: exponent of the noise's spectrum; 0 is the textbook's independent actions.
        init_std: initial spread in half ranges.
        min_std: floor of the spread.
        momentum: share of the old mean and spread that a refit keeps.
        execute: `mean` (learned models) or `best` (known ones).
    """

    elites: Annotated[float, Field(gt=0, le=1)] = 0.1
    beta: Annotated[float, Field(ge=0, le=5)] = 0.0
    init_std: Annotated[float, Field(gt=0, le=5)] = 0.5
    min_std: Annotated[float, Field(ge=0, le=1)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.1
    execute: Literal["mean", "best"] = "mean"


class CEM(ElitePlanner):
    """The elite planner itself."""

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> None:
        # Two at least: the spread of one is nothing.
        elites = max(2, round(options.elites * spec.planner.candidates))
        super().__init__(spec, model, cost, seed, elites, 0, beta=options.beta, init_std=options.init_std, min_std=options.min_std,
                         momentum=options.momentum, execute=options.execute)


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> CEM:
    """The planner for a robot."""
    return CEM(spec, model, cost, seed, options)
