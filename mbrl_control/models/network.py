"""The networks of an ensemble: E multilayer perceptrons as one batched product, and their Gaussian likelihood."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch.nn import functional

LOG_VARIANCE_BOUNDS = (-12.0, 1.0)
"""Softly enforced, in units of the normalised target (so they mean the same for every robot)."""


BESIDE = 0.1
"""What the last layer's first weights are scaled by where the network is to be little at first, beside something that is right already."""


def initial(members: int, sizes: list[int], rng: np.random.Generator, linear: int = 0, beside: bool = False) -> list[torch.Tensor]:
    """Parameters `[w0, b0, w1, b1, …]` with weights [E, in, out] and biases [E, 1, out], and a linear map if there is to be one.

    Weights are truncated-normal with standard deviation 1 / (2 sqrt(in)), as in PETS (Chua et al. 2018, code); every
    member draws its own.

    Args:
        members: E.
        sizes: of the layers, inputs first.
        rng: generator.
        linear: L > 0 adds [E, in, L] zeros as the last parameter, which map the inputs straight to the first L outputs. The network
            then begins close to nothing, as what is learned beside the line.
        beside: whether it begins so in any case, as what is learned beside something else.
    """
    out = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        weight = np.clip(rng.standard_normal((members, fan_in, fan_out)), -2, 2) / (2 * math.sqrt(fan_in))
        out += [torch.tensor(weight, dtype=torch.float32), torch.zeros(members, 1, fan_out)]
    if linear or beside:
        out[-2] *= BESIDE
    if linear:
        out.append(torch.zeros(members, sizes[0], linear))
    return out


def parts(parameters: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """The layers, and the linear map beside them or None."""
    return (parameters[:-1], parameters[-1]) if len(parameters) % 2 else (parameters, None)


def forward(parameters: list[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Outputs [E, B, O] of inputs [E, B, I]: SiLU between layers, none after the last; plus the linear map."""
    layers, linear = parts(parameters)
    hidden = inputs
    for layer in range(0, len(layers), 2):
        hidden = torch.baddbmm(layers[layer + 1], hidden, layers[layer])
        if layer + 2 < len(layers):
            hidden = functional.silu(hidden)
    if linear is None:
        return hidden
    straight = torch.bmm(inputs, linear)
    size = straight.shape[-1]
    return torch.cat([hidden[..., :size] + straight, hidden[..., size:]], -1)


def ridge(inputs: torch.Tensor, outputs: torch.Tensor, weight: float) -> torch.Tensor:
    """[E, I, O] least squares from inputs [E, B, I] to outputs [E, B, O], without offset, with `weight` per row on the squared gains."""
    x, y = inputs.double(), outputs.double()
    gram = x.mT @ x + weight * x.shape[1] * torch.eye(x.shape[-1], dtype=torch.float64)
    gains: torch.Tensor = torch.linalg.solve(gram, x.mT @ y)
    return gains


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
