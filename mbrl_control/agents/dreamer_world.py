"""Dreamer's world model: a recurrent state-space model with heads for what is seen, what it is worth, and whether it goes on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mbrl_control.agents.base import TaskSpec
from mbrl_control.data.replay import SequenceBatch
from mbrl_control.models import encoders
from mbrl_control.models.latents import divergence_loss
from mbrl_control.models.layers import MLP
from mbrl_control.models.rssm import Filtered
from mbrl_control.policies import targets
from mbrl_control.policies.dreamer import latent_dynamics, vector_encoder
from mbrl_control.policies.dreamer_versions import Size, Version
from mbrl_control.policies.heads import Regression, TwoHot, UnitNormal, chance_loss, vector_loss


def regression(version: Version, size: Size) -> Regression:
    """How a version reads numbers from networks."""
    return TwoHot(size.bins) if version.two_hot else UnitNormal()


class ModelLoss(NamedTuple):
    """A world model's loss on a batch.

    Attributes:
        total: [] to be minimised.
        figures: [] each, by name.
    """

    total: torch.Tensor
    figures: dict[str, torch.Tensor]


class WorldModel(nn.Module):
    """See module.

    Args:
        task: observations and actions.
        version: of Dreamer.
        size: of the networks.
        rng: draws the weights.
    """

    def __init__(self, task: TaskSpec, version: Version, size: Size, rng: torch.Generator) -> None:
        super().__init__()
        self.version, self.images, self.gamma = version, len(task.observation) == 3, version.gamma**task.repeat
        style, activation = version.style, version.style.activation
        self.encoder: nn.Module
        if self.images:
            self.encoder = image = encoders.ImageEncoder(size.depth, activation, rng, style.half)
            embedding = image.size
        else:
            self.encoder = vector = vector_encoder(task.observation[0], version, size, rng)
            embedding = vector.size
        self.rssm = latent_dynamics(embedding, task.actions, version, size, rng)
        features = self.rssm.features
        self.decoder: nn.Module = (
            encoders.ImageDecoder(features, size.depth, activation, rng, style.half) if self.images
            else MLP(features, size.units, size.layers, task.observation[0], style, rng)
        )
        self.numbers = regression(version, size)
        self.reward_head = MLP(features, size.units, 1, self.numbers.outputs, style, rng, 0.0 if version.two_hot else 1.0)
        self.going_on = MLP(features, size.units, 1, 1, style, rng)

    def filter(self, batch: SequenceBatch, noise: torch.Tensor) -> Filtered:
        """Latent states [B, T, ...] along a batch of sequences."""
        filtered: Filtered = self.rssm.observe(self.encoder(batch.observation), batch.action, batch.is_first.bool(), noise)
        return filtered

    def loss(self, batch: SequenceBatch, filtered: Filtered, features: torch.Tensor) -> ModelLoss:
        """How badly a batch is explained.

        Args:
            batch: sequences [B, T].
            filtered: of `filter`.
            features: [B, T, F] of it.
        """
        decoded = self.decoder(features)
        if self.images:
            seen = vector_loss(decoded.flatten(-3), encoders.pixels(batch.observation).flatten(-3), False).mean()
        else:
            seen = self.version.precision * vector_loss(decoded, batch.observation, self.version.logarithmic).mean()
        reward = self.numbers.loss(self.reward_head(features), batch.reward).mean()
        chance = chance_loss(self.going_on(features).squeeze(-1), targets.discounts(batch.terminated, self.gamma)).mean()
        divergence = divergence_loss(self.rssm.latent, filtered.posterior, filtered.prior, self.version.balance)
        figures = {"observation_loss": seen, "reward_loss": reward, "continue_loss": chance, "divergence_nats": divergence.nats}
        return ModelLoss(seen + reward + chance + divergence.loss, figures)

    def reward(self, features: torch.Tensor) -> torch.Tensor:
        """[...] expected reward of arriving at features [..., F]."""
        return self.numbers.mean(self.reward_head(features))

    def discount(self, features: torch.Tensor) -> torch.Tensor:
        """[...] what is worth of everything after features [..., F]: gamma times the chance that the task goes on."""
        out: torch.Tensor = self.going_on(features).squeeze(-1).sigmoid()
        return out
