"""Linear dynamics by ridge regression (dynamic mode decomposition with control): the baseline any other model must beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import DataError, SnapshotError
from mbrl_control.heartbeat import nothing
from mbrl_control.models.base import Gaussian, Step, check_arrays, check_spec
from mbrl_control.robot import RobotSpec
from mbrl_control.store.snapshot import Snapshot

KIND = "linear"


@dataclass(frozen=True)
class Options:
    """Settings of the linear model.

    Attributes:
        ridge: penalty on the coefficients of normalised inputs, as a share of the number of transitions.
    """

    ridge: float = 1e-9


def build(spec: RobotSpec, options: Options | None = None) -> Linear:
    """A linear model for a robot, not yet fitted (version 0)."""
    return Linear(spec, options or Options())


class Linear:
    """x' = x + [x, u, 1] G, fitted by least squares (DMDc: Proctor, Brunton & Kutz 2016). One member, constant noise.

    Args:
        spec: the robot; wrapping angles are taken as they come, which is what makes this a baseline.
        options: the ridge.
    """

    members = 1
    stretch = 1

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        self.spec, self.options = spec, options
        self.dt, self.version = spec.model_dt, 0
        size = spec.state_dim
        self._matrix = torch.zeros(size + spec.action_dim, size)
        self._offset, self._std, self._change = torch.zeros(size), torch.ones(size), torch.ones(size)

    def _arrays(self) -> dict[str, torch.Tensor]:
        return {"matrix": self._matrix, "offset": self._offset, "std": self._std, "change": self._change}

    def step(self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator | None = None) -> Step:
        """Predict one model step ahead: state [E, N, S] for any E, action [N, A] or [E, N, A]."""
        mean, std = self.predict(state, action)
        return Step(mean if rng is None else mean + std * torch.randn(mean.shape, generator=rng))

    def predict(self, state: torch.Tensor, action: torch.Tensor) -> Gaussian:
        """Mean and standard deviation of the next state, [E, N, S] each."""
        if not self.version:
            raise DataError(f"the model of '{self.spec.name}' has not been fitted (version 0); fit it or load a snapshot first")
        inputs = torch.cat((state, action if action.ndim == 3 else action.expand(len(state), -1, -1)), -1)
        return Gaussian(inputs @ self._matrix + self._offset, self._std.expand(state.shape))

    def scale(self) -> torch.Tensor:
        """[S] root mean square one-step change in the training data."""
        return self._change

    def prepare(self, dtype: torch.dtype = torch.float32) -> None:
        """Nothing here is worth a lower precision."""

    def fit(self, data: Sequences, rng: np.random.Generator, *, epochs: int = 1, updates: int | None = None, budget_s: float = math.inf,
            holdout: float | Sequences | list[Sequences] = 0.0, weights: np.ndarray | None = None,
            progress: Callable[[], None] = nothing) -> dict[str, float]:
        """Least squares over every one-step transition of the data, by `weights` if given; the other arguments change nothing."""
        if not len(data):
            raise DataError(f"there is no data to fit '{self.spec.name}' to")
        size = self.spec.state_dim
        state, following = data.state[:, :-1].reshape(-1, size), data.state[:, 1:].reshape(-1, size)
        inputs = np.concatenate([state, data.action.reshape(len(state), -1)], axis=1)
        counts = np.ones((len(state), 1)) if weights is None else np.repeat(weights / weights.mean(), data.action.shape[1])[:, None]
        mean, deviation = (counts * inputs).mean(0), inputs.std(0)
        deviation[deviation < 1e-12] = 1.0
        normal = (inputs - mean) / deviation
        change = following - state
        centre = (counts * change).mean(0)
        gram = normal.T @ (counts * normal) + self.options.ridge * len(state) * np.eye(normal.shape[1])
        gain = np.linalg.solve(gram, normal.T @ (counts * (change - centre))) / deviation[:, None]
        offset = centre - mean @ gain
        residual = change - inputs @ gain - offset
        gain[:size] += np.eye(size)
        rms = np.sqrt(np.mean(change**2, axis=0))
        self._take({"matrix": gain, "offset": offset, "std": residual.std(0) + 1e-12, "change": np.where(rms > 1e-9, rms, 1.0)})
        self.version += 1
        return {"transitions": float(len(state)), "rmse": float(residual.std())}

    def snapshot(self) -> Snapshot:
        """A frozen copy of matrix, offset and noise."""
        return Snapshot(KIND, self.spec.hash, self.version, {n: a.numpy().copy() for n, a in self._arrays().items()})

    def load(self, snapshot: Snapshot) -> None:
        """Take over a snapshot in place.

        Raises:
            SnapshotError: another kind, another robot, or arrays of wrong names, shapes or types; the model is then unchanged.
        """
        if snapshot.kind != KIND:
            raise SnapshotError(f"snapshot version {snapshot.version} is of kind '{snapshot.kind}', not '{KIND}'")
        check_spec(snapshot, self.spec)
        check_arrays(snapshot, self._arrays(), "linear model")
        self._take(snapshot.weights)
        self.version = snapshot.version

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        for name, here in self._arrays().items():
            here.copy_(torch.as_tensor(arrays[name]))
