"""A robot's policy and critic as MBPO learns them beside its model (Janner et al. 2019): what a planner starts from, and ends with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from mbrl_control.policies.actor import TanhGaussian
from mbrl_control.policies.critics import Critics
from mbrl_control.policies.flat import fitting
from mbrl_control.policies.sac import SacOptions
from mbrl_control.policies.view import View
from mbrl_control.robot import RobotSpec


@dataclass(frozen=True)
class Options(SacOptions):
    """Settings: those of `SacOptions`, smaller by default, and of the imagined data.

    Attributes:
        batch: transitions of a gradient step.
        real_share: of them, that really happened.
        branches: imagined episodes begun after each refit, from real states.
        steps: of each.
        retain: refits whose branches are kept.
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64, 64)
    discount: Annotated[float, Field(ge=0, lt=1)] = 0.98
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.1
    batch: Annotated[int, Field(ge=2, le=100_000)] = 128
    real_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    branches: Annotated[int, Field(ge=1, le=100_000)] = 400
    steps: Annotated[int, Field(ge=1, le=100)] = 5
    retain: Annotated[int, Field(ge=1, le=100)] = 10


def build(spec: RobotSpec, options: Options) -> MbpoPolicy:
    """A policy that has learned nothing yet."""
    return MbpoPolicy(spec, options)


class MbpoPolicy:
    """See `mbrl_control.policies.base.Policy`.

    Args:
        spec: the robot.
        options: sizes.
    """

    fixed = False

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        weights = np.random.default_rng(0)  # only until weights are loaded
        self.view = View(spec)
        self.actor = TanhGaussian(self.view.size, spec.action_dim, options.hidden, weights)
        self.critics = Critics(self.view.size, spec.action_dim, options.hidden, weights, count=options.critics, norm=options.norm)
        self.unit = torch.ones(1)
        self.discount = options.discount

    def act(self, state: torch.Tensor, rng: torch.Generator | None) -> torch.Tensor:
        """[N, A] commands in half ranges at states [N, S]: drawn, or without generator the most likely."""
        if rng is not None:
            return self.actor.sample(self.view(state), rng)[0]
        return self.actor.gaussian(self.view(state))[0].tanh()

    def to_go(self, state: torch.Tensor) -> torch.Tensor:
        """[...] discounted cost from states [..., S] on, by the critic that expects the most of it."""
        seen = self.view(state).flatten(0, -2)
        values = self.critics.values(seen, self.actor.gaussian(seen)[0].tanh())
        return -self.unit * values.amin(0).reshape(state.shape[:-1])

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `load` needs."""
        return {"actor": self.actor.flat.vector.numpy().copy(), "critics": self.critics.flat.vector.numpy().copy(),
                "mean": self.view.mean.numpy().copy(), "inverse": self.view.inverse.numpy().copy(), "unit": self.unit.numpy().copy()}

    def check(self, arrays: dict[str, np.ndarray]) -> None:
        """Refuse arrays that are not this policy's.

        Raises:
            SnapshotError: other names, shapes or types.
        """
        fitting(arrays, self.arrays(), "policy 'mbpo'")

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over arrays in place; see `check` for what is raised."""
        self.check(arrays)
        self.actor.flat.take(arrays["actor"])
        self.critics.flat.take(arrays["critics"])
        for name, here in (("mean", self.view.mean), ("inverse", self.view.inverse), ("unit", self.unit)):
            here.copy_(torch.from_numpy(arrays[name].copy()))
