"""What the last layer of a network means: a number by two-hot bins or by its mean, a chance, a vector; each with its likelihood."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional

from mbrl_control.models.symlog import symexp, symlog

BINS = 255
REACH = 20.0
"""Bins go to symexp(20), about 4.9e8: no reward or return of a sane task is outside."""


class Regression(Protocol):
    """A number read from a network's outputs.

    Attributes:
        outputs: K, of the network per number.
    """

    outputs: int

    def mean(self, raw: torch.Tensor) -> torch.Tensor:
        """[...] the numbers meant by raw outputs [..., K]."""
        ...

    def loss(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[...] negative log-likelihood of targets [...] (constants dropped)."""
        ...


class TwoHot:
    """A number as the mean of a categorical over fixed bins, evenly spaced under `symlog` (Hafner et al. 2023, "Robust predictions").

    The size of the gradient does not depend on the size of the target. Bins are mirrored exactly.

    Args:
        bins: K, odd, so that one of them is 0.
        reach: the outermost bin is symexp(reach).

    Raises:
        ValueError: K even or less than 3.
    """

    def __init__(self, bins: int = BINS, reach: float = REACH) -> None:
        if bins < 3 or bins % 2 == 0:
            raise ValueError(f"two-hot bins = {bins}: must be odd and at least 3")
        self.outputs = bins
        positive = symexp(torch.linspace(0, reach, bins // 2 + 1, dtype=torch.float64)).float()
        self.bins = torch.cat([-positive.flip(0)[:-1], positive])

    def mean(self, raw: torch.Tensor) -> torch.Tensor:
        """[...] means of logits [..., K].

        Probabilities of bins of opposite sign are subtracted before they meet their bins: a plain sum would lose everything to rounding
        between bins of 1e8, and equal logits would not mean 0.
        """
        half = self.outputs // 2
        chance = raw.softmax(-1)
        difference = chance[..., half + 1:] - chance[..., :half].flip(-1)
        return difference @ self.bins[half + 1:]

    def encode(self, target: torch.Tensor) -> torch.Tensor:
        """[..., K] weights on the two bins beside each target [...], whose mean is the target; outside the bins, on the nearest."""
        low, share = self._place(target)
        weights = target.new_zeros(*target.shape, self.outputs)
        weights.scatter_(-1, low.unsqueeze(-1), (1 - share).unsqueeze(-1))
        return weights.scatter_add_(-1, low.unsqueeze(-1) + 1, share.unsqueeze(-1))

    def loss(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[...] cross entropy from `encode(target)` to logits [..., K], with K-wide work once."""
        low, share = self._place(target)
        beside = raw.gather(-1, torch.stack([low, low + 1], -1))
        return raw.logsumexp(-1) - torch.lerp(beside[..., 0], beside[..., 1], share)

    def _place(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Index of the bin below, and the weight of the one above."""
        inside = target.clamp(float(self.bins[0]), float(self.bins[-1]))
        low = (torch.bucketize(inside, self.bins, right=True) - 1).clamp(max=self.outputs - 2)
        below, above = self.bins[low], self.bins[low + 1]
        return low, (inside - below) / (above - below)


class UnitNormal:
    """A number as the mean of a Gaussian of variance 1 (Hafner et al. 2020, section 3)."""

    outputs = 1

    def mean(self, raw: torch.Tensor) -> torch.Tensor:
        """[...] of raw outputs [..., 1]."""
        return raw.squeeze(-1)

    def loss(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[...] (mean - target)² / 2."""
        return (raw.squeeze(-1) - target).square() / 2


def chance_loss(logit: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[...] negative log-likelihood of a Bernoulli with a logit [...]; the target may be a chance itself.

    A target of (1 - terminated) gamma makes the head's mean the discount of the next step.
    """
    return functional.softplus(logit) - target * logit


def vector_loss(mean: torch.Tensor, target: torch.Tensor, logarithmic: bool) -> torch.Tensor:
    """[...] how unlike a predicted vector [..., S] is to its target.

    Args:
        mean: prediction; of symlog(target) if `logarithmic`.
        target: physical units.
        logarithmic: the squared distance under symlog (Hafner et al. 2023), else the negative log-likelihood of a Gaussian
            of variance 1, half the squared distance.
    """
    if logarithmic:
        return (mean - symlog(target)).square().sum(-1)
    return (mean - target).square().sum(-1) / 2
