"""Whether a model does for the robot what it should: before it is used, on what has just happened, and afterwards at every request."""

from __future__ import annotations

import math

from mbrl_control.data.sequences import Sequences
from mbrl_control.models.base import LearnedModel, Model
from mbrl_control.planning.limits import Limits, k_step_error
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.history import History

SHADOW_S = 3.0
SHADOW_LEAST_S = 1.0
SHADOW_STEPS = 10
SHADOW_ROWS = 32
SHADOW_RATIO = 2.0
"""Of the errors of two models over the last seconds: between one refit and the next 1.4 is the most seen in runs that went well."""

SHADOW_FLOOR = 0.1
"""Typical one-step changes: an error below it is no reason to refuse a model, however good the one in use is."""

WRONG_RUN = 10
"""Judgements in a row, one a plan, that make a model a wrong one: 0.2 s at 50 plans a second."""

BETTER = 0.8
"""A model is better than another when its error is smaller by this factor: going to and fro between equals helps nobody."""


class ModelWatch:
    """History of a robot and what models make of it.

    Args:
        spec: the robot.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self.spec = spec
        self.history = History(spec, SHADOW_S)
        self._steps = min(SHADOW_STEPS, spec.planner.horizon)
        self._wrong: list[Sequences] = []

    def see(self, request: PlanRequest) -> None:
        """Take in what a request tells."""
        self.history.add(request)

    def objection(self, candidate: Model, incumbent: Model) -> str | None:
        """Why a model must not take the place of the one in use; None when nothing speaks against it.

        Both predict the same stretches of what has just happened. With less than a second of them there is nothing to judge by.
        """
        data = self.history.stretches(self._steps, SHADOW_ROWS)
        if not len(data) or data.start[-1] - data.start[0] < SHADOW_LEAST_S:
            return None
        new, old = (k_step_error(model, data, self.spec.wraps, incumbent.scale()) for model in (candidate, incumbent))
        if math.isfinite(new) and new <= max(SHADOW_RATIO * old, SHADOW_FLOOR):
            return None
        return (f"over the last {self.history.seconds:g} s its {self._steps}-step error was {new:.3g} typical one-step changes, that of "
                f"the model in use {old:.3g}; at most {SHADOW_RATIO:g} times that, or {SHADOW_FLOOR:g}, is allowed")

    def evidence(self, model: LearnedModel, limits: Limits | None) -> Sequences | None:
        """The last `WRONG_RUN` model steps if the model was wrong, beyond its limits, about every one of them; else None.

        To be called once after each `see`: each call judges the model step that ends with the newest state, if that is known.
        """
        latest = self.history.latest()
        if limits is None or not len(latest):
            return None
        if not limits.exceeded_by(model, latest, self.spec):
            self._wrong = []
            return None
        self._wrong.append(latest)
        if len(self._wrong) < WRONG_RUN:
            return None
        found, self._wrong = Sequences.join(self._wrong), []
        return found

    def better(self, other: Model, model: Model, evidence: Sequences) -> bool:
        """Whether another model would have been clearly less wrong."""
        theirs, ours = (k_step_error(m, evidence, self.spec.wraps, model.scale()) for m in (other, model))
        return theirs < BETTER * ours or (math.isfinite(theirs) and not math.isfinite(ours))

    def forget(self) -> None:
        """Begin anew to count: another model is in use."""
        self._wrong = []
