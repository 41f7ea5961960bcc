"""The one loop of every sampling planner: sample, roll out, weigh, refit. Planners differ in a few short methods."""

from __future__ import annotations

import dataclasses
import importlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch

from mbrl_control import parts
from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model, Rounded
from mbrl_control.planning import idling, risk, scoring
from mbrl_control.planning.actions import ActionSpace
from mbrl_control.planning.delays import Delays
from mbrl_control.planning.engine import Direct, Engine, Found
from mbrl_control.planning.knots import spline_matrix
from mbrl_control.planning.noise import noise_bank
from mbrl_control.planning.placing import placed
from mbrl_control.planning.plan import Plan, PlanRequest, Verdict, cell, shift
from mbrl_control.planning.proposals import Proposal
from mbrl_control.planning.record import Record, Shape, Summary
from mbrl_control.planning.rollout import Propagation
from mbrl_control.planning.search import Problem, Search
from mbrl_control.planning.second_order import SecondOrder
from mbrl_control.planning.weighting import average
from mbrl_control.robot import RobotSpec

EXPLORE_BETA = 2.0
DITHER_CELLS = 1024
CLEAR = 0.8
"""Of the limits: a plan that stays within can still be corrected to either side."""


class SamplingPlanner(ABC):
    """The loop. A subclass gives `weights`, and may change `population`, `sample`, `spread`, `carry` and `revive`.

    The loop holds no result in its hands: costs, weights and the best row stay tensors until the plan's end, so that an iteration is a
    fixed list of tensor operations on buffers that stay (`record`), whatever the candidates cost.

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
        turns: entries in the record per iteration.
        keeps: candidates that `carry` gives, at most.
        placeable: whether the iterations may run on another device.
        record: what the present plan's iterations found.
        engine: what runs the iterations; `direct` here.
        lost: engines that were given up, and in `fault` what the last one said.
    """

    sources: tuple[Proposal, ...] = ()
    clock: Callable[[], float] = staticmethod(time.perf_counter)
    guard: Callable[[], Any] = staticmethod(torch.inference_mode)
    turns = 1
    keeps = 0
    placeable = True
    record: Record

    def __init__(self, spec: RobotSpec, model: Model, cost: Cost, seed: int, *, beta: float = 0.0, init_std: float = 0.5,
                 min_std: float = 0.05, momentum: float = 0.0, execute: str = "mean") -> None:
        self.spec, self.model, self.cost = spec, model, cost
        p = spec.planner
        self.horizon, self.iterations, self.candidates = p.horizon, p.iterations, p.candidates
        self.init_std, self.min_std, self.momentum, self.execute = init_std, min_std, momentum, execute
        self.space, self.delays = ActionSpace(spec), Delays(spec)
        self.ranged = risk.Ranges.of(spec)
        self.fine = model.precise() if p.newton_rows and isinstance(model, Rounded) else model
        self.newton = SecondOrder(self, p.newton_rows) if p.newton_rows else None
        matrix = spline_matrix(p.horizon, p.knots, p.spline)
        self.splined = matrix.shape[1] < p.horizon
        self.matrix = torch.as_tensor(matrix, dtype=torch.float32)
        self.inverse = torch.as_tensor(np.linalg.pinv(matrix), dtype=torch.float32)
        self.bank = noise_bank(self.population(0), matrix.shape[1], spec.action_dim, beta, seed)
        self.explore = noise_bank(1, p.horizon, spec.action_dim, EXPLORE_BETA, seed + 1)
        self.dither = noise_bank(1, DITHER_CELLS, spec.action_dim, 0.0, seed + 2)[0, 0]
        self.seed = seed
        self.rng = torch.Generator()
        self.allocate(Shape(0, 0, 0, p.horizon, spec.action_dim))
        self.engine: Engine = Direct(self)
        self.direct = self.engine
        self.lost: list[Engine] = []
        self.fault = ""

    # What planners differ in ---------------------------------------------------------------------------------------------------

    def population(self, iteration: int) -> int:
        """Fresh samples in an iteration; must not grow."""
        return self.candidates

    def sample(self, search: Search, noise: torch.Tensor) -> torch.Tensor:
        """[n, K, A] knots from [n, K, A] unit noise."""
        return torch.addcmul(search.mean, search.std, noise)

    @abstractmethod
    def weights(self, search: Search, costs: torch.Tensor) -> torch.Tensor:
        """[N] weights, summing to 1 and 0 where the cost is not finite, from [N] costs; anything where no cost is finite."""

    def spread(self, search: Search, knots: torch.Tensor, mean: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """[K, A] standard deviation for the next iteration, from weighted knots [N, K, A] and their mean [K, A]."""
        std = average(weights, (knots - mean).square_()).sqrt_()
        return std.lerp_(search.std, self.momentum).clamp_(min=self.min_std)

    def carry(self, rows: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
        """[R, H, A] candidates that the next iteration (and the next plan) starts with, `keeps` at most; by default none."""
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
            try:
                return self._plan(request, previous, budget_s, iterations, begin)
            except RuntimeError as error:
                if self.engine is self.direct:
                    raise
                self.lose(error)
                return self._plan(request, previous, budget_s, iterations, begin)

    def _plan(self, request: PlanRequest, previous: Plan | None, budget_s: float | None, iterations: int | None, begin: float) -> Plan:
        self.rng.manual_seed((self.seed * 1_000_003 + request.seq) % 2**63)
        problem, search = self.prepare(request, previous)
        engine, wanted = self.engine, self.iterations if iterations is None else iterations
        engine.begin(problem, search, wanted)
        done, verdict = 0, Verdict.MET
        while done < wanted:
            tick = self.clock()
            if budget_s is not None and done and tick - begin + engine.slowest + engine.closing > budget_s:
                verdict = Verdict.EARLY_STOP
                break
            # The last of a full plan, not of this one: so that a plan that was stopped early replays to the same bits.
            engine.iterate(done, done == self.iterations - 1)
            if budget_s is not None:
                engine.settle()
            engine.slowest = max(0.98 * engine.slowest, self.clock() - tick)
            done += 1
        tick = self.clock()
        found = engine.finish()
        summary = Summary.of(found.record, done * self.turns)
        engine.closing = max(0.98 * engine.closing, self.clock() - tick)
        stats = self._stats(found, summary, len(problem.fixed))
        if not math.isfinite(summary.cost):
            return self._fallback(request, previous, stats, done, begin)
        return self._answer(request, problem, found, summary, stats, verdict, done, begin, idling.known(previous))

    def capture(self, carry_rows: int | None = None) -> None:
        """Do now what must not happen while the robot is controlled: warm up and, on a GPU, capture the graphs.

        To be called once the model has weights; it has no effect on later plans. A GPU that fails here is given up, as in `plan`.

        Args:
            carry_rows: how many rows of a plan's `carry` come back with the next request; None for all.
        """
        still = PlanRequest(0, np.zeros(self.spec.state_dim), 0.0, self.spec.tick_s, np.zeros(0), np.zeros((0, self.spec.action_dim)))
        engine, self.engine = self.engine, self.direct
        plan = self.plan(still)
        self.engine = engine
        carry = np.zeros((1 + self.keeps, self.horizon, self.spec.action_dim))[:carry_rows]
        with self.guard():
            try:
                for previous in (None, dataclasses.replace(plan, carry=carry)):
                    engine.capture(*self.prepare(still, previous))
            except RuntimeError as error:
                if engine is self.direct:
                    raise
                self.lose(error)

    def lose(self, error: Exception) -> None:
        """Give up the device and go on with the planner's own processor."""
        self.fault = str(error).partition("\n")[0] or type(error).__name__
        # Kept, since freeing what lies on a device that hangs may hang too.
        self.lost.append(self.engine)
        self.engine = self.direct

    def on(self, device: torch.device, model: Model) -> Self:
        """A twin whose iterations run on a device, with the model's twin there; it is given its problems, it does not prepare them."""
        twin = placed(self, device)
        twin.model = model
        twin.space, twin.delays, twin.ranged = placed(self.space, device), placed(self.delays, device), placed(self.ranged, device)
        own = getattr(self.cost, "on", None)
        twin.cost = own(device) if own is not None else placed(self.cost, device)
        twin.allocate(Shape(0, 0, 0, self.horizon, self.spec.action_dim))
        twin.engine = twin.direct = Direct(twin)
        return twin

    def predict_start(self, request: PlanRequest) -> torch.Tensor:
        """[S] the state at which the plan's first action takes effect; see `Delays.start`."""
        return self.delays.start(self.fine, request)

    def prepare(self, request: PlanRequest, previous: Plan | None) -> tuple[Problem, Search]:
        """The start state and the rows that stand in every iteration; and where the search starts."""
        space, horizon = self.space, self.horizon
        here, part = cell(request.apply_time, dt := self.spec.model_dt)
        if previous is None:
            rows, cells = space.zero.expand(1, horizon, -1), 0
        else:
            cells = min(horizon, max(0, here - cell(previous.start, dt)[0]))
            rows = torch.as_tensor(shift(previous.carry, dt, cells * dt), dtype=torch.float32)
        last = space.normal(torch.as_tensor(request.sent[-1], dtype=torch.float32)) if len(request.sent) else space.zero
        fixed = [rows[:1], last.expand(1, horizon, -1), space.zero.expand(1, horizon, -1)]
        names = ["nominal", "hold", "hold"]
        idle = idling.known(previous)
        for n, source in enumerate(self.sources):
            if not idling.asked(idle, n, request.seq):
                source.pass_over()
                continue
            found = space.normal(source.rows(request).to(torch.float32))
            # A row that is not finite would spoil every weighted mean, even with weight 0.
            found = found[found.isfinite().all(-1).all(-1)]
            fixed.append((1 - part) * found + part * torch.cat([found[:, :1], found[:, :-1]], 1))
            names += [source.name] * len(found)
        mean = self.knots(rows[0])
        search = Search(mean, torch.full_like(mean, self.init_std), self.revive(rows[1:], rows[0], cells))
        scale = self.model.scale() if self.spec.planner.disagreement and self.model.members > 1 else None
        within = space.limit(torch.cat(fixed), last, reuse=True)
        doubts = self.spec.planner.risk != "mean" or scale is not None
        free = self.newton is not None and not doubts and space.clear(within[0], last, CLEAR)
        problem = Problem(request.seq, self.predict_start(request), last, torch.tensor(part) if part else None,
                          self.delays.pending(request), within, scale, names, free=free)
        # The first plan after going back to an older model is wanted soon, and the last one is no optimum of this model to step from.
        gone_back = previous is not None and previous.model_version > self.model.version
        if self.newton is not None and not gone_back:
            found = space.limit(self.newton.rows(problem), last, reuse=True)
            problem = dataclasses.replace(problem, fixed=torch.cat([problem.fixed, found]), names=names + [self.newton.name] * len(found))
        problem.names.extend(["nominal"] * len(search.kept))
        return problem, search

    def shape(self, problem: Problem, search: Search, iterations: int) -> Shape:
        """Of the record that iterations of a plan need."""
        kept = max(self.keeps, len(search.kept))
        return Shape(iterations * self.turns, len(problem.fixed) + kept + 1 + self.population(0), kept, self.horizon, self.spec.action_dim)

    def reserve(self, problem: Problem, search: Search, iterations: int) -> None:
        """Make room for what iterations of a plan leave behind, where there is too little; and forget the last plan's."""
        if not self.record.shape.holds(shape := self.shape(problem, search, iterations)):
            self.allocate(shape)
        self.record.clear()

    def allocate(self, shape: Shape) -> None:
        """Make the buffers of the loop, of the sizes given."""
        self.record = Record(shape, self.bank.device)
        self._buffer = torch.empty(shape.rows, shape.horizon, shape.axes, device=self.bank.device)

    def rows(self, knots: torch.Tensor) -> torch.Tensor:
        """[..., H, A] actions of knots [..., K, A]."""
        return self.matrix @ knots if self.splined else knots

    def knots(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., K, A] knots nearest to actions [..., H, A]."""
        return self.inverse @ rows if self.splined else rows

    def noise(self, problem: Problem, i: int) -> torch.Tensor:
        """[n, K, A] unit noise of an iteration."""
        if problem.sets is not None:
            return self.bank[:, : self.population(i)].index_select(0, problem.sets[i : i + 1].long())[0]
        return self.bank[(problem.seq * self.iterations + i) % len(self.bank), : self.population(i)]

    def iterate(self, search: Search, problem: Problem, i: int, final: bool) -> None:
        """One round: sample, score, note the best, refit the search distribution."""
        parts = [problem.fixed, search.kept, self.rows(self.sample(search, self.noise(problem, i)))]
        # The mean joins in the last iteration only: earlier it would narrow the spread (Pinneri et al. 2020, section 3.4).
        if final and i:
            parts.insert(2, self.rows(search.mean)[None])
        rows = torch.cat(parts, out=self._buffer[: sum(map(len, parts))])
        rows = self.space.limit(rows, problem.last, reuse=True)
        costs = self.score(rows, problem)
        least = self.record.note(i, rows, costs)
        self.refit(search, rows, costs, least)

    def mixed(self, rows: torch.Tensor, problem: Problem) -> torch.Tensor:
        """[N, H, A] means of rows [N, H, A] over the cells from the first action on."""
        if problem.part is None:
            return rows
        return torch.lerp(rows, torch.cat([rows[:, 1:], rows[:, -1:]], 1), problem.part)

    def sent(self, rows: torch.Tensor, problem: Problem) -> torch.Tensor:
        """[N, H, A] what is sent from the first action on, in half ranges, for rows [N, H, A] within limits."""
        return rows if problem.part is None else self.space.slow(self.mixed(rows, problem), problem.last)

    def score(self, rows: torch.Tensor, problem: Problem, finely: bool = False) -> torch.Tensor:
        """Risk-aggregated cost [N] of candidates [N, H, A] in half ranges and within limits; +inf where not finite.

        `finely`: by the precise model, and by the paths that count for the problem (see `Problem.free`).
        """
        p = self.spec.planner
        model = self.fine if finely else self.model
        propagation: Propagation = "mean" if finely and problem.free else p.propagation
        sent = self.sent(rows, problem)
        actions = self.delays.played(self.space.commands(sent), problem.pending)
        cost = scoring.expected(p, model, self.cost, self.ranged, problem, actions, propagation, self.rng)
        if p.smoothness:
            cost = cost + p.smoothness * risk.roughness(sent, problem.last)
        return cost.nan_to_num(math.inf, math.inf, math.inf)

    def refit(self, search: Search, rows: torch.Tensor, costs: torch.Tensor, least: torch.Tensor) -> None:
        """Move mean and spread of the search to the weighted candidates, and keep some of them.

        Args:
            search: what the iterations pass on; its mean and spread stay as they are if no cost is finite.
            rows: [N, H, A] candidates.
            costs: [N] theirs.
            least: 0-d, the least of them.
        """
        alive = least < math.inf
        weights = self.weights(search, costs)
        knots = self.knots(rows)
        mean = average(weights, knots)
        std = self.spread(search, knots, mean, weights)
        search.mean = torch.where(alive, mean.lerp_(search.mean, self.momentum), search.mean)
        search.std = torch.where(alive, std, search.std)
        search.figures["ess"] = torch.dot(weights, weights).reciprocal_()
        search.kept = self.carry(rows, costs)

    def close(self, search: Search, problem: Problem) -> None:
        """Score the refitted mean if it may be played, and put what the search leaves into the record."""
        if self.execute == "mean":
            self.record.mean.copy_(self.space.limit(self.rows(search.mean)[None], problem.last))
            if self.newton is None:
                self.record.mean_cost.copy_(self.score(self.record.mean, problem))
        self.record.close(search.kept, search.std, list(search.figures.values()))

    def choose(self, record: Record, problem: Problem, summary: Summary, done: int) -> tuple[torch.Tensor, float]:
        """The row [1, H, A] to play, and its cost, after `done` iterations."""
        best = record.best[summary.turn, None], summary.cost
        if self.execute == "best":
            return best
        if self.newton is None:
            costs = torch.cat([record.mean_cost, record.costs[done * self.turns - 1, : len(problem.fixed)]]).tolist()
        else:
            costs = self.score(torch.cat([record.mean, problem.fixed]), problem, finely=True).tolist()
        cost = min(costs)
        least = costs.index(cost)
        if not math.isfinite(cost):
            return best
        return (problem.fixed[least - 1, None] if least else record.mean), cost

    def source(self, problem: Problem, summary: Summary) -> str:
        """The proposal source that the best candidate came from; kept ones of the last plan were candidates at first only."""
        known = problem.names if summary.turn == 0 else problem.names[: len(problem.fixed)]
        return known[summary.winner] if summary.winner < len(known) else "explore"

    def _answer(self, request: PlanRequest, problem: Problem, found: Found, summary: Summary, stats: dict[str, float], verdict: Verdict,
                done: int, begin: float, idle: tuple[int, ...]) -> Plan:
        spec, trainer = self.spec, self.spec.trainer
        row, cost = self.choose(found.record, problem, summary, done)
        fading = trainer.noise * math.exp(-request.experience_s / trainer.noise_fade_s)
        sent = self.sent(row, problem)
        if fading > 1e-3:
            sent = sent + fading * self.explore[request.seq % len(self.explore)]
        if trainer.noise_floor:
            # What a plan that hardly moves lacks; one that moves by itself is informative enough.
            lack = (trainer.noise_floor**2 - sent[0].var(0, correction=0)).clamp(min=0.0).sqrt()
            # The same at the same time in every plan: a model sees means over its steps, noise within them would only blur these.
            cells = cell(request.apply_time, spec.model_dt)[0] + torch.arange(self.horizon)
            sent = sent + self.mixed((lack * self.dither[cells % len(self.dither)])[None], problem)
        actions = self.space.commands(self.space.limit(sent, problem.last))[0].numpy().astype(np.float64)
        carry = torch.cat([row, found.record.kept[: found.kept]]).numpy().astype(np.float64)
        winner = self.source(problem, summary)
        idle = idling.after(idle, request.seq, [source.name == winner or source.useful() for source in self.sources])
        return Plan(request.seq, request.apply_time, self.spec.model_dt, actions, cost, verdict, self.model.version, done,
                    self.clock() - begin, winner, carry, stats, idle=idle)

    def _fallback(self, request: PlanRequest, previous: Plan | None, stats: dict[str, float], done: int, begin: float) -> Plan:
        """The last plan as it stands: it is not stretched, so that it runs out at its own end; without one, do nothing."""
        if previous is None:
            still = self.space.zero.expand(1, self.horizon, -1)
            actions, carry = (t.numpy().astype(np.float64) for t in (self.space.physical(still)[0], still))
            previous = Plan(request.seq, request.apply_time, self.spec.model_dt, actions, math.inf, Verdict.FALLBACK, 0, done, 0.0,
                            "nominal", carry)
        return dataclasses.replace(previous, seq=request.seq, cost=math.inf, verdict=Verdict.FALLBACK, model_version=self.model.version,
                                   iterations=done, latency_s=self.clock() - begin, winner="nominal", stats=stats)

    def _stats(self, found: Found, summary: Summary, fixed: int) -> dict[str, float]:
        figures = dict(zip(["std", *found.figures], found.record.figures.tolist(), strict=False))
        closing = (self.execute == "mean") * (1 if self.newton is None else 1 + fixed)
        device = self.lost or self.engine is not self.direct
        return {"finite": summary.finite, "rollouts": float(summary.counts.sum() + closing), "best_cost": summary.cost,
                **{name: value for name, value in figures.items() if math.isfinite(value)},
                **({"device_faults": float(len(self.lost)), "uncaptured": float(found.uncaptured)} if device else {})}


def build(spec: RobotSpec, model: Model, cost: Cost, seed: int, device: str | None = None) -> SamplingPlanner:
    """The planner that a robot's YAML asks for.

    Args:
        spec: the robot.
        model: what will happen.
        cost: what is wanted.
        seed: of the noise.
        device: `auto`, `cpu` or `cuda`; None for what the YAML says.

    Raises:
        UserError: unknown kind or option, or no such device for these parts.
    """
    kind = spec.planner.kind
    options = parts.options("planning", kind, dict(spec.planner.options))
    planner: SamplingPlanner = parts.find("planning", kind).build(spec, model, cost, seed, options)
    if (device or spec.planner.device) != "cpu":
        # Not needed by a planner on the processor, and it needs this module.
        importlib.import_module("mbrl_control.planning.graphs").attach(planner, device or spec.planner.device)
    return planner
