"""The probabilistic ensemble as the model of a task: from observation and decision to the next observation and the reward."""

from __future__ import annotations

import numpy as np
import torch

from mbrl_control.data.replay import Batch
from mbrl_control.data.sequences import Sequences
from mbrl_control.models import ensemble
from mbrl_control.models.sampling import sampled_step
from mbrl_control.robot import RobotSpec
from mbrl_control.store.snapshot import Snapshot

REWARD = "reward"
FLOOR = 1e-4
"""An error of one hundredth of a typical change is none: rewards are often constant but for a few decisions."""


def spec_of(observation: int, actions: int, members: int, hidden: tuple[int, ...]) -> RobotSpec:
    """A task as a robot: a signal of no unit for each number of the observation, and the reward as one more.

    The reward is a state that starts each step at 0 and that nothing depends on, so that what is learned of its change is the reward.

    Args:
        observation: S.
        actions: A.
        members: networks.
        hidden: units of their hidden layers.
    """
    names = [*(f"o{i}" for i in range(observation)), REWARD]
    return RobotSpec.model_validate({
        "name": "task", "model_dt": 1.0, "cost": {"kind": "quadratic"},
        "state": [{"name": name, "joint": name, "unit": "1"} for name in names],
        "command": [{"name": f"a{i}", "field": f"data[{i}]", "unit": "1", "limits": [-1.0, 1.0]} for i in range(actions)],
        "model": {"members": members, "hidden": list(hidden), "ignore": [REWARD]},
    })


class TaskModel:
    """An ensemble that samples what a decision comes to.

    Args:
        observation: S.
        actions: A.
        members: networks that are fitted.
        elites: of them, best on held-out data first, that predict.
        hidden: units of their hidden layers.

    Attributes:
        fitted: whether there has been a fit.
    """

    def __init__(self, observation: int, actions: int, members: int, elites: int, hidden: tuple[int, ...]) -> None:
        self._spec = spec_of(observation, actions, members, hidden)
        self._ensemble = ensemble.build(self._spec, ensemble.Options(elites=elites, floor=FLOOR))

    @property
    def fitted(self) -> bool:
        """Whether there has been a fit."""
        return self._ensemble.version > 0

    def fit(self, data: Batch, rng: np.random.Generator, updates: int, holdout: float) -> dict[str, float]:
        """Fit to decisions in the order in which they were made, warm; see `Ensemble.fit`.

        Args:
            data: all of them.
            rng: generator.
            updates: gradient steps.
            holdout: share of blocks of ten decisions by which weights and elites are chosen.

        Raises:
            DataError: too few.
        """
        before = torch.cat([data.observation, torch.zeros(len(data), 1)], -1)
        after = torch.cat([data.following, data.reward[:, None]], -1)
        state = torch.stack([before, after], 1).double().numpy()
        stretches = Sequences(state, data.action[:, None].double().numpy(), np.arange(len(data), dtype=float))
        return self._ensemble.fit(stretches, rng, updates=updates, holdout=holdout)

    @torch.no_grad()
    def step(self, observation: torch.Tensor, action: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample what decisions come to: each by an elite drawn at random, with its noise (see `sampled_step`).

        Args:
            observation: [N, S].
            action: [N, A].
            rng: generator.

        Returns:
            Next observations [N, S], rewards [N].
        """
        state = torch.cat([observation, torch.zeros(len(observation), 1)], -1)
        out = sampled_step(self._ensemble, state, action, rng)
        return out[:, :-1], out[:, -1]

    def save(self) -> dict[str, np.ndarray]:
        """Weights, elites, normaliser and optimiser; nothing before a fit."""
        if not self.fitted:
            return {}
        snapshot = self._ensemble.snapshot()
        arrays = {f"weights.{name}": array for name, array in snapshot.weights.items()}
        arrays |= {f"moments.{name}": array for name, array in self._ensemble.moments().items()}
        return arrays | {"version": np.array([snapshot.version], np.int64)}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `save` gave.

        Raises:
            SnapshotError: it does not fit.
        """
        if not arrays:
            return
        weights, moments = ({name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
                            for kind in ("weights.", "moments."))
        version = int(arrays["version"][0]) if "version" in arrays else 0
        self._ensemble.load(Snapshot(ensemble.KIND, self._spec.hash, version, weights))
        self._ensemble.resume(moments)
