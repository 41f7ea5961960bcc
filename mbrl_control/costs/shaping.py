"""Smooth rewards in [0, 1] that costs are made of (Tassa et al. 2018, DeepMind Control Suite, section 2)."""

from __future__ import annotations

import math

import torch


def gaussian(x: torch.Tensor, margin: float, value_at_margin: float = 0.1) -> torch.Tensor:
    """1 at x = 0, `value_at_margin` at |x| = margin, Gaussian between and beyond."""
    return torch.exp(x.square() * (math.log(value_at_margin) / margin**2))


def quadratic(x: torch.Tensor, margin: float) -> torch.Tensor:
    """1 at x = 0, 0 from |x| = margin on, a parabola between."""
    return torch.clamp(1.0 - (x / margin) ** 2, min=0.0)


def excess(x: torch.Tensor, limit: float) -> torch.Tensor:
    """How far |x| is beyond a limit, 0 within it."""
    return torch.clamp(x.abs() - limit, min=0.0)


def angle_error(x: torch.Tensor, target: float) -> torch.Tensor:
    """Shortest way around the circle from `target` to x, rad in [-pi, pi)."""
    return torch.remainder(x - target + math.pi, 2 * math.pi) - math.pi
