"""What plans with a robot's newest model, and sees to it that no bad model stays: verify, try, use, watch, go back."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from mbrl_control import parts
from mbrl_control.costs import base as costs
from mbrl_control.errors import SnapshotError
from mbrl_control.models.base import LearnedModel, precision
from mbrl_control.planning import base as planning
from mbrl_control.planning.limits import Limits, predicted
from mbrl_control.planning.plan import Plan, PlanRequest, Verdict
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.behaviours import Behaviours
from mbrl_control.runtime.layout import CARRY_ROWS
from mbrl_control.runtime.model_watch import WRONG_RUN, ModelWatch
from mbrl_control.store import ModelStore
from mbrl_control.store.snapshot import Snapshot
from mbrl_control.store.store import ROLLED_BACK

INVALID_RUN = 3
"""Plans in a row without a finite cost that make the model in use a wrong one."""

WRONG_S = 1.0
"""So long plans say that their model was found wrong, counted from the plan at which it was."""

TRIES = 3
"""Older snapshots looked at for one to go back to, at most: it is done between a request and its plan."""

EPSILON = 1e-9


@dataclass
class Swaps:
    """Counts of snapshots: taken into use, refused before that, taken out of use again."""

    accepted: int = 0
    refused: int = 0
    rolled_back: int = 0


class Known(NamedTuple):
    """A snapshot that fits the robot, and its limits if it brought some."""

    snapshot: Snapshot
    limits: Limits | None


class PlannerCore:
    """Model, cost and planner of a robot, and the swap to newer snapshots; the same in a worker and in lockstep.

    A snapshot is verified, then tried on what has just happened (shadow), then used, then watched. One that turns out wrong gives
    way to the one before, if that one is better, and is refused for good.

    Args:
        spec: the robot.
        store: where snapshots are looked for.
        seed: of the planner's noise.

    Attributes:
        model: in use; version 0 before the first.
        limits: of that model; None for one that brought none.
        behaviours: policies that take part in its plans.
        swaps: what became of snapshots so far.
    """

    def __init__(self, spec: RobotSpec, store: ModelStore, seed: int) -> None:
        self.spec, self.store = spec, store
        options = parts.options("models", spec.model.kind, dict(spec.model.options))
        build = parts.find("models", spec.model.kind).build
        self.model: LearnedModel = build(spec, options)
        self.planner = planning.build(spec, self.model, costs.build(spec), seed)
        self._watch = ModelWatch(spec)
        self.behaviours = Behaviours(spec, self.planner, self.model, self._watch.history)
        self.previous: Plan | None = None
        self.limits: Limits | None = None
        self.swaps = Swaps()
        self._learned = hasattr(self.model, "load")
        self._spare: LearnedModel = build(spec, options) if self._learned else self.model
        if self._learned:  # once: what is loaded later comes in this precision
            for model in (self.model, self._spare):
                model.prepare(precision(spec))
        self._in_use: Known | None = None
        self._back: Known | None = None
        self._refused: set[int] = set()
        self._to_tell: dict[int, str] = {}
        self._invalid = 0
        self._wrong_until = -math.inf
        self._judging_s = 0.0

    def swap(self) -> bool:
        """Take the newest snapshot if it is newer than the model in use; a bad one is refused and kept aside. True if swapped."""
        self.settle()
        newest = self.store.newest(self._refused)
        if newest <= self.model.version:
            return False
        before, known = self._in_use, None
        try:
            known = self._tried(self.store.read(newest, self.spec.hash))
        except SnapshotError as error:
            self.swaps.refused += 1
            self._refuse(newest, str(error))
            self.settle()
        if known is not None:
            self._use(known)
            self.swaps.accepted += 1
            self._back = before
        self._stand_by()
        return known is not None

    def _stand_by(self) -> None:
        """Have the snapshot that was in use before in the spare model again, so that going back to it, between a request and its plan,
        takes neither a read nor a load of it."""
        if self._back is not None:
            self._spare.load(self._back.snapshot)

    def load(self, version: int) -> None:
        """Use a version from the store whatever became of it, in the precision that the robot's YAML asks for.

        Raises:
            SnapshotError: it is not there, damaged, or of another robot.
        """
        self._use(self._fits(self.store.read(version, self.spec.hash, even_refused=True)))

    def _fits(self, snapshot: Snapshot) -> Known:
        """The snapshot with its limits, once the spare model has it.

        Raises:
            SnapshotError: it is not one of this robot's model, or its limits are no limits.
        """
        if not self._learned:
            raise SnapshotError(f"snapshot version {snapshot.version}: model '{self.spec.model.kind}' is known and takes no snapshots")
        limits = Limits.of(snapshot.figures, self.spec)
        self.behaviours.check(snapshot)
        self._spare.load(snapshot)
        return Known(snapshot, limits)

    def _tried(self, snapshot: Snapshot) -> Known:
        """The snapshot with its limits, unless there is something against its use.

        Raises:
            SnapshotError: what.
        """
        known = self._fits(snapshot)
        objection = self._watch.objection(self._spare, self.model) if self.model.version else None
        if objection is not None:
            raise SnapshotError(f"snapshot version {snapshot.version}: {objection}")
        return known

    def _use(self, known: Known) -> None:
        self.model.load(known.snapshot)
        self.behaviours.use(known.snapshot)
        self._in_use, self._back = known, None
        self.limits, self._invalid = known.limits, 0
        self._watch.forget()

    def _refuse(self, version: int, reason: str) -> None:
        """For good, also where the folder cannot be moved; `settle` tells the store."""
        self._refused.add(version)
        self._to_tell[version] = reason

    def settle(self) -> None:
        """Keep aside in the store what plans have refused, so that no plan waits for the disk: to be called after a plan; `swap` does."""
        while self._to_tell:
            self.store.refuse(*self._to_tell.popitem())

    def warm_up(self, rounds: int = 3) -> float:
        """Capture, plan for an arbitrary state, without effect on later plans, and give the longest time taken, s."""
        self.planner.capture(CARRY_ROWS)
        request = PlanRequest(0, np.zeros(self.spec.state_dim), 0.0, self.spec.tick_s, np.zeros(0), np.zeros((0, self.spec.action_dim)))
        return max(self.planner.plan(request).latency_s for _ in range(rounds))

    def see(self, request: PlanRequest) -> None:
        """Take in what a request tells of what has happened; `plan` does so itself."""
        self._watch.see(request)

    def forget(self) -> None:
        """Know nothing of what has happened, as at the start."""
        self._watch.history.clear()

    def plan(self, request: PlanRequest, budget_s: float | None = None, iterations: int | None = None) -> tuple[Plan, int]:
        """A plan and the number of the plan that it started from; the arguments are those of the planner."""
        begin = self.planner.clock()
        before = self.previous.seq if self.previous is not None else -1
        self.see(request)
        evidence = self._watch.evidence(self.model, self.limits)
        if evidence is not None:
            self._distrust(request, f"{WRONG_RUN} model steps in a row were wrong beyond the limits of its validation",
                           lambda other: self._watch.better(other, self.model, evidence))
        if budget_s is not None:
            budget_s -= self.planner.clock() - begin + self._judging_s
        plan = self.planner.plan(request, self.previous, budget_s, iterations)
        tick = self.planner.clock()
        faults = self._faults(request, plan)
        self._judging_s = max(0.98 * self._judging_s, self.planner.clock() - tick)
        # What is not logged must not count, or a logged plan could not be made again.
        self.previous = replace(plan, carry=plan.carry[:CARRY_ROWS], faults=faults, latency_s=self.planner.clock() - begin)
        return self.previous, before

    def _faults(self, request: PlanRequest, plan: Plan) -> tuple[str, ...]:
        """What is to be said of a plan and of the model that it was made with."""
        invalid = plan.verdict == Verdict.FALLBACK
        self._invalid = self._invalid + 1 if invalid else 0
        doubtful = False
        if self._invalid == INVALID_RUN:
            self._distrust(request, f"no candidate of {INVALID_RUN} plans in a row had a finite cost",
                           lambda other: self._has_cost(other, request, plan) and not self._has_cost(self.model, request, plan))
        elif not invalid and self.limits is not None:
            doubtful = self.limits.left_by(self._ahead(self.model, request, plan)[0], self.model.scale())
        wrong = EPSILON < self._wrong_until - request.apply_time <= WRONG_S + EPSILON
        found = (("plan_invalid", invalid), ("model_doubtful", doubtful), ("model_wrong", wrong))
        return tuple(code for code, present in found if present)

    def _ahead(self, model: LearnedModel, request: PlanRequest, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        """[E, 1, H, S] what a model expects of a plan, each member for itself, and [1, H, A] the commands in effect meanwhile."""
        delays = self.planner.delays
        with torch.inference_mode():
            actions = delays.played(torch.as_tensor(plan.actions, dtype=torch.float32)[None], delays.pending(request))
            return predicted(model, delays.start(model, request), actions), actions

    def _has_cost(self, model: LearnedModel, request: PlanRequest, plan: Plan) -> bool:
        """Whether a plan's cost is finite by a model."""
        states, actions = self._ahead(model, request, plan)
        cost = self.planner.cost
        with torch.inference_mode():
            return bool((cost.stage(states, actions[None]).sum() + cost.terminal(states[:, :, -1]).sum()).isfinite())

    def _distrust(self, request: PlanRequest, why: str, better: Callable[[LearnedModel], bool]) -> None:
        """The model in use was found wrong: say so for a second, and go back to the one before if that is better.

        A robot that has changed makes every older model as wrong as the newest; then only the next refit helps.
        """
        self._wrong_until, self._invalid = request.apply_time + WRONG_S, 0
        before = self._before()
        if before is None or not better(self._spare):
            return
        wrong = self.model.version
        self._use(before)
        self.swaps.rolled_back += 1
        self._refuse(wrong, f"{ROLLED_BACK} to version {before.snapshot.version}, which was better: {why}")

    def _before(self) -> Known | None:
        """What was in use before, or else an older one from the store, in the spare model; None where there is none that can be used."""
        if self._back is not None:
            return self._back
        older = (v for v in reversed(self.store.versions()) if v < self.model.version and v not in self._refused)
        for version in itertools.islice(older, TRIES):
            with contextlib.suppress(SnapshotError):
                return self._fits(self.store.read(version, self.spec.hash))
        return None
