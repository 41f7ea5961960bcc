"""Planners that refit a Gaussian to the cheapest candidates: what CEM and iCEM share, in one native call where that can be had."""

from __future__ import annotations

import ctypes
import functools
from abc import ABC
from pathlib import Path
from typing import Any, Self

import torch

from mbrl_control import native_code
from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning import weighting
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.planning.search import Search
from mbrl_control.robot import RobotSpec

SOURCE = Path(__file__).with_name("elites.cpp")


@functools.cache
def kernel() -> Any:
    """The compiled refit; None where it cannot be had (see `native_code.loaded`)."""
    found = native_code.loaded(SOURCE)
    if found is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    found.mbrl_refit.argtypes = [pointer, pointer, number, number, number, number, ctypes.c_float, ctypes.c_float, *5 * [pointer]]
    found.mbrl_refit.restype = number
    return found.mbrl_refit


class ElitePlanner(SamplingPlanner, ABC):
    """Top-k refit of mean and spread (Rubinstein 1999).

    Args:
        spec, model, cost, seed, options: as for `SamplingPlanner`.
        elites: candidates that the refit uses.
        keeps: how many of them, cheapest first, the next iteration and the next plan start with.
    """

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, elites: int, keeps: int, **options: Any) -> None:
        self.elites, self.keeps = elites, keeps
        self.native = kernel()
        super().__init__(spec, model, cost, seed, **options)

    def on(self, device: torch.device, model: Model) -> Self:
        """As every planner's; a graph holds tensor operations only, whatever its device."""
        twin = super().on(device, model)
        twin.native = None
        return twin

    def weights(self, search: Search, costs: torch.Tensor) -> torch.Tensor:
        """Equal weight for the elites."""
        return weighting.elites(costs, self.elites)

    def carry(self, rows: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
        """The cheapest, scored again by the next iteration: luck is not kept."""
        return rows.index_select(0, costs.topk(min(self.keeps, len(costs)), largest=False).indices) if self.keeps else rows[:0]

    def refit(self, search: Search, rows: torch.Tensor, costs: torch.Tensor, least: torch.Tensor) -> None:
        """As every planner's; in one call where candidates are their own knots."""
        if self.native is None or self.splined or not (rows.is_contiguous() and costs.is_contiguous()):
            super().refit(search, rows, costs, least)
            return
        count, size, keeps = len(rows), rows[0].numel(), min(self.keeps, len(costs))
        made = rows.new_empty(2 + keeps, *rows.shape[1:])
        old, spread = search.mean.contiguous(), search.std.contiguous()
        begin, step = made.data_ptr(), size * made.element_size()
        counted = self.native(rows.data_ptr(), costs.data_ptr(), count, size, self.elites, keeps, self.momentum, self.min_std,
                              old.data_ptr(), spread.data_ptr(), begin, begin + step, begin + 2 * step)
        search.mean, search.std, search.kept = made[0], made[1], made[2:]
        search.figures["ess"] = torch.tensor(float(counted))
