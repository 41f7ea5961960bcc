"""The one loop of every sampling planner: sample, roll out, weigh, refit. Planners differ in three short methods."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from mbrl_control import parts
from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model
from mbrl_control.planning.knots import spline_matrix
from mbrl_control.planning.noise import noise_bank
from mbrl_control.planning.plan import Plan, PlanRequest, Verdict, shift
from mbrl_control.planning.proposals import Proposal, mean_command
from mbrl_control.planning.rollout import rollout
from mbrl_control.robot import RobotSpec

BANK_SETS = 32


@dataclass
class Search:
    """What a planner's iterations pass on, in units of half the command range.

    Attributes:
        mean: [K, A] knots around which to sample.
        std: [K, A] their spread.
        kept: [R, H, A] candidates kept from the iteration before.
        best: [H, A] the best candidate so far.
        best_cost: its cost.
        best_source: the proposal source it came from.
        expected: weighted cost of the last refit.
        finite: share of candidates with a finite cost, worst iteration.
    """

    mean: torch.Tensor
    std: torch.Tensor
    kept: torch.Tensor
    best: torch.Tensor
    best_cost: float = math.inf
    best_source: str = "nominal"
    expected: float = math.inf
    finite: float = 1.0


class SamplingPlanner:
    """The loop. A subclass gives `sample`, `weights` and `carry`, and may change `population`.

    Args:
        spec: the robot; sizes, limits and rates come from it.
        model: what will happen.
        cost: what is wanted.
        seed: of the noise bank; equal seeds and iterations give equal bits.
        beta: exponent of the noise's spectrum; 0 is white.
        init_std: spread at the start of every plan, in half ranges.
        min_std: floor of the spread.
        momentum: share of the old mean and spread that a refit keeps.
        execute: `mean` plays the refitted mean (right for learned models, whose best sample is the luckiest error),
            `best` the best candidate (right for known models).
    """

    sources: tuple[Proposal, ...] = ()

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, *, beta: float = 0.0, init_std: float = 0.5,
                 min_std: float = 0.05, momentum: float = 0.0, execute: str = "mean") -> None:
        self.spec, self.model, self.cost = spec, model, cost
        p = spec.planner
        self.horizon, self.iterations, self.candidates = p.horizon, p.iterations, p.candidates
        self.init_std, self.min_std, self.momentum, self.execute = init_std, min_std, momentum, execute
        self.mid = torch.as_tensor((spec.action_high + spec.action_low) / 2, dtype=torch.float32)
        self.half = torch.as_tensor((spec.action_high - spec.action_low) / 2, dtype=torch.float32)
        self.zero = (torch.as_tensor(spec.action_zero, dtype=torch.float32) - self.mid) / self.half
        matrix = spline_matrix(p.horizon, p.knots, p.spline)
        self.matrix = torch.as_tensor(matrix, dtype=torch.float32)
        self.inverse = torch.as_tensor(np.linalg.pinv(matrix), dtype=torch.float32)
        self.bank = noise_bank(BANK_SETS, self.population(0), matrix.shape[1], spec.action_dim, beta, seed)
        self.explore = noise_bank(BANK_SETS, 1, p.horizon, spec.action_dim, 2.0, seed + 1)
        self.max_step = torch.as_tensor(spec.action_max_rate * spec.model_dt, dtype=torch.float32) / self.half
        self.slowest = 0.0
        self.seed = seed
        self.rng = torch.Generator()

    def population(self, iteration: int) -> int:
        """Fresh samples in an iteration; must not grow."""
        return self.candidates

    def sample(self, search: Search, noise: torch.Tensor, iteration: int) -> torch.Tensor:
        """[n, K, A] knots from [n, K, A] unit noise."""
        return search.mean + search.std * noise

    def weights(self, costs: torch.Tensor) -> torch.Tensor:
        """[N] weights, summing to 1, from [N] costs of which at least one is finite."""
        raise NotImplementedError

    def carry(self, rows: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
        """[R, H, A] candidates that the next iteration (and the next plan) starts with; by default none."""
        return rows[:0]

    def score(self, rows: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Risk-aggregated cost [N] of candidates [N, H, A] in half ranges, from the state [S]; +inf where not finite."""
        p = self.spec.planner
        actions = self.mid + self.half * rows
        states = rollout(self.model, start, actions, p.propagation, self.rng)
        stage = self.cost.stage(states[:, :, 1:], actions.unsqueeze(0)).sum(-1) + self.cost.terminal(states[:, :, -1])
        cost = self._risk(stage)
        weight = p.disagreement
        if weight and states.shape[0] > 1:
            spread = states[:, :, 1:].std(0, correction=0) / self.model.scale()
            cost = cost + weight * spread.mean(-1).sum(-1)
        return torch.where(torch.isfinite(cost), cost, torch.full_like(cost, math.inf))

    def _risk(self, returns: torch.Tensor) -> torch.Tensor:
        """[E, N] costs of whole rollouts to [N]: mean, mean + k std, or the mean of the worst share of members."""
        p = self.spec.planner
        if p.risk == "mean" or returns.shape[0] == 1:
            return returns.mean(0)
        if p.risk == "std":
            return returns.mean(0) + p.risk_weight * returns.std(0, correction=0)
        worst = max(1, math.ceil(p.cvar_alpha * returns.shape[0]))
        return returns.topk(worst, dim=0).values.mean(0)

    def predict_start(self, request: PlanRequest) -> torch.Tensor:
        """[S] the state at which the plan's first action takes effect: the measured one rolled through commands already sent."""
        lead = float(self.spec.delays.max()) + request.apply_time - request.state_time
        state = torch.as_tensor(request.state, dtype=torch.float32)
        steps = math.ceil(lead / self.model.dt - 1e-6)
        for k in range(steps):
            begin = request.state_time + k * self.model.dt
            width = min(self.model.dt, lead - k * self.model.dt)
            action = torch.as_tensor(mean_command(request, begin, begin + width, self.spec.delays, self.spec.action_zero), dtype=torch.float32)
            ahead = self.model.step(state.expand(self.model.members, 1, -1), action[None]).state.mean(0)[0]
            state = state + (width / self.model.dt) * (ahead - state)
        return state

    def initial(self, request: PlanRequest, previous: Plan | None) -> tuple[Search, torch.Tensor, list[str]]:
        """The search's start, the fixed candidate rows [R, H, A] and the source of each row."""
        if previous is None:
            rows = self.zero.expand(1, self.horizon, -1).clone()
        else:
            rows = torch.as_tensor(shift(previous.carry, self.spec.model_dt, request.apply_time - previous.start), dtype=torch.float32)
        last = torch.as_tensor(request.sent[-1], dtype=torch.float32) if len(request.sent) else self.mid + self.half * self.zero
        hold = ((last - self.mid) / self.half).expand(1, self.horizon, -1)
        fixed, names = [rows[:1], hold, self.zero.expand(1, self.horizon, -1)], ["nominal", "hold", "hold"]
        for source in self.sources:
            found = source.rows(request)
            fixed.append((found - self.mid) / self.half)
            names += [source.name] * len(found)
        mean = self.inverse @ rows[0]
        return Search(mean, torch.full_like(mean, self.init_std), rows[1:], rows[0]), torch.cat(fixed), names

    def limit(self, rows: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Clip candidates [N, H, A] to the limits and, where there are any, to the greatest rates from the command [A] on."""
        rows = rows.clamp(-1.0, 1.0)
        if not torch.isfinite(self.max_step).any():
            return rows
        rows = rows.clone()
        for k in range(rows.shape[1]):
            before = rows[:, k - 1] if k else last
            rows[:, k] = torch.maximum(torch.minimum(rows[:, k], before + self.max_step), before - self.max_step)
        return rows

    @torch.inference_mode()
    def plan(self, request: PlanRequest, previous: Plan | None = None, budget_s: float | None = None,
             iterations: int | None = None) -> Plan:
        """Plan from a measured state.

        Args:
            request: state, times and the commands already sent.
            previous: the last plan, from which this one starts; None after a reset.
            budget_s: stop before an iteration that would not end within it; None for a fixed number of iterations.
            iterations: iterations to do (a replay's); by default the spec's.

        Returns:
            The plan; verdict FALLBACK with the shifted last plan when no candidate has a finite cost.
        """
        begin = time.perf_counter()
        self.rng.manual_seed((self.seed * 1_000_003 + request.seq) % 2**63)
        start = self.predict_start(request)
        search, fixed, names = self.initial(request, previous)
        nominal = fixed[:1]
        last = (torch.as_tensor(request.sent[-1], dtype=torch.float32) - self.mid) / self.half if len(request.sent) else self.zero
        wanted, done, verdict = iterations or self.iterations, 0, Verdict.MET
        for i in range(wanted):
            tick = time.perf_counter()
            if budget_s is not None and done and tick - begin + self.slowest > budget_s:
                verdict = Verdict.EARLY_STOP
                break
            self.iterate(search, fixed, names, last, start, request.seq, i)
            self.slowest = max(0.98 * self.slowest, time.perf_counter() - tick)
            done += 1
        if not math.isfinite(search.best_cost):
            return self._answer(request, nominal, nominal, math.inf, Verdict.FALLBACK, done, begin, search)
        mean = self.limit((self.matrix @ search.mean)[None], last)
        chosen, cost = (mean, search.expected) if self.execute == "mean" else (search.best[None], search.best_cost)
        return self._answer(request, chosen, torch.cat([chosen, search.kept]), cost, verdict, done, begin, search)

    def iterate(self, search: Search, fixed: torch.Tensor, names: list[str], last: torch.Tensor, start: torch.Tensor,
                seq: int, i: int) -> None:
        """One round: sample, score, keep the best, refit the search distribution in place."""
        n = self.population(i)
        noise = self.bank[(seq * self.iterations + i) % BANK_SETS, :n]
        fresh = self.matrix @ self.sample(search, noise, i)
        mean = (self.matrix @ search.mean)[None] if i == self.iterations - 1 and i > 0 else fresh[:0]
        rows = self.limit(torch.cat([fixed, search.kept, mean, fresh]), last)
        costs = self.score(rows, start)
        finite = torch.isfinite(costs)
        search.finite = min(search.finite, float(finite.float().mean()))
        if not finite.any():
            search.kept = search.kept[:0]
            return
        winner = int(costs.argmin())
        if float(costs[winner]) < search.best_cost:
            search.best, search.best_cost = rows[winner], float(costs[winner])
            search.best_source = names[winner] if winner < len(names) else "explore"
        self.refit(search, rows, costs)
        search.kept = self.carry(rows, costs)

    def refit(self, search: Search, rows: torch.Tensor, costs: torch.Tensor) -> None:
        """Move mean and spread of the search to the weighted candidates."""
        weights = self.weights(costs)
        knots = self.inverse @ rows
        mean = torch.einsum("n,nka->ka", weights, knots)
        std = torch.einsum("n,nka->ka", weights, (knots - mean) ** 2).sqrt()
        m = self.momentum
        search.mean = m * search.mean + (1 - m) * mean
        search.std = (m * search.std + (1 - m) * std).clamp(min=self.min_std)
        used = weights > 0
        search.expected = float((weights[used] * costs[used]).sum())

    def _answer(self, request: PlanRequest, chosen: torch.Tensor, carry: torch.Tensor, cost: float, verdict: Verdict, done: int,
                begin: float, search: Search) -> Plan:
        trainer = self.spec.trainer
        noise = trainer.noise * math.exp(-request.experience_s / trainer.noise_fade_s)
        if noise > 1e-3:
            chosen = chosen + noise * self.explore[request.seq % BANK_SETS]
        actions = self.mid + self.half * chosen[0].clamp(-1.0, 1.0)
        return Plan(request.seq, request.apply_time, self.spec.model_dt, actions.numpy().astype(np.float64), cost, verdict,
                    self.model.version, done, time.perf_counter() - begin, search.best_source, carry.numpy().astype(np.float64),
                    {"best_cost": search.best_cost, "finite": search.finite, "std": float(search.std.mean())})


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int) -> SamplingPlanner:
    """The planner that a robot's YAML asks for.

    Raises:
        UserError: unknown kind or option.
    """
    kind = spec.planner.kind
    planner: SamplingPlanner = parts.find("planning", kind).build(spec, model, cost, seed, parts.options("planning", kind, dict(spec.planner.options)))
    return planner
