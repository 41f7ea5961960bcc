"""The contract of every model: a batched step with an explicit member axis, and immutable snapshots."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from mbrl_control.store.snapshot import Snapshot


class Step(NamedTuple):
    """What a model predicts one model step ahead.

    Attributes:
        state: [E, N, S] next states, SI units.
        reward: [E, N] or None where the model has no reward head.
        cont: [E, N] probability that the task goes on, or None where the model has no such head.
    """

    state: torch.Tensor
    reward: torch.Tensor | None = None
    cont: torch.Tensor | None = None


@runtime_checkable
class Model(Protocol):
    """Dynamics on a fixed time step.

    Attributes:
        members: E; 1 for a model that knows no doubt.
        dt: the model step, s.
        version: 0 before any fit, then growing.
    """

    members: int
    dt: float
    version: int

    def step(self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator | None = None) -> Step:
        """Predict one step ahead.

        Args:
            state: [E, N, S] float32; row n of member e is predicted by member e.
            action: [N, A] or [E, N, A] the mean command in effect during the step, physical units.
            rng: None for the mean; a generator to sample the members' aleatoric noise.

        Returns:
            The next states in physical units; angles are not wrapped (differences stay small).
        """
        ...

    def scale(self) -> torch.Tensor:
        """[S] typical size of a one-step change, to make disagreement unitless."""
        ...


class LearnedModel(Model, Protocol):
    """A model that is fitted to data and can be saved."""

    def fit(self, data: Any, rng: np.random.Generator, **settings: Any) -> dict[str, float]:
        """Fit to `mbrl_control.data.sequences.Sequences`; warm: starts from the present weights. Returns figures."""
        ...

    def snapshot(self) -> Snapshot:
        """A frozen copy of everything that predictions need."""
        ...

    def load(self, snapshot: Snapshot) -> None:
        """Take over a snapshot's weights in place (buffers keep their addresses)."""
        ...

