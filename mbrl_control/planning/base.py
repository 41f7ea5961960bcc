"""The one loop of every sampling planner: sample, roll out, weigh, refit. Planners differ in a few short methods."""

from __future__ import annotations

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mbrl_control import parts
from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning import risk
from mbrl_control.planning.actions import ActionSpace
from mbrl_control.planning.delays import Delays
from mbrl_control.planning.knots import spline_matrix
from mbrl_control.planning.noise import noise_bank
from mbrl_control.planning.plan import Plan, PlanRequest, Verdict, cell, shift
from mbrl_control.planning.proposals import Proposal
from mbrl_control.planning.rollout import rollout
from mbrl_control.robot import RobotSpec

EXPLORE_BETA = 2.0


@dataclass(frozen=True)
class Problem:
    """What all iterations of one plan share; actions in half ranges.

    Rows live on the grid of whole multiples of the model step, whatever the time of the request, so that warm starts move by whole
    cells and nothing is smeared by planning often. What is sent, and rolled out, is their mean over the cells from the first action on.

    Attributes:
        seq: number of the request; chooses the noise.
        start: [S] state when the first action takes effect on the fastest axis.
        last: [A] last command sent before the plan.
        part: share of the first cell of the rows that is over when the first action is sent.
        pending: [H, A] commands sent that slower axes still have before them, physical units; None without such.
        fixed: [R, H, A] rows that are candidates in every iteration; row 0 is the nominal.
        names: source of each fixed row.
    """

    seq: int
    start: torch.Tensor
    last: torch.Tensor
    part: float
    pending: torch.Tensor | None
    fixed: torch.Tensor
    names: list[str]


@dataclass
class Search:
    """What a planner's iterations pass on; actions in half ranges.

    Attributes:
        mean: [K, A] knots around which to sample.
        std: [K, A] their spread.
        kept: [R, H, A] candidates kept from the iteration before, or from the last plan.
        best: [H, A] the best candidate so far.
        best_cost: its cost.
        best_source: the proposal source it came from.
        fixed_costs: [R] costs of the problem's fixed rows, in the last iteration.
        stats: figures for reports.
    """

    mean: torch.Tensor
    std: torch.Tensor
    kept: torch.Tensor
    best: torch.Tensor
    best_cost: float = math.inf
    best_source: str = "nominal"
    fixed_costs: torch.Tensor = field(default_factory=lambda: torch.full((1,), math.inf))
    stats: dict[str, float] = field(default_factory=lambda: {"finite": 1.0, "rollouts": 0.0})


