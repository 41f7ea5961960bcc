"""The contract of a robot's learned behaviour, as a planner uses it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch


class Policy(Protocol):
    """A policy with a critic on physical states. Its weights come with the model that they were trained on.

    Attributes:
        fixed: it was learned elsewhere and has its weights: in use from the first plan on, whatever snapshots bring.
        discount: of what it expects, per model step.
    """

    fixed: bool
    discount: float

    def act(self, state: torch.Tensor, rng: torch.Generator | None) -> torch.Tensor:
        """[N, A] commands in half ranges at states [N, S]; drawn with a generator, else the most likely ones."""
        ...

    def to_go(self, state: torch.Tensor) -> torch.Tensor:
        """[...] what the robot is expected to cost from states [..., S] on, on the pessimistic side, in the cost's own unit."""
        ...

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
