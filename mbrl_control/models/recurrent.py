"""The deterministic memory of a recurrent world model: a gated recurrent unit with one product for all gates."""

from __future__ import annotations

import torch
from torch import nn

from mbrl_control.models.layers import EPSILON, Style, drawn, product

UPDATE_START = -1.0
"""Of the update gate's bias: at the start three quarters of the memory stay at each step (Hafner et al. 2021, code)."""


class GRU(nn.Module):
    """Cho et al. 2014, with the reset gate after the product and, if wanted, normalised gates (Ba et al. 2016, section 3.1).

    Args:
        inputs: X.
        size: D, of the memory.
        style: its norm is that of the gates' sums; the activations are the unit's own.
        rng: draws the weights.
    """

    def __init__(self, inputs: int, size: int, style: Style, rng: torch.Generator) -> None:
        super().__init__()
        self.size, self.norm, self.casts = size, style.norm, style.half
        self.weight = drawn(inputs + size, 3 * size, rng)
        self.bias = nn.Parameter(torch.cat([torch.zeros(size), torch.full((size,), UPDATE_START), torch.zeros(size)]))
        if style.norm != "none":
            self.gain = nn.Parameter(torch.ones(3 * size))

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """The next memory [N, D] from inputs [N, X] and memory [N, D]."""
        joined = torch.cat([x, memory], -1)
        sums = product(joined, self.weight, self.bias if self.norm == "none" else None, self.casts)
        if self.norm == "layer":
            sums = nn.functional.layer_norm(sums, self.bias.shape, self.gain, self.bias, EPSILON)
        elif self.norm == "rms":
            sums = nn.functional.rms_norm(sums, self.bias.shape, self.gain, EPSILON) + self.bias
        reset, update = sums[:, :2 * self.size].sigmoid().chunk(2, -1)
        return torch.lerp(memory, (reset * sums[:, 2 * self.size:]).tanh(), update)
