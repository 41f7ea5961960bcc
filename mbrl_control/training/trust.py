"""How far a model that was fitted to logs may be trusted: the limits that the trainer would write, from what the fit held out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import Sequences, sequences, within_range
from mbrl_control.models import division
from mbrl_control.models.base import LearnedModel, precision
from mbrl_control.planning.limits import Limits
from mbrl_control.robot import RobotSpec
from mbrl_control.store.snapshot import Snapshot
from mbrl_control.training.trainer import GATE_STEPS


def limits_of(snapshot: Snapshot, fresh: LearnedModel, episodes: Iterable[Episode], known: Sequences, spec: RobotSpec) -> Limits:
    """The limits of a model, as it will be used: in the planner's precision, from states at the planner's rate.

    Args:
        snapshot: of the fitted model.
        fresh: another model of the same kind and options, to measure with.
        episodes: the logs, at any rate.
        known: the stretches that were fitted to, those that the fit held out among them.
        spec: the robot.
    """
    fresh.load(snapshot)
    fresh.prepare(precision(spec))
    # Half of what a block has left, so that there are starts at the planner's rate with which a stretch fits.
    steps = min(GATE_STEPS, spec.planner.horizon, max(1, (division.block_steps(fresh.stretch) - fresh.stretch) // 2))
    parts = [within_range(sequences(e, spec, steps, every=_every(e, spec)), spec) for e in episodes if len(e) > 1]
    return Limits.measure(fresh, known, division.never_trained_on(Sequences.join(parts), spec.model_dt, fresh.stretch), spec)


def _every(episode: Episode, spec: RobotSpec) -> int:
    """How many states of a log come to one that the planner sees."""
    return max(1, round(1 / (spec.plan_hz * float(np.median(np.diff(episode.time))))))
