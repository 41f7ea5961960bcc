"""iCEM: the cross-entropy method with coloured noise and kept elites (Pinneri et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning.elites import ElitePlanner
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
        execute: `mean` (learned models) or `best` (known ones, as in the paper).
    """

    elites: Annotated[int, Field(ge=2, le=10_000)] = 10
    keep: Annotated[float, Field(ge=0, le=1)] = 0.3
    decay: Annotated[float, Field(ge=1, le=10)] = 1.25
    beta: Annotated[float, Field(ge=0, le=5)] = 2.0
    init_std: Annotated[float, Field(gt=0, le=5)] = 0.5
    min_std: Annotated[float, Field(ge=0, le=1)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.1
    execute: Literal["mean", "best"] = "mean"


class ICEM(ElitePlanner):
    """Population shrinking by `decay`, a share of the elites kept and shifted in time."""

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> None:
        self.options = options
        super().__init__(spec, model, cost, seed, options.elites, int(options.keep * options.elites), beta=options.beta,
                         init_std=options.init_std, min_std=options.min_std, momentum=options.momentum, execute=options.execute)

    def population(self, iteration: int) -> int:
        """Never below twice the elites (section 3.3)."""
        return min(self.candidates, max(2 * self.options.elites, int(self.candidates * self.options.decay**-iteration)))

    def revive(self, kept: torch.Tensor, nominal: torch.Tensor, cells: int) -> torch.Tensor:
        """Fresh last actions for the elites of the last plan, drawn around the nominal's (section 3.2)."""
        if cells and len(kept):
            fresh = torch.randn(len(kept), 1, kept.shape[-1], generator=self.rng)
            kept[:, -cells:] = nominal[-cells:] + self.init_std * fresh
        return kept


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> ICEM:
    """The planner for a robot."""
    return ICEM(spec, model, cost, seed, options)
