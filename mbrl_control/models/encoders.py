"""Observations to embeddings and back: vectors by multilayer perceptrons, images of 64×64 by convolutions."""

from __future__ import annotations

import itertools
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from mbrl_control.models.layers import ACTIVATIONS, MLP, Activation, Linear, Style
from mbrl_control.models.symlog import symlog

SIDE = 64
KERNEL, STRIDE, SMALLEST = 4, 2, 4


class Encoder(Protocol):
    """Observations to embeddings.

    Attributes:
        size: of an embedding.
    """

    size: int

    def __call__(self, observation: torch.Tensor) -> torch.Tensor:
        """[..., *shape] to [..., size]."""
        ...


class VectorEncoder(nn.Module):
    """Vectors, squashed first if wanted so that their units matter less.

    Args:
        inputs: S.
        units: of the hidden layers and the embedding.
        layers: how many.
        style: of the layers.
        logarithmic: apply `symlog` first.
        rng: draws the weights.
    """

    def __init__(self, inputs: int, units: int, layers: int, style: Style, logarithmic: bool, rng: torch.Generator) -> None:
        super().__init__()
        self.size, self.logarithmic = units, logarithmic
        self.net = MLP(inputs, units, layers, 0, style, rng)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[..., S] to [..., size]."""
        out: torch.Tensor = self.net(symlog(observation) if self.logarithmic else observation)
        return out


def pixels(image: torch.Tensor) -> torch.Tensor:
    """[..., 3, 64, 64] in -0.5 to 0.5 from bytes."""
    return image.float() / 255 - 0.5


def _convolution(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], inputs: int, outputs: int, rng: torch.Generator) -> nn.Module:
    layer = kind(inputs, outputs, KERNEL, STRIDE, padding=1)
    fan_in = inputs * KERNEL**2 / (STRIDE**2 if kind is nn.ConvTranspose2d else 1)
    with torch.no_grad():
        layer.weight.normal_(0, fan_in**-0.5, generator=rng)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def _convolved(layer: nn.Module, x: torch.Tensor, half: bool) -> torch.Tensor:
    """What a convolution makes of images x [N, C, H, W], laid out by pixel; with `half` in bfloat16, its weights stay float32."""
    apply = functional.conv_transpose2d if isinstance(layer, nn.ConvTranspose2d) else functional.conv2d
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    assert isinstance(bias, torch.Tensor)
    if half:
        x, weight, bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    # By pixel it takes four fifths of the time on a processor, and in bfloat16 another four fifths of that.
    by_pixel = torch.channels_last
    out: torch.Tensor = apply(x.contiguous(memory_format=by_pixel), weight.contiguous(memory_format=by_pixel), bias, STRIDE, padding=1)
    return out


class ImageEncoder(nn.Module):
    """Four convolutions that halve the side each time, from 64 to 4 (the shape of Ha and Schmidhuber 2018, appendix A.1).

    Args:
        depth: channels after the first; they double at each.
        activation: after each.
        rng: draws the weights.
        half: see `layers.Style`.
    """

    def __init__(self, depth: int, activation: Activation, rng: torch.Generator, half: bool = False) -> None:
        super().__init__()
        self.half_precision = half
        channels = [3, depth, 2 * depth, 4 * depth, 8 * depth]
        self.size = channels[-1] * SMALLEST**2
        self.activate = ACTIVATIONS[activation]
        self.layers = nn.ModuleList(_convolution(nn.Conv2d, *pair, rng) for pair in itertools.pairwise(channels))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Bytes [..., 3, 64, 64] to [..., size]."""
        x = pixels(image).reshape(-1, 3, SIDE, SIDE)
        for layer in self.layers:
            x = self.activate(_convolved(layer, x, self.half_precision))
        return x.float().reshape(*image.shape[:-3], self.size)


class ImageDecoder(nn.Module):
    """The encoder backwards: features to pixels between -0.5 and 0.5.

    Args:
        inputs: F, size of the features.
        depth: as the encoder's.
        activation: between layers.
        rng: draws the weights.
        half: see `layers.Style`.
    """

    def __init__(self, inputs: int, depth: int, activation: Activation, rng: torch.Generator, half: bool = False) -> None:
        super().__init__()
        self.half_precision = half
        channels = [8 * depth, 4 * depth, 2 * depth, depth, 3]
        self.first = Linear(inputs, channels[0] * SMALLEST**2, rng)
        self.activate = ACTIVATIONS[activation]
        self.layers = nn.ModuleList(_convolution(nn.ConvTranspose2d, *pair, rng) for pair in itertools.pairwise(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., F] to [..., 3, 64, 64]."""
        x: torch.Tensor = self.first(features).reshape(-1, self.first.bias.numel() // SMALLEST**2, SMALLEST, SMALLEST)
        for layer in self.layers:
            x = _convolved(layer, self.activate(x), self.half_precision)
        return x.float().reshape(*features.shape[:-1], 3, SIDE, SIDE)
