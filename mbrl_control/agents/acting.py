"""What agents with a soft actor-critic share: acting in a task, and taking a checkpoint apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mbrl_control.agents.base import Saved, TaskSpec
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.policies.sac import Sac


class PolicyActor:
    """Behaviour of a policy without memory.

    Args:
        learner: whose policy it is.
        rng: for decisions at random; None: the policy's mean.
        random: whether it still is time for them.
    """

    def __init__(self, learner: Sac, rng: np.random.Generator | None, random: Callable[[], bool]) -> None:
        self._learner, self._rng, self._random = learner, rng, random

    def reset(self) -> None:
        """There is nothing to forget."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The decision [A]."""
        if self._rng is None:
            return self._learner.actor.act(observation, None)
        if self._random():
            return self._rng.uniform(-1.0, 1.0, self._learner.actor.actions).astype(np.float32)
        return self._learner.actor.act(observation, self._learner.rng)


def require_vectors(task: TaskSpec, agent: str) -> None:
    """Refuse images.

    Raises:
        UserError: the task's observations are images.
    """
    if len(task.observation) != 1:
        raise UserError(f"agent '{agent}' learns from vectors, and task '{task.name}' gives images {task.observation}; "
                        "leave out @pixels, or use an agent that takes images (dreamer)")


def restored(saved: Saved, parts: tuple[str, ...], values: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a checkpoint by the part that they belong to: the word before their first dot.

    Raises:
        SnapshotError: an array of no known part, or a value is missing.
    """
    out: dict[str, dict[str, np.ndarray]] = {part: {} for part in parts}
    for name, array in saved.arrays.items():
        part, _, rest = name.partition(".")
        if part not in out:
            raise SnapshotError(f"saved agent: array '{name}' is not known; it is of another kind of agent or version")
        out[part][rest] = array
    missing = [name for name in values if name not in saved.values]
    if missing:
        raise SnapshotError(f"saved agent: value '{missing[0]}' is missing; it is of another kind of agent or version")
    return out
