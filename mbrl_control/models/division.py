"""Which data a fit learns from: blocks of time held out, and a bootstrap set for each member."""

from __future__ import annotations

import numpy as np

from mbrl_control.data.sequences import Sequences

SHARE = 0.1
"""Of the blocks, held out where nobody says otherwise."""

GOLDEN = 0.6180339887498949


def block_steps(stretch: int) -> int:
    """Model steps of a block of time, for stretches of `stretch` steps."""
    return max(10, 2 * stretch)


def _held(block: np.ndarray, share: float) -> np.ndarray:
    return np.asarray((block * GOLDEN + 0.5) % 1.0 < share)


def split(data: Sequences, dt: float, share: float) -> tuple[Sequences, Sequences]:
    """Training and held-out data by blocks of time (10 steps, or two stretches), spread evenly and always the same ones.

    Args:
        data: stretches of K steps.
        dt: the model step, s.
        share: of the blocks, held out.

    Returns:
        Training stretches, held-out stretches.
    """
    held = _held(np.floor(data.start / (block_steps(data.action.shape[1]) * dt) + 1e-9), share)
    if len(data) and (not held.any() or held.all()):
        held = np.arange(len(data)) % max(2, round(1 / share)) == 1
    return tuple(Sequences(data.state[rows], data.action[rows], data.start[rows]) for rows in (~held, held))  # type: ignore[return-value]


def never_trained_on(data: Sequences, dt: float, stretch: int, share: float = SHARE) -> Sequences:
    """Of stretches of K steps, those of which `split` of stretches of `stretch` steps leaves no part to training.

    Args:
        data: stretches of K <= `block_steps(stretch)` - `stretch` steps; of longer ones none fits.
        dt: the model step, s.
        stretch: steps of those that were trained on. They begin outside of the blocks that are held out, and may end that far inside.
        share: of the blocks, held out.
    """
    width = block_steps(stretch) * dt
    block = np.floor(data.start / width + 1e-9)
    since, rest = data.start - block * width, (block + 1) * width - data.start
    return data.select(_held(block, share) & (since > (stretch - 1e-6) * dt) & (rest > (data.action.shape[1] - 1e-6) * dt))


def bootstrap(rng: np.random.Generator, members: int, count: int, weights: np.ndarray | None) -> np.ndarray:
    """[E, count] rows drawn with replacement, a set for each member; `weights` [M] of the data before its mirror images."""
    if weights is None:
        return rng.integers(0, count, (members, count))
    chances = np.tile(weights, count // len(weights))
    return rng.choice(count, (members, count), p=chances / chances.sum())
