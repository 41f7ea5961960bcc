"""A Gauss-Newton step from the last plan as candidates: near an optimum they are better than any sample, and free of its noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mbrl_control.models import slopes
from mbrl_control.planning.rollout import rollout
from mbrl_control.planning.search import Problem

if TYPE_CHECKING:
    from mbrl_control.planning.base import SamplingPlanner

LIGHTEST, HEAVIEST = 1e-5, 1.0
"""Least and greatest damping, in mean curvatures of the row's actions."""
MOST_STEPS = 8
SHARES = 0.5 ** torch.arange(8, dtype=torch.float64)
STEEPEST = 1e12
DIFFERENCE = 0.05
"""For the curvature of the cost, in typical one-step changes and half ranges."""


class SecondOrder:
    """One step of sequential quadratic programming for each plan, from the last one moved to the present time and started at the state
    measured now (the real-time iteration of Diehl et al. 2005). The dynamics are linearised along the paths that count for the problem
    (see `Problem.free`), the stage cost is made quadratic with what is concave left out, and the states are eliminated, so that limits of
    the commands are sides of a box.

    Risk other than the mean over members and their disagreement do not shape the step, but they are counted when its rows compete.

    Args:
        planner: whose loop the rows take part in.
        count: rows, from nearly undamped steps to careful ones.
    """

    name = "newton"

    def __init__(self, planner: SamplingPlanner, count: int) -> None:
        self.planner = planner
        self.dampings = np.geomspace(LIGHTEST, HEAVIEST, count).tolist()
        self.smooth = slopes.differentiable(planner.fine, planner.spec)

    def rows(self, problem: Problem) -> torch.Tensor:
        """[R, H, A] rows in half ranges and within their limits, from the problem's nominal; that itself in place of what is not finite."""
        nominal = problem.fixed[0]
        found = self._steps(problem, nominal)
        return torch.where(found.isfinite().all(-1).all(-1)[:, None, None], found, nominal)

    def _steps(self, problem: Problem, nominal: torch.Tensor) -> torch.Tensor:
        planner = self.planner
        horizon, axes = nominal.shape
        sent = planner.sent(nominal[None], problem)
        actions = planner.delays.played(planner.space.commands(sent), problem.pending)
        path = rollout(planner.fine, problem.start, actions, "mean" if problem.free else "tsinf")[:, 0]
        moves, played = self._maps(problem, horizon, axes)
        reach = torch.cat([self._reach(path[:, :-1], actions[0]), _identity(len(path), horizon, axes)], 2).double() @ played
        slope, bend = self._quadratic(path[:, 1:], actions[0])
        flat = reach.reshape(-1, horizon * axes)
        gradient = flat.T @ slope.double().reshape(-1) / len(path)
        curvature = flat.T @ (bend.double() @ reach).reshape(flat.shape) / len(path)
        if weight := planner.spec.planner.smoothness:
            rough = moves.reshape(horizon, axes, -1).diff(dim=0, prepend=torch.zeros(1, axes, horizon * axes)).reshape(horizon * axes, -1)
            now = sent[0].diff(dim=0, prepend=problem.last[None]).double().reshape(-1)
            gradient, curvature = gradient + 2 * weight * rough.T @ now, curvature + 2 * weight * rough.T @ rough
        here = nominal.double().reshape(-1)
        heavy = curvature.diagonal().mean().clamp(min=1e-12) * torch.eye(len(here), dtype=torch.float64)
        found = torch.stack([here + boxed(curvature + d * heavy, gradient, -1 - here, 1 - here) for d in self.dampings])
        return found.reshape(-1, horizon, axes).float()

    def _maps(self, problem: Problem, horizon: int, axes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[HA, HA] what is sent (half ranges, but for limits of rate) and what is played (physical units) by what is in a row."""
        planner, size = self.planner, horizon * axes
        sent = planner.mixed(torch.eye(size).reshape(size, horizon, axes), problem)
        nothing = None if problem.pending is None else torch.zeros_like(problem.pending)
        played = planner.delays.played(planner.space.half * sent, nothing)
        return sent.reshape(size, size).T.double(), played.reshape(size, size).T.double()

    def _reach(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """[P, H, S, HA] how the states after each step move with the commands [H, A], along the members' paths or one of their mean step,
        [P, H, S]."""
        slope = slopes.found(self.planner.fine, states, actions, self.planner.space.half, self.smooth)
        by_state, by_action = (member.mean(0, keepdim=True) for member in slope) if len(states) == 1 else slope
        paths, horizon, signals, axes = by_action.shape
        moved, found = torch.zeros(paths, signals, horizon * axes), []
        for k in range(horizon):
            moved = by_state[:, k] @ moved
            moved[:, :, k * axes : (k + 1) * axes] += by_action[:, k]
            found.append(moved)
        return torch.stack(found, 1)

    def _quadratic(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient [P, H, S + A] of the summed cost by states [P, H, S] and commands [H, A], and its curvature [H, S + A, S + A] at the
        paths' mean, positive semidefinite."""
        middle = torch.cat([states.mean(0), actions], -1)
        wide = DIFFERENCE * torch.cat([self.planner.fine.scale(), self.planner.space.half])
        moved = torch.cat([wide.diag(), -wide.diag()])[:, None]
        points = torch.cat([middle + moved, torch.cat([states, actions.expand(len(states), -1, -1)], -1)])
        ahead, behind, here = self._slope(points).tensor_split([len(wide), 2 * len(wide)])
        # Finite, since LAPACK finds no eigenvalues otherwise; where the cost is not, the gradient says so.
        bend = ((ahead - behind).permute(1, 0, 2) / (2 * wide[:, None])).nan_to_num(0.0, 0.0, 0.0).clamp(-STEEPEST, STEEPEST)
        values, vectors = torch.linalg.eigh((bend + bend.mT) / 2)
        convex = (vectors * values.clamp(min=0.0)[:, None]) @ vectors.mT
        return here, convex

    def _slope(self, points: torch.Tensor) -> torch.Tensor:
        """[..., H, S + A] gradient of the cost, ends and ranges included, by states and commands [..., H, S + A]."""
        planner = self.planner
        signals = planner.spec.state_dim
        with torch.inference_mode(False), torch.enable_grad():
            at = points.clone().requires_grad_(True)
            states, actions = at[..., :signals], at[..., signals:]
            cost = planner.cost.stage(states, actions).sum() + planner.cost.terminal(states[..., -1, :]).sum()
            if planner.ranged is not None:
                cost = cost + planner.spec.planner.range_weight * planner.ranged(states[..., None, :]).sum()
            return torch.autograd.grad(cost, at)[0]


def _identity(paths: int, horizon: int, axes: int) -> torch.Tensor:
    """[P, H, A, HA] how the commands of each step move with the commands."""
    return torch.eye(horizon * axes).reshape(horizon, axes, -1).expand(paths, -1, -1, -1)


def boxed(bend: torch.Tensor, slope: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """[n] the least of slope x + x bend x / 2 between low and high, by projected Newton steps (Bertsekas 1982; Tassa et al. 2014,
    section III.B); what `MOST_STEPS` of them come to.

    Args:
        bend: [n, n] symmetric, positive definite; where it is not, NaN is given back.
        slope: [n].
        low: [n] not above 0.
        high: [n] not below 0.
    """
    x = torch.zeros_like(slope)
    for _ in range(MOST_STEPS):
        pull = slope + bend @ x
        free = ~(((x <= low) & (pull > 0)) | ((x >= high) & (pull < 0)))
        index = free.nonzero()[:, 0]
        if not bool((pull[index].abs() > 1e-9 * slope.abs().max()).any()):
            break
        factor, fault = torch.linalg.cholesky_ex(bend[index][:, index])
        if fault:
            return torch.full_like(slope, torch.nan)
        way = torch.zeros_like(slope)
        way[index] = -torch.cholesky_solve(pull[index, None], factor)[:, 0]
        tried = torch.clamp(x + SHARES[:, None] * way, low, high)
        x = tried[(tried @ slope + ((tried @ bend) * tried).sum(-1) / 2).argmin()]
    return x
