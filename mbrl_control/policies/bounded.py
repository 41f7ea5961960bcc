"""Actors' distributions of actions in [-1, 1], as each version of Dreamer has them. Raw outputs [..., 2 A]: means, then deviations.

Draws are what a likelihood is asked of; clipped to [-1, 1] they are actions.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch.nn import functional

HALF_LOG_TAU = math.log(2 * math.pi) / 2
LEAST, MOST = 0.1, 1.0
"""Of the standard deviation of the clipped Gaussian."""


class Bounded(Protocol):
    """A distribution of actions."""

    def sample(self, raw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[..., A] draws from raw outputs and standard normal noise [..., A], with a gradient to the outputs."""
        ...

    def mode(self, raw: torch.Tensor) -> torch.Tensor:
        """[..., A] what is thought best."""
        ...

    def log_likelihood(self, raw: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        """[...] of draws [..., A]."""
        ...

    def entropy(self, raw: torch.Tensor) -> torch.Tensor:
        """[...] nats, summed over the axes."""
        ...


class TanhNormal:
    """tanh of a Gaussian whose deviation is 5 at the start, so that first actions are at the bounds (Hafner et al. 2020, appendix A)."""

    start, scale, least = 5.0, 5.0, 1e-4

    def parts(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean, within ±5 and softly so, and deviation of the Gaussian."""
        mean, wide = raw.chunk(2, -1)
        return self.scale * (mean / self.scale).tanh(), functional.softplus(wide + math.log(math.expm1(self.start))) + self.least

    def sample(self, raw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """tanh(mean + deviation · noise)."""
        mean, deviation = self.parts(raw)
        return torch.addcmul(mean, deviation, noise).tanh()

    def mode(self, raw: torch.Tensor) -> torch.Tensor:
        """tanh of the mean."""
        return self.parts(raw)[0].tanh()

    def log_likelihood(self, raw: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        """Change of variables; draws at the bounds are taken a little inside."""
        mean, deviation = self.parts(raw)
        inside = draw.clamp(-1 + 1e-6, 1 - 1e-6)
        error = (inside.atanh() - mean) / deviation
        return (-0.5 * error.square() - deviation.log() - HALF_LOG_TAU - (1 - inside.square()).log()).sum(-1)

    def entropy(self, raw: torch.Tensor) -> torch.Tensor:
        """Of the Gaussian before the tanh: that of the result has no closed form."""
        return (self.parts(raw)[1].log() + HALF_LOG_TAU + 0.5).sum(-1)


class CutNormal:
    """A Gaussian without what is outside of [-1, 1] (Hafner et al. 2021, appendix; truncated normal)."""

    def parts(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean within [-1, 1] and deviation, 1.1 at the start and at least 0.1, of the Gaussian before the cut."""
        mean, wide = raw.chunk(2, -1)
        return mean.tanh(), 2 * (wide / 2).sigmoid() + LEAST

    def sample(self, raw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """By the inverse of the distribution function, so that the gradient is exact."""
        mean, deviation = self.parts(raw)
        low, high = torch.special.ndtr((-1 - mean) / deviation), torch.special.ndtr((1 - mean) / deviation)
        uniform = torch.lerp(low, high, torch.special.ndtr(noise)).clamp(1e-6, 1 - 1e-6)
        inside: torch.Tensor = torch.special.ndtri(uniform)
        return torch.addcmul(mean, deviation, inside)

    def mode(self, raw: torch.Tensor) -> torch.Tensor:
        """The mean of the Gaussian, which is inside."""
        return self.parts(raw)[0]

    def log_likelihood(self, raw: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        """The Gaussian's over the share that is inside."""
        mean, deviation = self.parts(raw)
        low, high = (-1 - mean) / deviation, (1 - mean) / deviation
        share: torch.Tensor = torch.special.ndtr(high) - torch.special.ndtr(low)
        return (-0.5 * ((draw - mean) / deviation).square() - HALF_LOG_TAU - (deviation * share).log()).sum(-1)

    def entropy(self, raw: torch.Tensor) -> torch.Tensor:
        """Closed form (Johnson, Kotz and Balakrishnan 1994, section 13.10.1)."""
        mean, deviation = self.parts(raw)
        low, high = (-1 - mean) / deviation, (1 - mean) / deviation
        share: torch.Tensor = torch.special.ndtr(high) - torch.special.ndtr(low)
        edges: torch.Tensor = (low * (-0.5 * low.square()).exp() - high * (-0.5 * high.square()).exp()) / math.sqrt(2 * math.pi)
        return ((deviation * share).log() + HALF_LOG_TAU + 0.5 + edges / (2 * share)).sum(-1)


class ClippedNormal:
    """A Gaussian whose draws are clipped when they become actions (Hafner et al. 2023, code)."""

    def parts(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean within [-1, 1] and deviation from 0.1 to 1, 0.89 at the start."""
        mean, wide = raw.chunk(2, -1)
        return mean.tanh(), (MOST - LEAST) * (wide + 2).sigmoid() + LEAST

    def sample(self, raw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """mean + deviation · noise; may be outside of [-1, 1]."""
        mean, deviation = self.parts(raw)
        return torch.addcmul(mean, deviation, noise)

    def mode(self, raw: torch.Tensor) -> torch.Tensor:
        """The mean."""
        return self.parts(raw)[0]

    def log_likelihood(self, raw: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        """Of the draw before it is clipped, so that its gradient has no bias."""
        mean, deviation = self.parts(raw)
        return (-0.5 * ((draw - mean) / deviation).square() - deviation.log() - HALF_LOG_TAU).sum(-1)

    def entropy(self, raw: torch.Tensor) -> torch.Tensor:
        """Of the Gaussian before its draws are clipped."""
        return (self.parts(raw)[1].log() + HALF_LOG_TAU + 0.5).sum(-1)
