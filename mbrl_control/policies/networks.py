"""K multilayer perceptrons of equal sizes as one batched product: actors (K = 1) and critics (K > 1)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from mbrl_control.policies.flat import Flat

FEW = 2
"""Outputs up to which a sum of products is several times faster than a matrix product, on processors."""


@dataclass(frozen=True)
class Shape:
    """What the networks look like.

    Attributes:
        count: K.
        sizes: of the layers, inputs first.
        norm: layer normalisation before each ReLU (Hiraoka et al. 2022, "DroQ", section 3).
        dropout: share of hidden units that is left out at random, before the normalisation.
        half: products of hidden layers in bfloat16; parameters, sums and first and last layer stay float32.
    """

    count: int
    sizes: tuple[int, ...]
    norm: bool = False
    dropout: float = 0.0
    half: bool = False


def initial(shape: Shape, rng: np.random.Generator) -> Flat:
    """Parameters of each layer: `weight [K, in, out], bias [K, 1, out]`, and of a hidden one with `norm` also `scale, shift [K, 1, out]`.

    Weights and biases are uniform within 1 / sqrt(in); every network draws its own.
    """
    out = []
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(shape.sizes)):
        bound = 1 / math.sqrt(fan_in)
        for rows in (fan_in, 1):
            out.append(torch.tensor(rng.uniform(-bound, bound, (shape.count, rows, fan_out)), dtype=torch.float32))
        if shape.norm and layer < len(shape.sizes) - 2:
            out += [torch.ones(shape.count, 1, fan_out), torch.zeros(shape.count, 1, fan_out)]
    return Flat(out)


def forward(shape: Shape, parts: list[torch.Tensor], inputs: torch.Tensor, rng: torch.Generator | None = None) -> torch.Tensor:
    """Outputs of the networks.

    Args:
        shape: of the networks.
        parts: of `initial`.
        inputs: [B, I] for all alike, or [K, B, I].
        rng: for dropout; None leaves nothing out.

    Returns:
        [K, B, O].
    """
    hidden = inputs if inputs.ndim == 3 else inputs.expand(shape.count, *inputs.shape)
    step, last = (4 if shape.norm else 2), len(shape.sizes) - 2
    for layer in range(last):
        weight, bias, *affine = parts[layer * step:(layer + 1) * step]
        hidden = _product(hidden, weight, bias, shape.half and layer > 0)
        if shape.dropout and rng is not None:
            kept = 1 - shape.dropout
            hidden = hidden * torch.empty_like(hidden).bernoulli_(kept, generator=rng) / kept
        if affine:
            hidden = functional.layer_norm(hidden, hidden.shape[-1:]) * affine[0] + affine[1]
        hidden = hidden.relu()
    if shape.sizes[-1] > FEW:
        return torch.baddbmm(parts[-1], hidden, parts[-2])
    return (hidden[:, :, None] * parts[-2].mT[:, None]).sum(-1) + parts[-1]


def _product(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, half: bool) -> torch.Tensor:
    if half:
        return torch.bmm(hidden.bfloat16(), weight.bfloat16()).float() + bias  # the sum in float32: a bias may be small beside it
    return torch.baddbmm(bias, hidden, weight)
