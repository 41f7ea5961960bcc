"""Layers of recurrent world models and of the behaviour on top: linear maps with a seeded start, normalised, activated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

Norm = Literal["none", "layer", "rms"]
Activation = Literal["elu", "silu"]


class Style(NamedTuple):
    """What follows each hidden layer.

    Attributes:
        norm: `layer` (Ba et al. 2016), `rms` (Zhang and Sennrich 2019) or `none`. Both work as well; on a processor `layer` is one
            operation and `rms` is six.
        activation: after it.
        half: large products in bfloat16; weights, sums and what is remembered stay float32. Three times as fast on a processor
            that knows bfloat16, slow on one that does not.
    """

    norm: Norm
    activation: Activation
    half: bool = False


EPSILON = 1e-3
"""Of the norms; large, so that a layer that says nothing is not blown up to noise."""

LARGE = 2_000_000
"""Multiplications from which on a product is worth its casts."""

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"elu": functional.elu, "silu": functional.silu}


def drawn(inputs: int, outputs: int, rng: torch.Generator, scale: float = 1.0) -> nn.Parameter:
    """[inputs, outputs] weights, truncated normal with variance scale² / inputs; zeros for a scale of 0."""
    weight = torch.zeros(inputs, outputs)
    if scale:
        shrunk = 0.8796
        deviation = scale / math.sqrt(inputs) / shrunk
        nn.init.trunc_normal_(weight, 0.0, deviation, -2 * deviation, 2 * deviation, generator=rng)
    return nn.Parameter(weight)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, half: bool) -> torch.Tensor:
    """x W + b [N, O] of x [N, I]; with `half` in bfloat16 if the product is large enough for the casts to pay."""
    if half and len(x) * weight.numel() >= LARGE:
        out = torch.mm(x.bfloat16(), weight.bfloat16()).float()
        return out if bias is None else out + bias
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


class Normed(nn.Module):
    """Normalisation over the last axis (or none), then an activation.

    Args:
        size: of the last axis.
        style: which ones.
    """

    def __init__(self, size: int, style: Style) -> None:
        super().__init__()
        self.norm, self.shape = style.norm, (size,)
        self.activate = ACTIVATIONS[style.activation]
        if style.norm != "none":
            self.gain = nn.Parameter(torch.ones(size))
        if style.norm == "layer":
            self.offset = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size] to the same."""
        if self.norm == "layer":
            x = torch.layer_norm(x, self.shape, self.gain, self.offset, EPSILON)
        elif self.norm == "rms":
            x = functional.rms_norm(x, self.shape, self.gain, EPSILON)
        return self.activate(x)


class Linear(nn.Module):
    """x W + b, with W [inputs, outputs].

    Args:
        inputs: size of x.
        outputs: size of the result.
        rng: draws W.
        scale: of W at the start; 0 makes the first output exactly 0.
        half: see `Style`.
    """

    def __init__(self, inputs: int, outputs: int, rng: torch.Generator, scale: float = 1.0, half: bool = False) -> None:
        super().__init__()
        self.casts = half
        self.weight, self.bias = drawn(inputs, outputs, rng, scale), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        if x.ndim == 2:
            return product(x, self.weight, self.bias, self.casts)
        return product(x.reshape(-1, x.shape[-1]), self.weight, self.bias, self.casts).view(*x.shape[:-1], -1)


class MLP(nn.Module):
    """Layers of equal width, and an output layer if it has outputs.

    Args:
        inputs: size of x.
        units: width of each hidden layer.
        layers: how many of them.
        outputs: size of the result; 0: the last hidden layer is the result.
        style: after each hidden layer.
        rng: draws the weights.
        scale: of the output layer's first weights.
    """

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, style: Style, rng: torch.Generator, scale: float = 1.0) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(layers):
            parts += [Linear(inputs, units, rng, half=style.half), Normed(units, style)]
            inputs = units
        parts += [Linear(inputs, outputs, rng, scale, style.half)] if outputs else []
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs or units]."""
        rows = x.reshape(-1, x.shape[-1])
        for part in self.parts:
            rows = part(rows)
        return rows if x.ndim == 2 else rows.view(*x.shape[:-1], -1)
