"""A robot's policy as Dreamer learns it: it filters what was seen into a latent state and decides there (Hafner et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import parameters_to_vector

from mbrl_control.models.encoders import VectorEncoder
from mbrl_control.models.latents import Categorical, Gaussian, Latent
from mbrl_control.models.layers import MLP
from mbrl_control.models.rssm import RSSM, State
from mbrl_control.policies.bounded import Bounded, ClippedNormal, CutNormal, TanhNormal
from mbrl_control.policies.dreamer_versions import SIZES, Size, Version, chosen
from mbrl_control.policies.flat import fitting
from mbrl_control.policies.view import View
from mbrl_control.robot import RobotSpec

ACTOR_START = 0.01
ACTIONS: dict[str, type[Bounded]] = {"tanh": TanhNormal, "cut": CutNormal, "clipped": ClippedNormal}
REST = "rest"
"""Array with the parameters of all that only learning needs."""


@dataclass(frozen=True)
class Options:
    """Settings; what makes a version a version is in `dreamer_versions`.

    Attributes:
        version: of Dreamer.
        size: of the networks, see `dreamer_versions.SIZES`.
        window: model steps of the past that a plan's latent state is filtered from.
        batch: sequences of a gradient step.
        length: model steps of each.
        horizon: imagined steps.
        starts: how many of the last steps of each sequence imagination starts from.
    """

    version: Literal["v1", "v2", "v3"] = "v3"
    size: Literal["small", "size1m"] = "small"
    window: Annotated[int, Field(ge=1, le=64)] = 8
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    length: Annotated[int, Field(ge=2, le=1024)] = 16
    horizon: Annotated[int, Field(ge=1, le=100)] = 10
    starts: Annotated[int, Field(ge=1, le=1024)] = 8


def build(spec: RobotSpec, options: Options) -> DreamerPolicy:
    """A policy that has learned nothing yet."""
    return DreamerPolicy(spec, options)


def vector_encoder(inputs: int, version: Version, size: Size, rng: torch.Generator) -> VectorEncoder:
    """The encoder of vectors [..., inputs]."""
    return VectorEncoder(inputs, size.units, size.layers, version.style, version.logarithmic, rng)


def latent_dynamics(embedding: int, actions: int, version: Version, size: Size, rng: torch.Generator) -> RSSM:
    """The recurrent state-space model on embeddings [..., embedding] and actions [..., actions]."""
    latent: Latent = Categorical(size.groups, size.classes, version.unimix) if version.categorical else Gaussian(size.gaussian)
    return RSSM(embedding, actions, size.memory, size.hidden, latent, version.style, version.gates, rng)


def decider(features: int, actions: int, version: Version, size: Size, rng: torch.Generator) -> MLP:
    """The actor: features [..., features] to what its distribution of actions is made from, [..., 2 actions]."""
    return MLP(features, size.units, size.layers, 2 * actions, version.style, rng, ACTOR_START if version.reinforce else 1.0)


class DreamerPolicy:
    """See `mbrl_control.policies.base.LatentPolicy`.

    Args:
        spec: the robot.
        options: version and sizes.
    """

    fixed, kind = False, "dreamer"

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        version, size = chosen(options.version, options.size), SIZES[options.size]
        rng = torch.Generator().manual_seed(0)  # only until weights are loaded
        self.axes, self.window = spec.action_dim, options.window
        self.view, self.actions = View(spec), ACTIONS[version.actions]()
        encoder = vector_encoder(self.view.size, version, size, rng)
        self.encoder: nn.Module = encoder
        self.rssm = latent_dynamics(encoder.size, spec.action_dim, version, size, rng)
        self.actor = decider(self.rssm.features, spec.action_dim, version, size, rng)
        self.unit = torch.ones(1)

    @torch.no_grad()
    def rows(self, state: torch.Tensor, action: torch.Tensor, count: int, horizon: int, rng: torch.Generator) -> torch.Tensor:
        """[count, horizon, A] commands in half ranges, as imagined after what has happened; the first row's are the most likely ones.

        Args:
            state: [K + 1, S] of the last model steps; what a first step begins from is not looked at, as in training.
            action: [K, A] in effect between, half ranges.
            count: rows.
            horizon: of each.
            rng: draws latent states and commands.
        """
        latent, steps = self.rssm.latent, len(action)
        first = torch.zeros(1, steps, dtype=torch.bool)
        first[:, 0] = True
        seen = self.encoder(self.view(state[None, 1:]))
        filtered = self.rssm.observe(seen, action[None], first, latent.noise((1, steps), rng))
        now = State(*(part[:, -1].expand(count, -1) for part in filtered.state))
        noise, found = torch.randn(horizon, count, self.axes, generator=rng), list[torch.Tensor]()

        def decide(features: torch.Tensor, step: int) -> torch.Tensor:
            raw = self.actor(features)
            drawn = self.actions.sample(raw[1:], noise[step, 1:])
            found.append(torch.cat([self.actions.mode(raw[:1]), drawn]).clamp(-1, 1))
            return found[-1]

        self.rssm.imagine(now, decide, latent.noise((horizon, count), rng))
        return torch.stack(found, 1)

    def _parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "rssm": self.rssm, "actor": self.actor}

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `load` needs."""
        parts = {name: flat(part) for name, part in self._parts().items()}
        own = {"mean": self.view.mean, "inverse": self.view.inverse, "unit": self.unit}
        return parts | {name: array.numpy().copy() for name, array in own.items()}

    def check(self, arrays: dict[str, np.ndarray]) -> None:
        """Refuse arrays that are not this policy's; what only learning needs is not looked at.

        Raises:
            SnapshotError: other names, shapes or types.
        """
        fitting({name: array for name, array in arrays.items() if name != REST}, self.arrays(), f"policy '{self.kind}'")

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over arrays in place; see `check` for what is raised."""
        self.check(arrays)
        for name, part in self._parts().items():
            take(part, arrays[name])
        for name, here in (("mean", self.view.mean), ("inverse", self.view.inverse), ("unit", self.unit)):
            here.copy_(torch.from_numpy(arrays[name].copy()))


def flat(*modules: nn.Module) -> np.ndarray:
    """[P] all parameters of modules, one after the other."""
    vector: np.ndarray = parameters_to_vector([p.detach() for module in modules for p in module.parameters()]).numpy().copy()
    return vector


@torch.no_grad()
def take(module: nn.Module, vector: np.ndarray) -> None:
    """Take over parameters [P] in place, in the order of `flat`."""
    given, at = torch.from_numpy(vector.copy()), 0
    for parameter in module.parameters():
        parameter.copy_(given[at:at + parameter.numel()].view_as(parameter))
        at += parameter.numel()
