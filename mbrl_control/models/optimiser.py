"""Optimisers over parameters that lie in one vector, so that a step is a handful of operations however many arrays there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

Rule = Literal["adam", "laprop"]
CLIP_NORM = 100.0
CLIP_SHARE, CLIP_LEAST = 0.3, 1e-3
EPSILONS = {"adam": 1e-5, "laprop": 1e-20}
MOMENTUM, SQUARES = 0.9, 0.999


def flatten(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """[P] all parameters, which become views of it."""
    some = list(parameters)
    flat = torch.cat([p.detach().flatten() for p in some])
    at = 0
    for parameter in some:
        parameter.data = flat[at:at + parameter.numel()].view(parameter.shape)
        at += parameter.numel()
    return flat


class Optimiser:
    """Adam (Kingma and Ba 2015) with the gradient's norm clipped, or LaProp (Ziyin et al. 2020) with adaptive clipping (Brock et al. 2021).

    LaProp divides the gradient by its root mean square before it is averaged, so that one burst cannot outweigh what came before.
    Adaptive clipping bounds each array's gradient by 0.3 of the array's norm.

    Args:
        parameters: to be learned; they become views of one vector, their gradients of another.
        rate: learning rate.
        rule: which.
        warm_up: steps over which the rate grows from 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, rule: Rule, warm_up: int = 0) -> None:
        self.parameters = list(parameters)
        self.rate, self.rule, self.warm_up, self.steps = rate, rule, warm_up, 0
        self.flat = flatten(self.parameters)
        self.gradient, self.average, self.squares = (torch.zeros_like(self.flat) for _ in range(3))
        self.sizes = torch.tensor([p.numel() for p in self.parameters])
        parts = zip(self.parameters, torch.split(self.gradient, self.sizes.tolist()), strict=True)
        for parameter, part in parts:
            parameter.grad = part.view(parameter.shape)
        self._values = [p.detach() for p in self.parameters]

    def clear(self) -> None:
        """Gradients to 0."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Take the gradients that have gathered. A gradient that is not finite is left out."""
        self._clip()
        self.steps += 1
        rate = self.rate * min(1.0, self.steps / max(self.warm_up, 1))
        self.squares.lerp_(self.gradient.square(), 1 - SQUARES)
        spread = (self.squares / (1 - SQUARES**self.steps)).sqrt_().add_(EPSILONS[self.rule])
        if self.rule == "laprop":
            self.average.lerp_(self.gradient.div_(spread), 1 - MOMENTUM)
            self.flat.sub_(self.average, alpha=rate / (1 - MOMENTUM**self.steps))
        else:
            self.average.lerp_(self.gradient, 1 - MOMENTUM)
            self.flat.addcdiv_(self.average, spread, value=-rate / (1 - MOMENTUM**self.steps))

    def _clip(self) -> None:
        if self.rule == "adam":
            factor = (CLIP_NORM / self.gradient.norm().clamp(min=CLIP_NORM)).nan_to_num(0.0)
        else:
            values = torch.stack(torch._foreach_norm(self._values))
            gradients = torch.stack(torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None]))
            most = CLIP_SHARE * values.clamp(min=CLIP_LEAST)
            factor = (most / torch.maximum(gradients, most)).nan_to_num(0.0).repeat_interleave(self.sizes)
        self.gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(factor)

    def arrays(self) -> dict[str, torch.Tensor]:
        """All that must be kept to go on, as views; `steps` beside them."""
        return {"weights": self.flat, "average": self.average, "squares": self.squares}