class SamplingPlanner(ABC):
    """The loop. A subclass gives `weights`, and may change `population`, `sample`, `spread`, `carry` and `revive`.

    Args:
        spec: the robot; sizes, limits and rates come from it.
        model: what will happen.
        cost: what is wanted.
        seed: of the noise bank; equal seeds and iterations give equal bits.
        beta: exponent of the noise's spectrum; 0 is white.
        init_std: spread at the start of every plan, in half ranges.
        min_std: floor of the spread.
        momentum: share of the old mean and spread that a refit keeps.
        execute: `mean` plays the refitted mean, or the last plan or a proposal if that is predicted to be better (right for
            learned models, whose best sample is the luckiest error); `best` the best candidate (right for known models).

    Attributes:
        sources: further candidate rows; set it to add some.
        clock: s; tests replace it.
        guard: what gradients are switched off with.
    """

    sources: tuple[Proposal, ...] = ()
    clock: Callable[[], float] = staticmethod(time.perf_counter)
    guard: Callable[[], Any] = staticmethod(torch.inference_mode)

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, *, beta: float = 0.0, init_std: float = 0.5,
                 min_std: float = 0.05, momentum: float = 0.0, execute: str = "mean") -> None:
        self.spec, self.model, self.cost = spec, model, cost
        p = spec.planner
        self.horizon, self.iterations, self.candidates = p.horizon, p.iterations, p.candidates
        self.init_std, self.min_std, self.momentum, self.execute = init_std, min_std, momentum, execute
        self.space, self.delays = ActionSpace(spec), Delays(spec)
        self.ranged = risk.Ranges.of(spec)
        matrix = spline_matrix(p.horizon, p.knots, p.spline)
        self.matrix = torch.as_tensor(matrix, dtype=torch.float32)
        self.inverse = torch.as_tensor(np.linalg.pinv(matrix), dtype=torch.float32)
        self.bank = noise_bank(self.population(0), matrix.shape[1], spec.action_dim, beta, seed)
        self.explore = noise_bank(1, p.horizon, spec.action_dim, EXPLORE_BETA, seed + 1)
        self.slowest = self.closing = 0.0
        self.seed = seed
        self.rng = torch.Generator()

    # What planners differ in ---------------------------------------------------------------------------------------------------

    def population(self, iteration: int) -> int:
        """Fresh samples in an iteration; must not grow."""
        return self.candidates

    def sample(self, search: Search, noise: torch.Tensor) -> torch.Tensor:
        """[n, K, A] knots from [n, K, A] unit noise."""
        return search.mean + search.std * noise

    @abstractmethod
    def weights(self, search: Search, costs: torch.Tensor) -> torch.Tensor:
        """[N] weights, summing to 1 and 0 where the cost is not finite, from [N] costs of which at least one is finite."""

    def spread(self, search: Search, knots: torch.Tensor, mean: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """[K, A] standard deviation for the next iteration, from weighted knots [N, K, A] and their mean [K, A]."""
        std = torch.einsum("n,nka->ka", weights, (knots - mean) ** 2).sqrt()
        return (self.momentum * search.std + (1 - self.momentum) * std).clamp(min=self.min_std)

    def carry(self, rows: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
        """[R, H, A] candidates that the next iteration (and the next plan) starts with; by default none."""
        return rows[:0]

    def revive(self, kept: torch.Tensor, nominal: torch.Tensor, cells: int) -> torch.Tensor:
        """Candidates [R, H, A] kept from the last plan, whose last `cells` actions lie past its end; by default as they are."""
        return kept

    # The loop ------------------------------------------------------------------------------------------------------------------

    def plan(self, request: PlanRequest, previous: Plan | None = None, budget_s: float | None = None,
             iterations: int | None = None) -> Plan:
        """Plan from a measured state.

        Args:
            request: state, times and the commands already sent.
            previous: the last plan, from which this one starts; None after a reset.
            budget_s: stop before an iteration that would not end within it; None for a fixed number of iterations.
            iterations: iterations to do (a replay's); by default the spec's.

        Returns:
            The plan; verdict FALLBACK with the last plan, unchanged in time, when no candidate has a finite cost.
        """
        begin = self.clock()
        with self.guard():
            self.rng.manual_seed((self.seed * 1_000_003 + request.seq) % 2**63)
            problem, search = self.prepare(request, previous)
            wanted = self.iterations if iterations is None else iterations
            done, verdict = 0, Verdict.MET
            while done < wanted:
                tick = self.clock()
                if budget_s is not None and done and tick - begin + self.slowest + self.closing > budget_s:
                    verdict = Verdict.EARLY_STOP
                    break
                # The last of a full plan, not of this one: so that a plan that was stopped early replays to the same bits.
                self.iterate(search, problem, done, done == self.iterations - 1)
                self.slowest = max(0.98 * self.slowest, self.clock() - tick)
                done += 1
            if not math.isfinite(search.best_cost):
                return self._fallback(request, previous, search, done, begin)
            tick = self.clock()
            row, cost = self.choose(search, problem)
            self.closing = max(0.98 * self.closing, self.clock() - tick)
            return self._answer(request, problem, search, row, cost, verdict, done, begin)

    def predict_start(self, request: PlanRequest) -> torch.Tensor:
        """[S] the state at which the plan's first action takes effect; see `Delays.start`."""
        return self.delays.start(self.model, request)

    def prepare(self, request: PlanRequest, previous: Plan | None) -> tuple[Problem, Search]:
        """The start state and the rows that stand in every iteration; and where the search starts."""
        space, horizon = self.space, self.horizon
        here, part = cell(request.apply_time, dt := self.spec.model_dt)
        if previous is None:
            rows, cells = space.zero.expand(1, horizon, -1).clone(), 0
        else:
            cells = min(horizon, max(0, here - cell(previous.start, dt)[0]))
            rows = torch.as_tensor(shift(previous.carry, dt, cells * dt), dtype=torch.float32)
        last = space.normal(torch.as_tensor(request.sent[-1], dtype=torch.float32)) if len(request.sent) else space.zero
        fixed = [rows[:1], last.expand(1, horizon, -1), space.zero.expand(1, horizon, -1)]
        names = ["nominal", "hold", "hold"]
        for source in self.sources:
            found = space.normal(source.rows(request).to(torch.float32))
            # A row that is not finite would spoil every weighted mean, even with weight 0.
            found = found[found.isfinite().all(-1).all(-1)]
            fixed.append((1 - part) * found + part * torch.cat([found[:, :1], found[:, :-1]], 1))
            names += [source.name] * len(found)
        mean = self.inverse @ rows[0]
        search = Search(mean, torch.full_like(mean, self.init_std), self.revive(rows[1:], rows[0], cells), rows[0])
        pending = self.delays.pending(request)
        return Problem(request.seq, self.predict_start(request), last, part, pending, torch.cat(fixed), names), search

    def iterate(self, search: Search, problem: Problem, i: int, final: bool) -> None:
        """One round: sample, score, note the best, refit the search distribution in place."""
        noise = self.bank[(problem.seq * self.iterations + i) % len(self.bank), : self.population(i)]
        fresh = self.matrix @ self.sample(search, noise)
        # The mean joins in the last iteration only: earlier it would narrow the spread (Pinneri et al. 2020, section 3.4).
        mean = (self.matrix @ search.mean)[None] if final and i else fresh[:0]
        rows = self.space.limit(torch.cat([problem.fixed, search.kept, mean, fresh]), problem.last)
        names = problem.names + ["nominal"] * len(search.kept) if i == 0 else problem.names
        costs = self.score(rows, problem)
        if self.note(search, problem, rows, costs, names):
            self.refit(search, rows, costs)
            search.kept = self.carry(rows, costs)
        else:
            search.kept = search.kept[:0]

    def sent(self, rows: torch.Tensor, problem: Problem) -> torch.Tensor:
        """[N, H, A] what is sent from the first action on, in half ranges, for rows [N, H, A]."""
        if problem.part:
            rows = (1 - problem.part) * rows + problem.part * torch.cat([rows[:, 1:], rows[:, -1:]], 1)
        return self.space.limit(rows, problem.last)

    def score(self, rows: torch.Tensor, problem: Problem) -> torch.Tensor:
        """Risk-aggregated cost [N] of candidates [N, H, A] in half ranges; +inf where not finite."""
        p = self.spec.planner
        sent = self.sent(rows, problem)
        actions = self.delays.played(self.space.physical(sent), problem.pending)
        states = rollout(self.model, problem.start, actions, p.propagation, self.rng)
        returns = self.cost.stage(states[:, :, 1:], actions[None]).sum(-1) + self.cost.terminal(states[:, :, -1])
        if self.ranged is not None:
            returns = returns + p.range_weight * self.ranged(states[:, :, 1:])
        cost = risk.aggregate(returns, p)
        if p.disagreement and len(states) > 1:
            cost = cost + p.disagreement * risk.disagreement(states[:, :, 1:], self.model.scale())
        if p.smoothness:
            cost = cost + p.smoothness * risk.roughness(sent, problem.last)
        return torch.where(torch.isfinite(cost), cost, math.inf)

    def note(self, search: Search, problem: Problem, rows: torch.Tensor, costs: torch.Tensor, names: list[str]) -> bool:
        """Keep the best candidate and the figures; False when no cost is finite."""
        search.stats["rollouts"] += len(rows)
        search.stats["finite"] = min(search.stats["finite"], float(torch.isfinite(costs).float().mean()))
        search.fixed_costs = costs[: len(problem.names)]
        winner = int(costs.argmin())
        if float(costs[winner]) < search.best_cost:
            search.best, search.best_cost = rows[winner], float(costs[winner])
            search.best_source = names[winner] if winner < len(names) else "explore"
        return math.isfinite(float(costs[winner]))

    def refit(self, search: Search, rows: torch.Tensor, costs: torch.Tensor) -> None:
        """Move mean and spread of the search to the weighted candidates."""
        weights = self.weights(search, costs)
        knots = self.inverse @ rows
        mean = torch.einsum("n,nka->ka", weights, knots)
        search.std = self.spread(search, knots, mean, weights)
        search.mean = self.momentum * search.mean + (1 - self.momentum) * mean
        search.stats["ess"] = float(1.0 / weights.square().sum())

    def choose(self, search: Search, problem: Problem) -> tuple[torch.Tensor, float]:
        """The row [1, H, A] to play, and its cost."""
        if self.execute == "best":
            return search.best[None], search.best_cost
        mean = self.space.limit((self.matrix @ search.mean)[None], problem.last)
        costs = torch.cat([self.score(mean, problem), search.fixed_costs])
        search.stats["rollouts"] += 1
        least = int(costs.argmin())
        if not math.isfinite(float(costs[least])):
            return search.best[None], search.best_cost
        rows = torch.cat([mean, self.space.limit(problem.fixed, problem.last)])
        return rows[least, None], float(costs[least])

    def _answer(self, request: PlanRequest, problem: Problem, search: Search, row: torch.Tensor, cost: float, verdict: Verdict,
                done: int, begin: float) -> Plan:
        trainer = self.spec.trainer
        noise = trainer.noise * math.exp(-request.experience_s / trainer.noise_fade_s)
        sent = self.sent(row, problem)
        if noise > 1e-3:
            sent = self.space.limit(sent + noise * self.explore[request.seq % len(self.explore)], problem.last)
        actions = self.space.physical(sent)[0].numpy().astype(np.float64)
        carry = torch.cat([row, search.kept]).numpy().astype(np.float64)
        return Plan(request.seq, request.apply_time, self.spec.model_dt, actions, cost, verdict, self.model.version, done,
                    self.clock() - begin, search.best_source, carry, self._stats(search))

    def _fallback(self, request: PlanRequest, previous: Plan | None, search: Search, done: int, begin: float) -> Plan:
        """The last plan as it stands: it is not stretched, so that it runs out at its own end; without one, do nothing."""
        if previous is None:
            still = self.space.zero.expand(1, self.horizon, -1)
            actions, carry = (t.numpy().astype(np.float64) for t in (self.space.physical(still)[0], still))
            previous = Plan(request.seq, request.apply_time, self.spec.model_dt, actions, math.inf, Verdict.FALLBACK, 0, done, 0.0,
                            "nominal", carry)
        return dataclasses.replace(previous, seq=request.seq, cost=math.inf, verdict=Verdict.FALLBACK, model_version=self.model.version,
                                   iterations=done, latency_s=self.clock() - begin, winner="nominal", stats=self._stats(search))

    @staticmethod
    def _stats(search: Search) -> dict[str, float]:
        return {**search.stats, "best_cost": search.best_cost, "std": float(search.std.mean())}


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int) -> SamplingPlanner:
    """The planner that a robot's YAML asks for.

    Raises:
        UserError: unknown kind or option.
    """
    kind = spec.planner.kind
    options = parts.options("planning", kind, dict(spec.planner.options))
    planner: SamplingPlanner = parts.find("planning", kind).build(spec, model, cost, seed, options)
    return planner
