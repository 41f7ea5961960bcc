"""Intervals about predictions: how far a model says that it may be off, how wide that must be to hold, and what intervals held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mbrl_control.data.sequences import Sequences
from mbrl_control.models.base import LearnedModel
from mbrl_control.models.evaluate import difference, open_loop
from mbrl_control.planning.rollout import rollout
from mbrl_control.robot import RobotSpec

LEVELS = (0.68, 0.95)
"""Shares that the widths of a robot's YAML hold, in the order of `Widths.width`."""

PARTICLES = 16
CHUNK = 8192
TINY = 1e-9


@torch.inference_mode()
def spread(model: LearnedModel, data: Sequences, rng: np.random.Generator, particles: int = PARTICLES) -> np.ndarray:
    """[M, K, S] predicted standard deviation after 1 … K steps: members' disagreement and their noise, carried through the horizon.

    Every member rolls out `particles` paths with its own noise at each step (TS-inf, Chua et al. 2018, section 5.1); the spread is that
    of all paths together.

    Args:
        model: fitted.
        data: stretches; their starts and commands are used.
        rng: source of the noise.
        particles: paths per member and stretch.
    """
    noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
    out = np.empty((*data.action.shape[:2], data.state.shape[2]))
    rows = max(1, CHUNK // particles)
    for first in range(0, len(data), rows):
        some = slice(first, first + rows)
        start, action = (torch.tensor(a, dtype=torch.float32).repeat_interleave(particles, 0)
                         for a in (data.state[some, 0], data.action[some]))
        path = rollout(model, start, action, "tsinf", noise, sample=True)[:, :, 1:]
        out[some] = path.reshape(len(path), -1, particles, *path.shape[2:]).double().var((0, 2), correction=0).sqrt().numpy()
    return out


def normalised(model: LearnedModel, data: Sequences, spec: RobotSpec, rng: np.random.Generator, particles: int = PARTICLES) -> np.ndarray:
    """[M, K, S] errors of open-loop predictions in predicted standard deviations (see `spread`), angles around the circle.

    Args:
        model: fitted, and not to these data.
        data: stretches of one run, in the order of time.
        spec: of the robot.
        rng: source of the particles' noise.
        particles: paths per member and stretch.
    """
    error = difference(data.state[:, 1:], open_loop(model, data.state[:, 0], data.action), spec.wraps)
    return np.asarray(error / np.maximum(spread(model, data, rng, particles), TINY))


def normal_width(level: float | np.ndarray) -> np.ndarray:
    """Half width, in standard deviations, of the interval about the mean that holds `level` of a Gaussian."""
    return np.asarray(torch.special.ndtri(torch.as_tensor((1 + np.asarray(level)) / 2, dtype=torch.float64)))


def along(rows: np.ndarray, steps: np.ndarray, k: int) -> np.ndarray:
    """[...] rows [H, ...] at horizons `steps` [H] interpolated to horizon k, linear in its logarithm."""
    at = int(np.clip(np.searchsorted(steps, k) - 1, 0, max(0, len(steps) - 2)))
    if len(steps) == 1:
        return np.asarray(rows[0])
    share = np.log(k / steps[at]) / np.log(steps[at + 1] / steps[at])
    return np.asarray((1 - share) * rows[at] + share * rows[at + 1])


@dataclass(frozen=True)
class Widths:
    """A robot's `intervals`: how wide intervals about its model's predictions must be.

    Attributes:
        steps: [H] model steps ahead, rising.
        width: [L, H, S] half widths, in predicted standard deviations, that hold each of `LEVELS`.
    """

    steps: np.ndarray
    width: np.ndarray

    @staticmethod
    def of(spec: RobotSpec) -> Widths | None:
        """Those of a robot; None where its YAML has none."""
        given = spec.intervals
        if given is None:
            return None
        each = [[table[name] for name in spec.state_names] for table in (given.width_68, given.width_95)]
        return Widths(np.array(given.steps), np.array(each, dtype=float).transpose(0, 2, 1))

    def at(self, k: int) -> np.ndarray | None:
        """[L, S] for k model steps ahead, interpolated; None beyond the longest horizon that they were found for."""
        if not 1 <= k <= self.steps[-1]:
            return None
        return np.asarray(np.exp(along(np.log(np.maximum(self.width, TINY)).transpose(1, 0, 2), self.steps, k)))


def surprise(model: LearnedModel, data: Sequences, spec: RobotSpec, widths: Widths) -> np.ndarray:
    """[M] how far each stretch's first step was off, where the model itself says how far it may be.

    Root mean square over signals of the error in half widths of the 95 % interval; inf when not finite. The interval is that of the
    members' mixture (their mean variance and the variance of their means), recalibrated.

    Args:
        model: fitted.
        data: stretches.
        spec: says which signals wrap.
        widths: of the robot.
    """
    half = widths.at(1)
    assert half is not None  # the schema asks for steps from 1 on
    with torch.inference_mode(), np.errstate(all="ignore"):
        state = torch.as_tensor(data.state[:, 0], dtype=torch.float32).expand(model.members, len(data), -1).contiguous()
        mean, std = (part.double() for part in model.predict(state, torch.as_tensor(data.action[:, 0], dtype=torch.float32)))
        predicted = (std.square().mean(0) + mean.var(0, correction=0)).sqrt().numpy()
        error = difference(data.state[:, 1], mean.mean(0).numpy(), spec.wraps)
        size = np.sqrt(np.mean((error / np.maximum(predicted * half[1], TINY)) ** 2, axis=1))
    return np.asarray(np.nan_to_num(size, nan=np.inf, posinf=np.inf))


def held(errors: np.ndarray, signals: tuple[str, ...], steps: list[int], widths: Widths | None) -> dict[str, dict[str, dict[str, float]]]:
    """Which share of normalised errors lies in intervals.

    Args:
        errors: [M, K, S], see `normalised`.
        signals: [S] names.
        steps: horizons k, at most K; those beyond the widths are left out.
        widths: None for intervals of Gaussians with the predicted spread.

    Returns:
        {"k": {signal: {"0.68": share, "0.95": share}}}.
    """
    out: dict[str, Any] = {}
    gaussian = np.repeat(normal_width(np.array(LEVELS))[:, None], len(signals), 1)
    for k in steps:
        half = gaussian if widths is None else widths.at(k)
        if half is not None:
            share = (np.abs(errors[:, k - 1]) <= half[:, None]).mean(1)
            out[str(k)] = {name: {f"{level:g}": float(share[i, s]) for i, level in enumerate(LEVELS)} for s, name in enumerate(signals)}
    return out
