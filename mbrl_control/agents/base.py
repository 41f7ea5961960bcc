"""The contracts of learning by oneself: a task, and an agent that learns it from its own decisions.

An agent module has a dataclass `Options` and a function `build(task: TaskSpec, seed: int, options: Options) -> Agent`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class TaskSpec:
    """What an agent must know of a task before its first step.

    Attributes:
        name: as on the command line.
        observation: shape of an observation: (S,) float32, or (3, 64, 64) uint8 for an image.
        actions: A; every axis is continuous and goes from -1 to 1.
        limit: decisions of an episode at most; reaching it truncates.
        repeat: environment steps that a decision lasts; published curves count these.
        terminated: [N] bool from next observations [N, S]: where the task ends. None where it never ends, or where that is to be learned.
        contents: hash of what may change under the same name, such as a robot's cost; empty where the name says all.
    """

    name: str
    observation: tuple[int, ...]
    actions: int
    limit: int
    repeat: int = 1
    terminated: Callable[[torch.Tensor], torch.Tensor] | None = None
    contents: str = ""


class Outcome(NamedTuple):
    """What a decision came to.

    Attributes:
        observation: after it.
        reward: summed over its environment steps.
        terminated: the task ended: nothing is to be had after it.
        truncated: the episode was cut by its time limit: the task itself goes on.
    """

    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool


class Task(Protocol):
    """An environment.

    Attributes:
        spec: what is known of it.
    """

    spec: TaskSpec

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Begin an episode; gives its first observation. A seed starts the task's own random numbers anew."""
        ...

    def step(self, action: np.ndarray) -> Outcome:
        """Carry out a decision [A] in [-1, 1]."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Transition(NamedTuple):
    """A decision, and what it came to.

    Attributes:
        observation: before it.
        action: [A].
        reward: of it.
        following: observation after it (of the same episode, also at its end).
        terminated: see `Outcome`.
        truncated: see `Outcome`.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: float
    following: np.ndarray
    terminated: bool
    truncated: bool


class Actor(Protocol):
    """Behaviour in one episode at a time, with a memory of its own if it needs one."""

    def reset(self) -> None:
        """An episode begins."""
        ...

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The decision [A] in [-1, 1] at an observation."""
        ...


@dataclass(frozen=True)
class Saved:
    """All that an agent needs to go on as if it had not been interrupted.

    Attributes:
        arrays: weights, optimiser moments, data.
        values: the rest, JSON values: counts, states of random generators.
    """

    arrays: dict[str, np.ndarray]
    values: dict[str, Any] = field(default_factory=dict)


class Agent(Protocol):
    """A recipe. It is told of every decision and learns in between, by ratios that do not depend on the machine's speed."""

    def actor(self, explore: bool) -> Actor:
        """Behaviour with the present weights, and with later ones as they come.

        Args:
            explore: as in training: random at first, with noise later; else what is thought best.
        """
        ...

    def observe(self, transition: Transition) -> None:
        """Take in a decision of training."""
        ...

    def learn(self) -> dict[str, float]:
        """Called after each decision of training: does the updates that are due. Figures of them; empty where none was."""
        ...

    def save(self) -> Saved:
        """All that `load` needs."""
        ...

    def load(self, saved: Saved) -> None:
        """Go on from what was saved.

        Raises:
            SnapshotError: arrays of other names, shapes or types; the agent is then unchanged.
        """
        ...
