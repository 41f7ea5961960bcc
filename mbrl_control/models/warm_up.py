"""A fit to noise: what is loaded on first use is so before data comes, and models that predict only once they are fitted can be timed."""

from __future__ import annotations

import numpy as np

from mbrl_control.data.sequences import Sequences
from mbrl_control.models.base import LearnedModel
from mbrl_control.robot import RobotSpec

STRETCHES = 64


def invented(spec: RobotSpec, stretch: int) -> Sequences:
    """Stretches of `stretch` model steps of noise."""
    rng = np.random.default_rng(0)
    state = rng.standard_normal((STRETCHES, stretch + 1, spec.state_dim)).cumsum(1)
    action = rng.uniform(spec.action_low, spec.action_high, (STRETCHES, stretch, spec.action_dim))
    return Sequences(state, action, spec.model_dt * np.arange(STRETCHES))


def fit_to_noise(model: LearnedModel, spec: RobotSpec) -> None:
    """Fit a model that nobody will use to noise, with one gradient step."""
    model.fit(invented(spec, model.stretch), np.random.default_rng(0), epochs=1, updates=1)
