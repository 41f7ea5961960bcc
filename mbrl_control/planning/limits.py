"""How far a model may be trusted: what held-out data said of it when it was fitted, and whether a plan stays within that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError
from mbrl_control.models.base import LearnedModel, Model
from mbrl_control.planning import coverage, risk
from mbrl_control.planning.coverage import Widths
from mbrl_control.planning.rollout import rollout
from mbrl_control.robot import RobotSpec, wrap_angle

FIGURE = "limits"
"""Under which the figures of a snapshot hold its limits."""

QUANTILE = 0.99
ERROR_FACTOR = 3.0
DISAGREEMENT_FACTOR = 3.0
FLOOR = 0.05
"""Typical one-step changes: an error or a disagreement below it, per step, is nobody's concern, however calm the held-out data was."""

BOX_MARGIN = 0.25
MOST_STEPS = 1000
MEASURED_ROWS = 512
"""Held-out stretches looked at, at most, so that measuring costs little beside a fit."""


def k_step_error(model: Model, data: Sequences, wraps: np.ndarray, scale: torch.Tensor) -> float:
    """Root mean square of the open-loop error over all steps and signals, in units of `scale` [S]; inf when not finite."""
    with torch.inference_mode(), np.errstate(all="ignore"):
        start = torch.as_tensor(data.state[:, 0], dtype=torch.float32)
        states = rollout(model, start, torch.as_tensor(data.action, dtype=torch.float32), "mean")[0].numpy()
        error = states - data.state
        error[..., wraps] = wrap_angle(error[..., wraps])
        scaled = error[:, 1:] / scale.numpy()
        score = float(np.sqrt(np.mean(scaled**2)))
    return score if np.isfinite(score) else float("inf")


def step_errors(model: Model, data: Sequences, wraps: np.ndarray) -> np.ndarray:
    """[M] root mean square over signals of the error after each stretch's first step, in typical one-step changes; inf when not finite."""
    with torch.inference_mode(), np.errstate(all="ignore"):
        start = torch.as_tensor(data.state[:, 0], dtype=torch.float32)
        ahead = rollout(model, start, torch.as_tensor(data.action[:, :1], dtype=torch.float32), "mean")[0, :, 1].numpy()
        error = ahead - data.state[:, 1]
        error[:, wraps] = wrap_angle(error[:, wraps])
        size = np.sqrt(np.mean((error / model.scale().numpy()) ** 2, axis=1))
    return np.asarray(np.nan_to_num(size, nan=np.inf, posinf=np.inf))


