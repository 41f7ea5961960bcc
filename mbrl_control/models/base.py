"""The contract of every model: a batched step with an explicit member axis, and immutable snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError
from mbrl_control.robot import RobotSpec
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


class Gaussian(NamedTuple):
    """Each member's distribution of the next state.

    Attributes:
        mean: [E, N, S] SI units.
        std: [E, N, S] aleatoric standard deviation, SI units.
    """

    mean: torch.Tensor
    std: torch.Tensor


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
    """A model that is fitted to data and can be saved.

    Attributes:
        stretch: model steps per stretch of training data that `fit` wants.
    """

    stretch: int

    def fit(self, data: Sequences, rng: np.random.Generator, *, epochs: int = ..., updates: int | None = ..., budget_s: float = ...,
            holdout: float | Sequences | list[Sequences] = ..., weights: np.ndarray | None = ...,
            progress: Callable[[], None] = ...) -> dict[str, float]:
        """Fit to stretches of K >= 1 model steps; warm: starts from the present weights. Returns figures.

        Args:
            data: K may be any number; a model may learn from more than one step ahead.
            rng: the source of every random draw.
            epochs: passes over the data at most.
            updates: gradient steps, instead of passes.
            budget_s: time limit, s.
            holdout: share of the data, or one or more sets of data that count alike, by which the fit chooses its weights.
            weights: [M] how much each stretch counts, relative to the others; None for all alike.
            progress: called at least after each gradient step, so that somebody can tell a long fit from one that hangs.
        """
        ...

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> Gaussian:
        """The members' one-step distributions; shapes as in `step`."""
        ...

    def prepare(self, dtype: torch.dtype = ...) -> None:
        """Choose the precision of what is expensive in `step` (float32 or bfloat16), also after each later `load`; states stay float32."""
        ...

    def snapshot(self) -> Snapshot:
        """A frozen copy of everything that predictions need."""
        ...

    def load(self, snapshot: Snapshot) -> None:
        """Take over a snapshot's weights in place (buffers keep their addresses)."""
        ...


@runtime_checkable
class Rounded(Protocol):
    """A model that may predict in less than float32, and has a twin that does not."""

    def precise(self) -> Model:
        """The twin; it follows this model's weights."""
        ...


def precision(spec: RobotSpec) -> torch.dtype:
    """What a robot's planner wants expensive layers in; see `LearnedModel.prepare`."""
    return torch.bfloat16 if spec.planner.dtype == "bfloat16" else torch.float32


def check_arrays(snapshot: Snapshot, wanted: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse a snapshot whose arrays are not just those wanted, each of the wanted shape and type.

    Args:
        snapshot: to look at.
        wanted: by name.
        what: the model, in words.

    Raises:
        SnapshotError: they are not.
    """
    if unknown := sorted(snapshot.weights.keys() - wanted.keys()):
        raise SnapshotError(f"snapshot version {snapshot.version}: this {what} has no array {unknown}")
    for name, here in wanted.items():
        given = snapshot.weights.get(name)
        if given is None or given.shape != tuple(here.shape):
            raise SnapshotError(f"snapshot version {snapshot.version}: array '{name}' must have shape {tuple(here.shape)}, "
                                f"not {'none' if given is None else given.shape}")
        if given.dtype.name != (kind := str(here.dtype).removeprefix("torch.")):
            raise SnapshotError(f"snapshot version {snapshot.version}: array '{name}' must not be of type {given.dtype}; it must be {kind}")


def check_spec(snapshot: Snapshot, spec: RobotSpec) -> None:
    """Refuse a snapshot of another robot.

    Raises:
        SnapshotError: the spec hashes differ.
    """
    if snapshot.spec_hash != spec.hash:
        raise SnapshotError(f"snapshot version {snapshot.version} was fitted for another robot or model (hash {snapshot.spec_hash}), "
                            f"not for '{spec.name}' (hash {spec.hash}); fit it again with this robot's YAML")
