"""Critics: K action values as one batched network, with a slowly following copy that targets are made from."""

from __future__ import annotations

import numpy as np
import torch

from mbrl_control.policies.networks import Shape, forward, initial


class Critics:
    """K estimates of the return of an action.

    Args:
        observation: S.
        actions: A.
        hidden: sizes of the hidden layers.
        rng: for the first weights.
        count: K.
        norm: see `networks.Shape`.
        dropout: see `networks.Shape`.
        half: see `networks.Shape`.

    Attributes:
        flat: the parameters.
        target: those of the copy.
    """

    def __init__(self, observation: int, actions: int, hidden: tuple[int, ...], rng: np.random.Generator, *, count: int = 2,
                 norm: bool = False, dropout: float = 0.0, half: bool = False) -> None:
        self.shape = Shape(count, (observation + actions, *hidden, 1), norm, dropout, half)
        self.flat = initial(self.shape, rng)
        self.target = self.flat.copy()

    def values(self, observation: torch.Tensor, action: torch.Tensor, rng: torch.Generator | None = None) -> torch.Tensor:
        """[K, B] at observations [B, S] and actions [B, A]; the generator is for dropout."""
        return forward(self.shape, self.flat.parts, torch.cat([observation, action], -1), rng)[..., 0]

    def least(self, observation: torch.Tensor, action: torch.Tensor, subset: int, rng: torch.Generator) -> torch.Tensor:
        """[B] the least value of the copy among `subset` critics that are drawn anew each time (Chen et al. 2021, "REDQ", algorithm 1)."""
        shape, parts = self.shape, self.target.parts
        if subset < shape.count:
            chosen = torch.randperm(shape.count, generator=rng)[:subset]
            shape, parts = Shape(subset, *list(vars(shape).values())[1:]), [part[chosen] for part in parts]
        return forward(shape, parts, torch.cat([observation, action], -1), rng)[..., 0].amin(0)

    def follow(self, share: float) -> None:
        """Move the copy: target += share (online - target)."""
        self.target.follow(self.flat, share)
