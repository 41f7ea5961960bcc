"""What is kept of data older than the window: stretches that nothing newer is like, so that a model forgets no motion that it once knew."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mbrl_control.data.episodes import Episode
from mbrl_control.robot import RobotSpec

LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class _Block:
    """A stretch of one block of time.

    Attributes:
        data: rows of it.
        features: [F] means and spreads of its signals, angles as cosine and sine.
    """

    data: Episode
    features: np.ndarray


class Remembered:
    """Blocks of old data, at most so many seconds; when there are too many, the most commonplace goes.

    A robot that swings up once and is held for hours sees nothing but standing still within any window of minutes. Of two blocks that are
    most alike the older one goes, so that what is rare stays however old it is (the thinning of experience to a coreset by distances,
    as in de Bruin et al. 2018, section 4).

    Args:
        spec: the robot.
        block_s: length of a block; blocks begin at multiples of it.
        seconds: kept at most.
    """

    def __init__(self, spec: RobotSpec, block_s: float, seconds: float) -> None:
        self._wraps, self._block_s, self._most = spec.wraps, block_s, int(seconds / block_s)
        self._blocks: list[_Block] = []
        self._until = -math.inf

    @property
    def episodes(self) -> list[Episode]:
        """What is remembered, oldest first, blocks that follow each other apart."""
        return [block.data for block in self._blocks]

    def add(self, episodes: list[Episode], until: float) -> None:
        """Take in what is older than a time and has not been taken in before.

        Args:
            episodes: of the robot, in the times of earlier calls.
            until: s; only whole blocks that end before it are taken.
        """
        if self._most < 1:
            return
        end = math.floor(until / self._block_s) * self._block_s
        for episode in episodes:
            low, high = np.searchsorted(episode.time, (self._until, end))
            bounds = np.flatnonzero(np.diff(np.floor(episode.time[low:high] / self._block_s + 1e-9))) + 1 + low
            for start, stop in zip((low, *bounds), (*bounds, high), strict=True):
                if stop - start > 1:
                    data = _owned(episode.cut(int(start), int(stop)))
                    self._blocks.append(_Block(data, self._features(data)))
        self._until = max(self._until, end)
        for place in sorted(self._commonplace(len(self._blocks) - self._most), reverse=True):
            del self._blocks[place]

    def _features(self, data: Episode) -> np.ndarray:
        angles = data.state[:, self._wraps]
        signals = np.concatenate([data.state[:, ~self._wraps], np.cos(angles), np.sin(angles), data.action], axis=1)
        return np.concatenate([signals.mean(0), signals.std(0)])

    def _commonplace(self, count: int) -> list[int]:
        """Indices of so many blocks, one after the other the older of the two that are most alike, in units of each feature's spread."""
        if count < 1:
            return []
        features = np.stack([block.features for block in self._blocks])
        features = features / np.maximum(features.std(0), LEAST_SPREAD)
        square = (features**2).sum(1)
        apart = square[:, None] + square - 2 * features @ features.T
        apart[np.tril_indices(len(apart))] = np.inf
        gone = []
        for _ in range(count):
            older = int(np.unravel_index(np.argmin(apart), apart.shape)[0])
            apart[older], apart[:, older] = np.inf, np.inf
            gone.append(older)
        return gone


def _owned(data: Episode) -> Episode:
    """The same in memory of its own: rows that look into a recording would keep all of it, and each block another copy of it."""
    more = {name: array.copy() for name in ("reward", "model_version") if (array := getattr(data, name)) is not None}
    return replace(data, time=data.time.copy(), state=data.state.copy(), action=data.action.copy(), **more)
