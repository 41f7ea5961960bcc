"""Replay: what an agent has been through, in arrays taken once; drawn from as transitions, or as sequences across episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mbrl_control.errors import DataError, SnapshotError

if TYPE_CHECKING:  # data know nothing of agents but the shape of what they tell
    from mbrl_control.agents.base import Transition


@dataclass(frozen=True)
class Batch:
    """N decisions, in any order.

    Attributes:
        observation: [N, S] float32 before the decision, or [N, 3, 64, 64] uint8.
        action: [N, A] float32.
        reward: [N] float32.
        following: like `observation`, after the decision.
        terminated: [N] float32, 1 where the task ended (not where the time was up).
    """

    observation: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    following: torch.Tensor
    terminated: torch.Tensor

    def __len__(self) -> int:
        return len(self.reward)

    def rows(self, chosen: slice | torch.Tensor) -> Batch:
        """Some of them."""
        return Batch(*(value[chosen] for value in vars(self).values()))

    @staticmethod
    def join(parts: list[Batch]) -> Batch:
        """All of several batches, in their order."""
        return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in Batch.__dataclass_fields__))


@dataclass(frozen=True)
class SequenceBatch:
    """B stretches of T successive observations each, with what led to them.

    Attributes:
        observation: [B, T, S] float32, or [B, T, 3, 64, 64] uint8.
        action: [B, T, A] float32: the decision that led to the observation; 0 at the first of an episode.
        reward: [B, T] float32: of that decision; 0 at the first of an episode.
        terminated: [B, T] float32: the task ended with this observation.
        is_first: [B, T] float32: an episode begins here, or the stretch does: whatever memory came before does not belong to it.
    """

    observation: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    is_first: torch.Tensor


class Replay:
    """A ring of observations, each with the decision that led to it, so that every observation is held once.

    An episode of L decisions takes L + 1 rows. When the ring is full the oldest rows are overwritten.

    Args:
        capacity: rows.
        observation: shape of an observation.
        actions: A.
        dtype: of observations: float32, or uint8 for images.
    """

    def __init__(self, capacity: int, observation: tuple[int, ...], actions: int, dtype: type = np.float32) -> None:
        self.capacity = capacity
        self._observation: np.ndarray = np.zeros((capacity, *observation), dtype)
        self._action = np.zeros((capacity, actions), np.float32)
        self._reward = np.zeros(capacity, np.float32)
        self._terminated, self._truncated, self._first = (np.zeros(capacity, np.uint8) for _ in range(3))
        self._rows = self._next = self.transitions = 0
        self._open = False

    def __len__(self) -> int:
        """Rows that are held."""
        return self._rows

    def append(self, transition: Transition) -> None:
        """Take in a decision; one after an end (or after `load`) begins an episode."""
        if not self._open:
            self._put(transition.observation, 0.0, 0.0, first=True)
        self._put(transition.following, transition.action, transition.reward, transition.terminated, transition.truncated)
        self._open = not (transition.terminated or transition.truncated)
        self.transitions += 1

    def _put(self, observation: np.ndarray, action: np.ndarray | float, reward: float, terminated: bool = False, truncated: bool = False,
             first: bool = False) -> None:
        row = self._next
        self._observation[row], self._action[row], self._reward[row] = observation, action, reward
        self._terminated[row], self._truncated[row], self._first[row] = terminated, truncated, first
        self._next, self._rows = (row + 1) % self.capacity, min(self._rows + 1, self.capacity)

    def _oldest(self) -> int:
        return self._next if self._rows == self.capacity else 0

    def _transition_rows(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """[count] rows whose decision and both observations are held, all equally likely."""
        if not self.transitions:
            raise DataError("the replay holds no transition yet, so none can be drawn")
        while True:
            rows = rng.integers(1, self._rows, count)
            # The rows that begin an episode have no decision; drawing again for those alone keeps the others alike.
            while len(bad := np.flatnonzero(self._first[(rows + self._oldest()) % self.capacity])):
                rows[bad] = rng.integers(1, self._rows, len(bad))
            return np.asarray((rows + self._oldest()) % self.capacity)

    def sample(self, count: int, rng: np.random.Generator) -> Batch:
        """Draw decisions with replacement, all that are held equally likely.

        Raises:
            DataError: there is none yet.
        """
        return self._batch(self._transition_rows(count, rng))

    def _batch(self, rows: np.ndarray) -> Batch:
        observation, following = (torch.from_numpy(self._observation[r]) for r in (rows - 1, rows))
        return Batch(observation, torch.from_numpy(self._action[rows]), torch.from_numpy(self._reward[rows]), following,
                     torch.from_numpy(self._terminated[rows].astype(np.float32)))

    def observations(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """Draw observations at which something was decided, [count, ...], with replacement.

        Raises:
            DataError: there is none yet.
        """
        return torch.from_numpy(self._observation[self._transition_rows(count, rng) - 1])

    def all(self) -> Batch:
        """Every decision that is held, oldest first."""
        rows = (np.arange(1, self._rows) + self._oldest()) % self.capacity
        return self._batch(rows[self._first[rows] == 0])

    def sequences(self, count: int, length: int, rng: np.random.Generator) -> SequenceBatch:
        """Draw stretches of successive rows with replacement, every place equally likely; they may run over ends of episodes.

        Args:
            count: B.
            length: T.
            rng: generator.

        Raises:
            DataError: fewer rows than one stretch.
        """
        if self._rows < length:
            raise DataError(f"the replay holds {self._rows} observations; a sequence needs {length}: collect more before learning")
        start = rng.integers(0, self._rows - length + 1, count)
        rows = (start[:, None] + np.arange(length) + self._oldest()) % self.capacity
        first = self._first[rows].astype(np.float32)
        first[:, 0] = 1.0
        return SequenceBatch(*(torch.from_numpy(a) for a in (self._observation[rows], self._action[rows], self._reward[rows],
                                                             self._terminated[rows].astype(np.float32), first)))

    def save(self) -> dict[str, np.ndarray]:
        """All that is held, oldest first, as copies."""
        rows = (np.arange(self._rows) + self._oldest()) % self.capacity
        return {name: array[rows] for name, array in self._arrays().items()}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `save` gave; the next decision begins an episode.

        Raises:
            SnapshotError: arrays of other names, shapes or types, or more rows than fit; the replay is then unchanged.
        """
        mine = self._arrays()
        wrong = sorted(set(mine) ^ set(arrays))
        rows = {len(array) for array in arrays.values()}
        wrong = wrong or [n for n, a in arrays.items() if a.shape[1:] != mine[n].shape[1:] or a.dtype != mine[n].dtype]
        if wrong or len(rows) != 1 or max(rows) > self.capacity:
            raise SnapshotError(f"saved replay: array '{wrong[0] if wrong else 'observation'}' does not fit a replay of {self.capacity} "
                                f"rows with observations {self._observation.shape[1:]}; resume with the options it was saved with")
        self._rows = rows.pop()
        for name, array in arrays.items():
            mine[name][:self._rows] = array
        self._next, self._open = self._rows % self.capacity, False
        self.transitions = int((self._first[1:self._rows] == 0).sum())

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"observation": self._observation, "action": self._action, "reward": self._reward, "terminated": self._terminated,
                "truncated": self._truncated, "first": self._first}
