"""Smooth random commands within the limits, for the time before there is a model."""

from __future__ import annotations

import numpy as np

from mbrl_control.robot import RobotSpec


def excitation(spec: RobotSpec, ticks: int, rng: np.random.Generator) -> np.ndarray:
    """[ticks, A] commands: a first-order filtered random walk per axis, squashed into the limits and the rates.

    Args:
        spec: limits, rates, and the trainer's `explore_scale` and `explore_smoothness_s`.
        ticks: how many.
        rng: generator.
    """
    trainer = spec.trainer
    keep = np.exp(-spec.tick_s / trainer.explore_smoothness_s)
    mid, half = (spec.action_high + spec.action_low) / 2, (spec.action_high - spec.action_low) / 2
    level = rng.standard_normal(spec.action_dim)
    out = np.empty((ticks, spec.action_dim))
    last = spec.action_zero.copy()
    step = spec.action_max_rate * spec.tick_s
    for k in range(ticks):
        level = keep * level + np.sqrt(1 - keep**2) * rng.standard_normal(spec.action_dim)
        wanted = mid + half * trainer.explore_scale * np.tanh(1.5 * level)
        last = np.clip(wanted, last - step, last + step)
        out[k] = last
    return out
