"""Squashing of numbers of any size, as inputs and as targets (Hafner et al. 2023, "Robust predictions")."""

from __future__ import annotations

import torch


def symlog(x: torch.Tensor) -> torch.Tensor:
    """sign(x) ln(1 + |x|): like x near 0, like a logarithm far away, on both sides."""
    return x.sign() * x.abs().log1p()


def symexp(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `symlog`: sign(x) (exp(|x|) - 1)."""
    return x.sign() * x.abs().expm1()
