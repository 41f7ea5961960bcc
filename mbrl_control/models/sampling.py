"""One sampled step for many states at once, each by a member of its own."""

from __future__ import annotations

import torch

from mbrl_control.models.base import Model


@torch.no_grad()
def sampled_step(model: Model, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Sample where commands lead: each by a member drawn at random, with its noise (TS1: Chua et al. 2018, section 5.1).

    Members get equal shares of the rows, in an order that is drawn anew: then each predicts only its own rows.

    Args:
        model: E members.
        state: [N, S].
        action: [N, A].
        rng: generator.

    Returns:
        [N, S].
    """
    count = len(state)
    share = -(-count // model.members)
    order = torch.randperm(count, generator=rng)
    rows = torch.cat([order, order[:1].expand(model.members * share - count)]).view(model.members, share)
    following = model.step(state[rows], action[rows], rng).state.flatten(0, 1)
    out = torch.empty_like(state)
    out[order] = following[:count]
    return out