def predicted(model: Model, start: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """[E, N, H, S] each member's own path from `start` [S] or [N, S] under `actions` [N, H, A], the start left out."""
    with torch.inference_mode():
        return rollout(model, start, actions, "tsinf")[:, :, 1:]


@dataclass(frozen=True)
class Limits:
    """What a model was found to be good for.

    Attributes:
        low: [S] least value of each signal in the data, with a margin; -inf for signals that have no box.
        high: [S] the greatest; inf likewise.
        steps: model steps over which the members' disagreement is summed.
        disagreement: of a plan, in units of `risk.disagreement` over the first `steps`; inf when unknown.
        error: of one model step, as `step_errors` gives it; inf when unknown.
        surprise: of one model step, as `coverage.surprise` gives it; inf when unknown, and for robots without `intervals`, whose predicted
            variances nobody has compared with what happens.
    """

    low: np.ndarray
    high: np.ndarray
    steps: int
    disagreement: float
    error: float
    surprise: float = math.inf

    @staticmethod
    def none(spec: RobotSpec) -> Limits:
        """Limits that nothing exceeds."""
        everywhere = np.full(spec.state_dim, math.inf)
        return Limits(-everywhere, everywhere, spec.planner.horizon, math.inf, math.inf)

    @staticmethod
    def measure(model: LearnedModel, known: Sequences, held: Sequences, spec: RobotSpec) -> Limits:
        """The limits of a model, from the data that it was fitted to and from data that was held out.

        The box is that of all data, and of its mirror image for a robot that has one, widened by a quarter of its width on either side.
        Angles that wrap have none, nor have signals that the model does not look at. The other two are three times the 0.99 quantile
        over the held-out stretches: between blocks of held-out time and where a robot goes next there is more difference than inside
        of them. So is the surprise, where held-out data is at least as surprising as runs that were not seen at all were to the robot's
        `intervals`.

        Args:
            model: fitted, in the precision in which it will be used.
            known: stretches of all data.
            held: stretches of held-out data, K steps each; none if there is too little of it to judge by.
            spec: the robot.
        """
        seen = known.state.reshape(-1, spec.state_dim)
        signs = np.where([name in spec.model.mirror for name in spec.state_names], -1.0, 1.0)
        low, high = (reach(np.stack([seen.min(0), seen.max(0), signs * seen.min(0), signs * seen.max(0)]), axis=0)
                     for reach in (np.min, np.max))
        boxless = spec.wraps | np.array([name in spec.model.ignore for name in spec.state_names])
        margin = np.where(boxless, np.inf, BOX_MARGIN * (high - low))
        steps, disagreement, error, surprise = held.action.shape[1], math.inf, math.inf, math.inf
        if len(held):
            rows = held.select(np.unique(np.linspace(0, len(held) - 1, MEASURED_ROWS).round().astype(int)))
            start, actions = (torch.as_tensor(a, dtype=torch.float32) for a in (rows.state[:, 0], rows.action))
            apart = risk.disagreement(predicted(model, start, actions), model.scale()).numpy()
            disagreement = max(steps * FLOOR, DISAGREEMENT_FACTOR * float(np.quantile(apart, QUANTILE)))
            error = max(FLOOR, ERROR_FACTOR * float(np.quantile(step_errors(model, rows, spec.wraps), QUANTILE)))
            if (widths := Widths.of(spec)) is not None:
                surprise = ERROR_FACTOR * max(1.0, float(np.quantile(coverage.surprise(model, rows, spec, widths), QUANTILE)))
        return Limits(low - margin, high + margin, steps, disagreement, error, surprise)

    def exceeded_by(self, model: LearnedModel, step: Sequences, spec: RobotSpec) -> bool:
        """Whether a model was wrong about one model step (the first of one stretch): by more than it ever was about held-out data, or by
        more than its own, recalibrated doubt allows there."""
        if step_errors(model, step, spec.wraps)[0] > self.error:
            return True
        widths = Widths.of(spec) if math.isfinite(self.surprise) else None
        return widths is not None and bool(coverage.surprise(model, step, spec, widths)[0] > self.surprise)

    def left_by(self, states: torch.Tensor, scale: torch.Tensor) -> bool:
        """Whether a plan goes where the model is not to be trusted: the members' mean leaves the box, or they disagree too much.

        Args:
            states: [E, 1, H, S] predicted, one path for each member.
            scale: [S] the model's typical one-step changes.
        """
        mean = states.mean(0)[0].numpy()
        inside = bool(((mean >= self.low) & (mean <= self.high)).all())
        return not (inside and float(risk.disagreement(states[:, :, : self.steps], scale)) <= self.disagreement)

    def figures(self) -> dict[str, Any]:
        """As JSON values: null for infinite ones."""
        return {"low": [_finite(v) for v in self.low.tolist()], "high": [_finite(v) for v in self.high.tolist()], "steps": self.steps,
                "disagreement": _finite(self.disagreement), "error": _finite(self.error),
                "surprise": _finite(self.surprise)}

    @staticmethod
    def of(figures: dict[str, Any], spec: RobotSpec) -> Limits | None:
        """The limits among a snapshot's figures; None where it has none (a snapshot of an earlier version).

        Raises:
            SnapshotError: they are not as `figures` writes them.
        """
        found = figures.get(FIGURE)
        if found is None:
            return None
        if not isinstance(found, dict):
            raise SnapshotError(f"figure '{FIGURE}' must be a mapping, not {type(found).__name__}")
        low, high = _numbers(found, "low", spec.state_dim, -math.inf), _numbers(found, "high", spec.state_dim, math.inf)
        disagreement, error, surprise = (_numbers({key: [found.get(key)]}, key, 1, math.inf)[0]
                                         for key in ("disagreement", "error", "surprise"))
        steps = found.get("steps")
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MOST_STEPS:
            raise SnapshotError(f"figure '{FIGURE}': steps must be a whole number from 1 to {MOST_STEPS}")
        return Limits(low, high, steps, disagreement, error, surprise)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(found: dict[str, Any], key: str, count: int, missing: float) -> np.ndarray:
    """[count] numbers, `missing` in the place of null."""
    values = found.get(key)
    if not isinstance(values, list) or len(values) != count or not all(v is None or type(v) in (int, float) for v in values):
        raise SnapshotError(f"figure '{FIGURE}': {key} must be {count} numbers (null for none)")
    try:
        out = np.array([missing if v is None else float(v) for v in values])
    except OverflowError as error:
        raise SnapshotError(f"figure '{FIGURE}': {key}: {error}") from error
    if np.isnan(out).any():
        raise SnapshotError(f"figure '{FIGURE}': {key} must be {count} numbers (null for none), not nan")
    return out
