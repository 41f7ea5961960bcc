"""Which data a fit learns from: blocks of time held out, and a bootstrap set for each member."""

from __future__ import annotations

import numpy as np

from mbrl_control.data.sequences import Sequences


def split(data: Sequences, dt: float, share: float) -> tuple[Sequences, Sequences]:
    """Training and held-out data by blocks of time (10 steps, or two stretches), spread evenly and always the same ones.

    Args:
        data: stretches of K steps.
        dt: the model step, s.
        share: of the blocks, held out.

    Returns:
        Training stretches, held-out stretches.
    """
    block = np.floor(data.start / (max(10, 2 * data.action.shape[1]) * dt) + 1e-9)
    held = (block * 0.6180339887498949 + 0.5) % 1.0 < share
    if len(data) and (not held.any() or held.all()):
        held = np.arange(len(data)) % max(2, round(1 / share)) == 1
    return tuple(Sequences(data.state[rows], data.action[rows], data.start[rows]) for rows in (~held, held))  # type: ignore[return-value]


def bootstrap(rng: np.random.Generator, members: int, count: int, weights: np.ndarray | None) -> np.ndarray:
    """[E, count] rows drawn with replacement, a set for each member; `weights` [M] of the data before its mirror images."""
    if weights is None:
        return rng.integers(0, count, (members, count))
    chances = np.tile(weights, count // len(weights))
    return rng.choice(count, (members, count), p=chances / chances.sum())
