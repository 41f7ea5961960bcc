"""Tanh-Gaussian actor: a Gaussian whose mean and deviation a network gives, squashed into [-1, 1] (Haarnoja et al. 2018, appendix C)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from mbrl_control.policies.networks import Shape, forward, initial

LOG_DEVIATION = (-20.0, 2.0)


def log_density(noise: torch.Tensor, log_deviation: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """Log density of the action tanh(raw), where raw = mean + deviation · noise.

    With the change of variables log(1 - tanh²(x)) = 2 (log 2 - x - softplus(-2 x)), which is exact and does not overflow where the
    left side is log 0.

    Args:
        noise: [..., A] standard normal.
        log_deviation: [..., A].
        raw: [..., A].

    Returns:
        [...].
    """
    gaussian = -0.5 * noise.square() - log_deviation - 0.5 * math.log(2 * math.pi)
    return (gaussian - 2 * (math.log(2) - raw - functional.softplus(-2 * raw))).sum(-1)


class TanhGaussian:
    """A stochastic policy.

    Args:
        observation: S.
        actions: A.
        hidden: sizes of the hidden layers.
        rng: for the first weights.
        half: see `networks.Shape`.

    Attributes:
        flat: the parameters.
    """

    def __init__(self, observation: int, actions: int, hidden: tuple[int, ...], rng: np.random.Generator, half: bool = False) -> None:
        self.shape = Shape(1, (observation, *hidden, 2 * actions), half=half)
        self.flat = initial(self.shape, rng)
        self.actions = actions

    def gaussian(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log deviation before the squashing, [B, A] each, at observations [B, S]."""
        out = forward(self.shape, self.flat.parts, observation)[0]
        return out[:, :self.actions], out[:, self.actions:].clamp(*LOG_DEVIATION)

    def sample(self, observation: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions [B, A] drawn at observations [B, S], differentiable in the parameters, and their log densities [B]."""
        mean, log_deviation = self.gaussian(observation)
        noise = torch.randn(mean.shape, generator=rng)
        raw = mean + log_deviation.exp() * noise
        return raw.tanh(), log_density(noise, log_deviation, raw)

    @torch.no_grad()
    def act(self, observation: np.ndarray, rng: torch.Generator | None) -> np.ndarray:
        """One action [A] at one observation [S]: drawn, or without generator the squashed mean."""
        mean, log_deviation = self.gaussian(torch.as_tensor(observation, dtype=torch.float32)[None])
        if rng is not None:
            mean = mean + log_deviation.exp() * torch.randn(mean.shape, generator=rng)
        return np.asarray(mean[0].tanh().numpy())
