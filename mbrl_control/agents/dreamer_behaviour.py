"""Dreamer's behaviour: an actor and a critic that learn from what a world model imagines."""

from __future__ import annotations

import contextlib
import copy
from typing import NamedTuple

import torch
from torch import nn

from mbrl_control.agents.dreamer_world import WorldModel, regression
from mbrl_control.data.replay import SequenceBatch
from mbrl_control.models.layers import MLP
from mbrl_control.models.rssm import State
from mbrl_control.policies import targets
from mbrl_control.policies.dreamer import ACTIONS, decider
from mbrl_control.policies.dreamer_versions import Size, Version

LAMBDA = 0.95
COPY_EVERY = 100


class Dream(NamedTuple):
    """Imagined trajectories, time first.

    Attributes:
        features: [H + 1, N, F].
        draws: [H, N, A] what the actor drew.
        reward: [H, N] of arriving at the next features.
        discount: [H, N] of everything after the next features.
        weight: [H, N] how much of a step is real: nothing after an end. No gradient.
    """

    features: torch.Tensor
    draws: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    weight: torch.Tensor


class BehaviourLoss(NamedTuple):
    """What an actor and a critic are to lessen.

    Attributes:
        actor: [].
        critic: [].
        returns: [H, N] lambda returns. No gradient.
        figures: [] each, by name.
    """

    actor: torch.Tensor
    critic: torch.Tensor
    returns: torch.Tensor
    figures: dict[str, torch.Tensor]


class Behaviour:
    """See module.

    Args:
        features: F.
        actions: A.
        version: of Dreamer.
        size: of the networks.
        gamma: what a decision later is worth.
        rng: draws the weights.
    """

    def __init__(self, features: int, actions: int, version: Version, size: Size, gamma: float, rng: torch.Generator) -> None:
        self.version, self.numbers, self.actions = version, regression(version, size), ACTIONS[version.actions]()
        self.axes, self.gamma = actions, gamma
        self.actor = decider(features, actions, version, size, rng)
        self.critic = MLP(features, size.units, size.layers, self.numbers.outputs, version.style, rng, 0.0 if version.two_hot else 1.0)
        self.slow: nn.Module = self.critic if version.target == "self" else copy.deepcopy(self.critic)
        self.scale = targets.ReturnScale()

    def imagine(self, world: WorldModel, start: State, alive: torch.Tensor, horizon: int, rng: torch.Generator) -> Dream:
        """Follow the actor through the model. Only where the actor learns through the model is a gradient kept.

        Args:
            world: the model.
            start: [N, ...]; no gradient goes back into it.
            alive: [N] 0 where the task had ended at the start.
            horizon: H.
            rng: generator.
        """
        count = len(alive)
        noise = torch.randn(horizon, count, self.axes, generator=rng)
        draws: list[torch.Tensor] = []

        def policy(features: torch.Tensor, step: int) -> torch.Tensor:
            draws.append(self.actions.sample(self.actor(features), noise[step]))
            return draws[-1].clamp(-1, 1)

        with torch.no_grad() if self.version.reinforce else contextlib.nullcontext():
            start = State(*(part.detach() for part in start))
            features = world.rssm.imagine(start, policy, world.rssm.latent.noise((horizon, count), rng))
            reward, discount = world.reward(features[1:]), world.discount(features[1:])
        return Dream(features, torch.stack(draws), reward, discount, targets.weights(discount.detach()) * alive)

    def losses(self, dream: Dream) -> BehaviourLoss:
        """Of actor and critic on imagined trajectories. The critic's has no gradient to anything but the critic."""
        raw = self.critic(dream.features.detach())
        if self.version.target == "copy":
            settled = self.slow(dream.features)
        else:
            settled = self.critic(dream.features) if dream.features.requires_grad else raw.detach()
        value = self.numbers.mean(settled)
        returns = targets.lambda_return(dream.reward, dream.discount, value, LAMBDA)
        outputs = self.actor(dream.features[:-1].detach())
        entropy = self.actions.entropy(outputs)
        learned = returns.detach()
        gain = (returns - value[:-1].detach()) / self.scale.update(learned) if self.version.scaled else returns
        if self.version.reinforce:
            gain = gain * self.actions.log_likelihood(outputs, dream.draws)
        actor = -(dream.weight * (gain + self.version.entropy * entropy)).mean()
        critic = (dream.weight * self._value_loss(raw[:-1], dream.features[:-1].detach(), learned)).mean()
        figures = {"imagined_return": learned.mean(), "imagined_reward": dream.reward.detach().mean(), "entropy": entropy.detach().mean(),
                   "value": value.detach().mean(), "critic_loss": critic, "return_scale": self.scale.scale()}
        return BehaviourLoss(actor, critic, learned, figures)

    def _value_loss(self, raw: torch.Tensor, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[...] to a target, and to the critic's own moving average where the version has that."""
        loss = self.numbers.loss(raw, target)
        if self.version.target == "average":
            with torch.no_grad():
                average = self.numbers.mean(self.slow(features))
            loss = loss + self.numbers.loss(raw, average)
        return loss

    def replay_loss(self, features: torch.Tensor, batch: SequenceBatch, settled: torch.Tensor) -> torch.Tensor:
        """[] of the critic on what really happened, with a gradient to the features.

        Args:
            features: [B, T, F] of the model.
            batch: the same steps.
            settled: [B, T] imagined returns from each, which stand for the value.
        """
        features, settled = features.transpose(0, 1), settled.transpose(0, 1)
        reward, terminated, first = batch.reward.T[1:], batch.terminated.T[1:], batch.is_first.T[1:]
        into_next = torch.cat([first[1:], torch.zeros_like(first[:1])])
        returns = targets.lambda_return(reward, targets.discounts(terminated, self.gamma), settled, LAMBDA * (1 - into_next))
        here = features[:-1]
        return ((1 - first) * self._value_loss(self.critic(here), here.detach(), returns)).mean()

    def settle(self, updates: int) -> None:
        """Let the slow critic follow, after an update.

        Args:
            updates: done so far.
        """
        if self.version.target == "average":
            self._follow(self.version.follow)
        elif self.version.target == "copy" and updates % COPY_EVERY == 0:
            self._follow(1.0)

    @torch.no_grad()
    def _follow(self, share: float) -> None:
        for slow, fast in zip(self.slow.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, share)
