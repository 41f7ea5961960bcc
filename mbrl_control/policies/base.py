"""The contracts of a robot's learned behaviour, as a planner uses it: on physical states, or on a latent state of its own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch


class Weights(Protocol):
    """What comes and goes with the model that it was trained on.

    Attributes:
        fixed: it was learned elsewhere and has its weights: in use from the first plan on, whatever snapshots bring.
    """

    fixed: bool

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `load` needs."""
        ...

    def check(self, arrays: dict[str, np.ndarray]) -> None:
        """Refuse arrays that are not this policy's.

        Raises:
            SnapshotError: other names, shapes or types.
        """
        ...

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over arrays in place."""
        ...


@runtime_checkable
class Policy(Weights, Protocol):
    """A policy with a critic on physical states.

    Attributes:
        discount: of what it expects, per model step.
    """

    discount: float

    def act(self, state: torch.Tensor, rng: torch.Generator | None) -> torch.Tensor:
        """[N, A] commands in half ranges at states [N, S]; drawn with a generator, else the most likely ones."""
        ...

    def to_go(self, state: torch.Tensor) -> torch.Tensor:
        """[...] what the robot is expected to cost from states [..., S] on, on the pessimistic side, in the cost's own unit."""
        ...


@runtime_checkable
class LatentPolicy(Weights, Protocol):
    """A policy that decides in a latent state, filtered from what has happened of late, and imagines there what comes of it.

    Attributes:
        window: model steps of the past that it filters, at most.
    """

    window: int

    def rows(self, state: torch.Tensor, action: torch.Tensor, count: int, horizon: int, rng: torch.Generator) -> torch.Tensor:
        """[count, horizon, A] commands in half ranges; the first row's are the most likely ones.

        Args:
            state: [K + 1, S] at the ends of the last K model steps, the newest where the rows begin.
            action: [K, A] in effect during these, half ranges.
            count: rows.
            horizon: commands of each.
            rng: draws what is random.
        """
        ...
