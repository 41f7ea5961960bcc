"""Recurrent state-space model: a latent state that filters what was seen and imagines what would be (Hafner et al. 2019, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from mbrl_control.models.latents import Latent
from mbrl_control.models.layers import MLP, Linear, Norm, Normed, Style, drawn
from mbrl_control.models.recurrent import GRU


class State(NamedTuple):
    """A latent state.

    Attributes:
        memory: [..., D] deterministic.
        stochastic: [..., Z].
    """

    memory: torch.Tensor
    stochastic: torch.Tensor

    def features(self) -> torch.Tensor:
        """[..., D + Z] what heads, actor and critic read."""
        return torch.cat(self, -1)


class Filtered(NamedTuple):
    """What a sequence of observations came to.

    Attributes:
        state: [B, T, ...] after each observation.
        posterior: [B, T, P] raw, given the observation.
        prior: [B, T, P] raw, before the observation.
    """

    state: State
    posterior: torch.Tensor
    prior: torch.Tensor


class RSSM(nn.Module):
    """h' = GRU(h, z, a); prior p(z' | h'), posterior q(z' | h', embedding of the observation).

    Args:
        embedding: E, size of what an encoder gives.
        actions: A.
        memory: D.
        hidden: units of the layers between.
        latent: distribution of z.
        style: of the layers between.
        gates: norm of the GRU's.
        rng: draws the weights.
    """

    def __init__(
        self, embedding: int, actions: int, memory: int, hidden: int, latent: Latent, style: Style, gates: Norm, rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.latent, self.memory = latent, memory
        self.features = memory + latent.size
        self.from_action, self.from_latent = Linear(actions, hidden, rng, half=style.half), drawn(latent.size, hidden, rng)
        self.enter = Normed(hidden, style)
        self.cell = GRU(hidden, memory, style._replace(norm=gates), rng)
        self.from_embedding, self.from_memory = Linear(embedding, hidden, rng, half=style.half), drawn(memory, hidden, rng)
        self.see, self.posterior = Normed(hidden, style), Linear(hidden, latent.raw, rng, half=style.half)
        self.prior = MLP(memory, hidden, 1, latent.raw, style, rng)

    def initial(self, batch: int) -> State:
        """[B, ...] what is known before anything is: zeros."""
        return State(torch.zeros(batch, self.memory), torch.zeros(batch, self.latent.size))

    def observe(
        self, embedding: torch.Tensor, action: torch.Tensor, first: torch.Tensor, noise: torch.Tensor, start: State | None = None,
    ) -> Filtered:
        """Filter sequences of observations. All that does not need the step before is computed for all steps at once.

        Args:
            embedding: [B, T, E] of the observations.
            action: [B, T, A] that led to each.
            first: [B, T] bool: an episode begins here; the state and the action before are another episode's and count as zeros.
            noise: [B, T, ...] of `latent.noise`.
            start: state before the first step; None for `initial`.
        """
        kept = (~first).to(embedding.dtype).unsqueeze(-1)
        driven, seen = self.from_action(action * kept), self.from_embedding(embedding)
        memory, stochastic = start or self.initial(len(embedding))
        memories, samples, raws = [], [], []
        steps = zip(*(part.unbind(1) for part in (kept, driven, seen, noise)), strict=True)
        for keep, drive, sight, random in steps:
            memory = self._advance(memory * keep, stochastic * keep, drive)
            raw = self.posterior(self.see(torch.addmm(sight, memory, self.from_memory)))
            stochastic = self.latent.sample(raw, random)
            memories.append(memory)
            samples.append(stochastic)
            raws.append(raw)
        state = State(torch.stack(memories, 1), torch.stack(samples, 1))
        return Filtered(state, torch.stack(raws, 1), self.prior(state.memory))

    def _advance(self, memory: torch.Tensor, stochastic: torch.Tensor, driven: torch.Tensor) -> torch.Tensor:
        """The next memory [B, D] from a state and the action's share [B, hidden] of the input."""
        out: torch.Tensor = self.cell(self.enter(torch.addmm(driven, stochastic, self.from_latent)), memory)
        return out

    def imagine(
        self, start: State, policy: Callable[[torch.Tensor, int], torch.Tensor], noise: torch.Tensor,
    ) -> torch.Tensor:
        """Follow a policy through the prior, without observations.

        Args:
            start: [N, ...].
            policy: from features [N, F] and the number of the step to actions [N, A] in [-1, 1].
            noise: [H, N, ...] of `latent.noise`.

        Returns:
            [H + 1, N, F] features, the start's first.
        """
        memory, stochastic = start
        features = [start.features()]
        for step, random in enumerate(noise):
            memory = self._advance(memory, stochastic, self.from_action(policy(features[-1], step)))
            stochastic = self.latent.sample(self.prior(memory), random)
            features.append(torch.cat([memory, stochastic], -1))
        return torch.stack(features)
