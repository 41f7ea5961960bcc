"""Gradient planner: Adam on a batch of candidates through the model, by autograd or by batched finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from mbrl_control.costs.base import Cost
from mbrl_control.errors import UserError
from mbrl_control.models.base import Model
from mbrl_control.models.slopes import differentiable
from mbrl_control.planning import weighting
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.planning.engine import Found
from mbrl_control.planning.record import Shape, Summary
from mbrl_control.planning.search import Problem, Search
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Settings. Candidates are few here (8 to 32), each costs its gradient.

    Attributes:
        gradients: `autograd` for differentiable models; `differences` for any, at a rollout per knot and axis: use few knots.
        steps: gradient steps per iteration.
        rate: length of a step, in half ranges.
        beta: exponent of the spectrum of the noise that the candidates start from.
        init_std: its spread, in half ranges.
        difference: step of the finite differences, in half ranges.
    """

    gradients: Literal["autograd", "differences"] = "autograd"
    steps: Annotated[int, Field(ge=1, le=1000)] = 4
    rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    beta: Annotated[float, Field(ge=0, le=5)] = 2.0
    init_std: Annotated[float, Field(gt=0, le=5)] = 0.5
    difference: Annotated[float, Field(gt=0, le=0.5)] = 0.01


@dataclass
class Adam:
    """Adam on knots [M, K, A] (Kingma and Ba 2015, algorithm 1, its default decay rates)."""

    rate: float
    first: torch.Tensor
    second: torch.Tensor
    count: int = 0

    def step(self, knots: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Knots after one step."""
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        return knots - self.rate * first / (second.sqrt() + 1e-8)


class Gradient(SamplingPlanner):
    """Descends from the fixed rows and from samples around the last plan; plays the best sequence met on the way."""

    # Tensors made in inference mode could not take part in autograd.
    guard: Callable[[], Any] = staticmethod(torch.no_grad)
    placeable = False

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> None:
        if options.gradients == "autograd" and not differentiable(model, spec):
            raise UserError(f"planning 'gradient': model '{spec.model.kind}' cannot be differentiated; set planner.options.gradients = "
                            "'differences' (with few knots), or choose another planner (icem, mppi, cem)")
        self.options = options
        self.turns = options.steps
        super().__init__(spec, model, cost, seed, beta=options.beta, init_std=options.init_std, execute="best")
        self._knots, self._adam = torch.empty(0), Adam(options.rate, torch.empty(0), torch.empty(0))

    def weights(self, search: Search, costs: torch.Tensor) -> torch.Tensor:
        """The best one."""
        return weighting.one_hot(costs)

    def shape(self, problem: Problem, search: Search, iterations: int) -> Shape:
        """See `SamplingPlanner.shape`; the fixed rows are there as they are and as they become."""
        rows = 2 * len(problem.fixed) + self.candidates
        return Shape(iterations * self.turns, rows, len(search.kept), self.horizon, self.spec.action_dim)

    def source(self, problem: Problem, summary: Summary) -> str:
        """See `SamplingPlanner.source`."""
        fixed = len(problem.fixed)
        return problem.names[summary.winner % fixed] if summary.winner < 2 * fixed else "explore"

    def iterate(self, search: Search, problem: Problem, i: int, final: bool) -> None:
        """Some steps of Adam; the fixed rows stay candidates as they are besides."""
        if i == 0:
            self._knots = torch.cat([self.knots(problem.fixed), self.sample(search, self.noise(problem, 0)).clamp(-1.0, 1.0)])
            self._adam = Adam(self.options.rate, torch.zeros_like(self._knots), torch.zeros_like(self._knots))
        for step in range(self.turns):
            rows, costs, slope = self._slope(self._knots, problem)
            self.record.note(i * self.turns + step, rows, costs)
            self._knots = self._adam.step(self._knots, slope.nan_to_num(0.0, 0.0, 0.0)).clamp(-1.0, 1.0)

    def _rows(self, knots: torch.Tensor, problem: Problem) -> torch.Tensor:
        """The fixed rows [R, H, A], and after them the limited rows [M, H, A] of knots [M, K, A]."""
        return torch.cat([problem.fixed, self.space.limit(self.rows(knots), problem.last)])

    def _stats(self, found: Found, summary: Summary, fixed: int) -> dict[str, float]:
        stats = super()._stats(found, summary, fixed)
        stats["rollouts"] += len(summary.counts) * self._knots.numel() if self.options.gradients == "differences" else 0
        return stats

    def _slope(self, knots: torch.Tensor, problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The rows of knots [M, K, A], their costs [R + M], and the gradient of the last M of these by the knots [M, K, A]."""
        if self.options.gradients == "autograd":
            with torch.enable_grad():
                leaf = knots.detach().requires_grad_(True)
                rows = self._rows(leaf, problem)
                costs = self.score(rows, problem)
                slope, = torch.autograd.grad(costs.sum(), leaf)
            return rows.detach(), costs.detach(), slope
        count, sites, axes = knots.shape
        # Towards the middle, so that clipping at the limits does not hide the slope.
        towards = torch.where(knots > 0, -self.options.difference, self.options.difference)
        moved = knots[:, None] + torch.eye(sites * axes).reshape(1, -1, sites, axes) * towards[:, None]
        rows = self._rows(torch.cat([knots, moved.flatten(0, 1)]), problem)
        costs = self.score(rows, problem)
        own = len(problem.fixed) + count
        change = costs[own:].reshape(knots.shape) - costs[own - count : own, None, None]
        return rows[:own], costs[:own], change / towards


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, options: Options) -> Gradient:
    """The planner for a robot."""
    return Gradient(spec, model, cost, seed, options)
