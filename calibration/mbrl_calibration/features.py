"""What a robot's accelerations may depend on when nothing is known of its physics: functions of the state for a regression."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from mbrl_control.robot import RobotSpec

RICH = 2
"""Robots with at most so many joints get products of functions of different joints too."""

ONSET = 0.05
"""Rate, as a share of its root mean square, at which dry friction is nearly all there."""


@dataclass(frozen=True)
class Basis:
    """Functions of the state of one robot.

    Attributes:
        angles, rates, others: indices of the state's angles, its rates, and of what else forces may depend on, positions of joints that
            do not wrap among it (a servo's force depends on them).
        scale: [S] root mean square of each signal.
        centre: [S] mean of each signal.
    """

    angles: tuple[int, ...]
    rates: tuple[int, ...]
    others: tuple[int, ...]
    scale: np.ndarray
    centre: np.ndarray

    def columns(self, state: np.ndarray) -> np.ndarray:
        """[T, K] functions of the state [T, S]: of a double pendulum, all that its equations of motion hold but 1 / det M."""
        one = np.ones((len(state), 1))
        turns = _turns(state[:, self.angles])
        rates = state[:, self.rates] / self.scale[list(self.rates)]
        friction = np.tanh(rates / ONSET)
        rest = (state[:, self.others] - self.centre[list(self.others)]) / self.scale[list(self.others)]
        plain = [one, turns, rates, friction, rest]
        if len(self.rates) > RICH:
            return np.concatenate([*plain, rates**2], axis=1)
        twice = _turns(2 * state[:, self.angles])
        pairs = [(i, j) for i, j in combinations_with_replacement(range(rates.shape[1]), 2)]
        squares = np.stack([rates[:, i] * rates[:, j] for i, j in pairs], axis=1) if pairs else one[:, :0]
        angular = np.concatenate([turns, twice], axis=1)
        return np.concatenate([*plain, twice, _products(turns, turns), _products(np.concatenate([rates, friction], axis=1), angular),
                               squares, _products(squares, angular)], axis=1)

    def weights(self, state: np.ndarray) -> np.ndarray:
        """[T, M] functions of the state that an input may be multiplied with on its way to an acceleration."""
        parts = [np.ones((len(state), 1)), _turns(state[:, self.angles])]
        if len(self.rates) <= RICH:
            parts.append(_turns(2 * state[:, self.angles]))
        return np.concatenate(parts, axis=1)


def _turns(angles: np.ndarray) -> np.ndarray:
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _products(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.asarray((one[:, :, None] * two[:, None, :]).reshape(len(one), -1))


def basis(state: np.ndarray, spec: RobotSpec) -> Basis:
    """The functions for a robot.

    Args:
        state: [T, S] of all its logs, for the scales.
        spec: the robot. Places without a measured rate (those of a vehicle) do not enter.
    """
    paired = {whole for whole, _ in spec.rate_pairs}
    angles = tuple(i for i, s in enumerate(spec.state) if s.unit == "rad")
    rates = tuple(i for i, s in enumerate(spec.state) if s.rate_of is not None or s.unit in ("m/s", "rad/s"))
    others = tuple(i for i, s in enumerate(spec.state) if i not in rates and not s.wraps and (i in paired or s.unit not in ("m", "rad")))
    centre = state.mean(axis=0)
    about = np.where(np.isin(np.arange(len(centre)), rates), 0.0, centre)
    scale = np.sqrt(np.mean((state - about) ** 2, axis=0))
    return Basis(angles, rates, others, np.where(scale > 0, scale, 1.0), centre)
