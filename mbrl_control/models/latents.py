"""Stochastic parts of a latent state: Gaussian or categorical, with divergences, and the loss that keeps prior and posterior together."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch.nn import functional

LEAST_DEVIATION = 0.1


class Latent(Protocol):
    """A distribution over vectors, given by the raw outputs of a network.

    Attributes:
        raw: P, numbers that a network gives for it.
        size: Z, of a sample.
    """

    raw: int
    size: int

    def noise(self, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
        """[*shape, ...] what `sample` needs to be random, drawn at once for many steps."""
        ...

    def sample(self, raw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[..., Z] from raw [..., P], with a gradient to it."""
        ...

    def mode(self, raw: torch.Tensor) -> torch.Tensor:
        """[..., Z] the likeliest."""
        ...

    def divergence(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """[...] Kullback-Leibler divergence of `one` from `other`, raw [..., P] each, nats, summed over the latent's parts."""
        ...


class Gaussian:
    """Independent Gaussians: PlaNet's and Dreamer v1's latents (Hafner et al. 2019).

    Args:
        size: Z.
    """

    def __init__(self, size: int) -> None:
        self.raw, self.size = 2 * size, size

    def parts(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [..., Z]; the deviation is at least 0.1."""
        mean, wide = raw.chunk(2, -1)
        return mean, functional.softplus(wide) + LEAST_DEVIATION

    def noise(self, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
        """Standard normal [*shape, Z]."""
        return torch.randn(*shape, self.size, generator=rng)

    def sample(self, raw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """mean + deviation · noise."""
        mean, deviation = self.parts(raw)
        return torch.addcmul(mean, deviation, noise)

    def mode(self, raw: torch.Tensor) -> torch.Tensor:
        """The mean."""
        return self.parts(raw)[0]

    def divergence(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Closed form, see `Latent`."""
        (mean, deviation), (mean2, deviation2) = self.parts(one), self.parts(other)
        ratio = (deviation / deviation2).square()
        return 0.5 * (ratio + ((mean - mean2) / deviation2).square() - 1 - ratio.log()).sum(-1)


class StraightThrough(torch.autograd.Function):
    """A one-hot sample of softmax logits mixed with a uniform distribution; its gradient is that of the chances (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, noise: torch.Tensor, unimix: float) -> torch.Tensor:
        """logits [..., G, C], uniform noise [..., G, 1]: the class in whose share of [0, 1) the noise falls."""
        chance = (logits - logits.amax(-1, keepdim=True)).exp_()  # torch's own softmax is eight times slower over few classes
        chance /= chance.sum(-1, keepdim=True)
        mixed = chance.mul(1 - unimix).add_(unimix / logits.shape[-1]) if unimix else chance
        ctx.save_for_backward(chance)
        ctx.unimix = unimix
        below = (mixed.cumsum(-1)[..., :-1] <= noise).sum(-1, keepdim=True)
        return torch.zeros_like(chance).scatter_(-1, below, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The softmax's."""
        (chance,) = ctx.saved_tensors
        weighted = gradients[0] * chance
        return torch.addcmul(weighted, chance, weighted.sum(-1, keepdim=True), value=-1.0).mul_(1 - ctx.unimix), None, None


class Categorical:
    """Groups of classes, one-hot each: Dreamer v2's and v3's latents (Hafner et al. 2021).

    Args:
        groups: G.
        classes: C of each; Z = G C.
        unimix: share of a uniform distribution in every chance, which bounds the divergence (Hafner et al. 2023: 0.01).
    """

    def __init__(self, groups: int, classes: int, unimix: float = 0.0) -> None:
        self.shape, self.unimix = (groups, classes), unimix
        self.raw = self.size = groups * classes

    def log_chances(self, raw: torch.Tensor) -> torch.Tensor:
        """[..., G, C] logarithms of the mixed chances."""
        logits = self._logits(raw)
        logits = logits - logits.amax(-1, keepdim=True).detach()
        logs = logits - logits.exp().sum(-1, keepdim=True).log()
        return logs.exp().mul(1 - self.unimix).add(self.unimix / self.shape[1]).log() if self.unimix else logs

    def _logits(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.view(*raw.shape[:-1], *self.shape)

    def noise(self, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
        """Uniform [*shape, G, 1]."""
        return torch.rand(*shape, self.shape[0], 1, generator=rng)

    def sample(self, raw: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """One-hot per group, flattened; see `StraightThrough`."""
        one_hot: torch.Tensor = StraightThrough.apply(self._logits(raw), noise, self.unimix)  # type: ignore[no-untyped-call]
        return one_hot.flatten(-2)

    def mode(self, raw: torch.Tensor) -> torch.Tensor:
        """The likeliest class of each group."""
        logits = self._logits(raw)
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0).flatten(-2)

    def divergence(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Sum over groups and classes, see `Latent`."""
        log_one, log_other = self.log_chances(one), self.log_chances(other)
        return (log_one.exp() * (log_one - log_other)).sum((-2, -1))


class Balance(NamedTuple):
    """How strongly prior and posterior are drawn to each other. The three versions differ here and nowhere else in the model's loss.

    Attributes:
        prior: weight of the loss that moves the prior to the posterior.
        posterior: weight of the loss that moves the posterior to the prior.
        free: nats below which a loss has no gradient ("free bits").
        each: free bits for each element of the batch; else for the mean of the batch.
    """

    prior: float
    posterior: float
    free: float
    each: bool


class Divergence(NamedTuple):
    """Of posteriors from priors.

    Attributes:
        loss: [] weighted, clipped, averaged.
        nats: [] average, as it is.
    """

    loss: torch.Tensor
    nats: torch.Tensor


def divergence_loss(latent: Latent, posterior: torch.Tensor, prior: torch.Tensor, balance: Balance) -> Divergence:
    """The divergence of posteriors from priors, raw [..., P] each, as a loss.

    Weights of 1 and 1 have the gradient of one loss for both sides, as in Dreamer v1 (Hafner et al. 2020, equation 10); 0.8 and 0.2 are
    v2's balancing (Hafner et al. 2021, algorithm 2); 1 and 0.1 are v3's two losses (Hafner et al. 2023, equation 3).
    """
    moves_prior = latent.divergence(posterior.detach(), prior)
    moves_posterior = latent.divergence(posterior, prior.detach())
    nats = moves_prior.detach().mean()
    if balance.each:
        parts = [side.clamp(min=balance.free).mean() for side in (moves_prior, moves_posterior)]
    else:
        parts = [side.mean().clamp(min=balance.free) for side in (moves_prior, moves_posterior)]
    return Divergence(balance.prior * parts[0] + balance.posterior * parts[1], nats)

