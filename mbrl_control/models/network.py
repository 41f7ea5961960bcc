"""The networks of an ensemble: E multilayer perceptrons as one batched product, and their Gaussian likelihood."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch.nn import functional

LOG_VARIANCE_BOUNDS = (-12.0, 1.0)
"""Softly enforced, in units of the normalised target (so they mean the same for every robot)."""


def initial(members: int, sizes: list[int], rng: np.random.Generator) -> list[torch.Tensor]:
    """Parameters `[w0, b0, w1, b1, …]` with weights [E, in, out] and biases [E, 1, out].

    Weights are truncated-normal with standard deviation 1 / (2 sqrt(in)), as in PETS (Chua et al. 2018, code); every
    member draws its own.
    """
    out = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        weight = np.clip(rng.standard_normal((members, fan_in, fan_out)), -2, 2) / (2 * math.sqrt(fan_in))
        out += [torch.tensor(weight, dtype=torch.float32), torch.zeros(members, 1, fan_out)]
    return out


def forward(parameters: list[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Outputs [E, B, O] of inputs [E, B, I]: SiLU between layers, none after the last."""
    hidden = inputs
    for layer in range(0, len(parameters), 2):
        hidden = torch.baddbmm(parameters[layer + 1], hidden, parameters[layer])
        if layer + 2 < len(parameters):
            hidden = functional.silu(hidden)
    return hidden


def bounded_log_variance(raw: torch.Tensor) -> torch.Tensor:
    """Log-variance within LOG_VARIANCE_BOUNDS, smooth everywhere (Chua et al. 2018, appendix A.1; fixed bounds)."""
    low, high = LOG_VARIANCE_BOUNDS
    raw = high - functional.softplus(high - raw)
    return low + functional.softplus(raw - low)


def gaussian_nll(error: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each element, without the constant log(2 pi) / 2."""
    return 0.5 * (error.square() * (-log_variance).exp() + log_variance)


def clip_per_member(parameters: list[torch.Tensor], limit: float) -> None:
    """Scale every member's gradient to at most `limit` in norm, in place; one that is not finite becomes 0.

    A burst in one member must neither slow the others nor stay in the optimiser's averages.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.square().sum((1, 2)) for g in gradients]).sum(0).sqrt()
    finite = norm.isfinite()
    factor = (limit / norm.clamp(min=limit))[:, None, None]
    for gradient in gradients:
        gradient.mul_(factor)
        if not finite.all():
            gradient[~finite] = 0.0
