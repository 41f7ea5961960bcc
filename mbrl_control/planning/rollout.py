"""One function unrolls any model under action sequences: planners, evaluation and branches all call it."""

from __future__ import annotations

from typing import Literal

import torch

from mbrl_control.costs.base import Cost
from mbrl_control.models.base import Model

Propagation = Literal["mean", "ts1", "tsinf"]


def rollout(model: Model, start: torch.Tensor, actions: torch.Tensor, propagation: Propagation = "tsinf",
            rng: torch.Generator | None = None, sample: bool = False) -> torch.Tensor:
    """Unroll a model (trajectory sampling: Chua et al. 2018, section 5.1).

    Args:
        model: E members.
        start: [S] one start for all, or [N, S].
        actions: [N, H, A] physical units.
        propagation: `mean` averages the members after every step (one particle); `tsinf` keeps a particle per member;
            `ts1` hands the E particles to members anew at every step (a random permutation from `rng`).
        rng: generator; needed by `ts1` and by `sample`.
        sample: draw the aleatoric noise instead of using the members' means.

    Returns:
        [E, N, H + 1, S] (first axis 1 for `mean`), the start included; row e is the path of particle e.
    """
    whole = getattr(model, "rollout", None)
    states: torch.Tensor | None = whole(start, actions, propagation) if whole is not None and not sample else None
    if states is not None:
        return states
    n, horizon, _ = actions.shape
    members = model.members
    noise = rng if sample else None
    state = start.expand(members, n, start.shape[-1])
    path = [state[:1] if propagation == "mean" else state]
    for k in range(horizon):
        if propagation == "ts1" and members > 1:
            # Member e steps particle order[e]; the particles stay in their rows, so a row's return is one path's.
            order = torch.randperm(members, generator=rng)
            state = model.step(state[order], actions[:, k], noise).state[order.argsort()]
        else:
            state = model.step(state, actions[:, k], noise).state
        if propagation == "mean":
            state = state.mean(0, keepdim=True)
        path.append(state)
        if propagation == "mean":
            state = state.expand(members, -1, -1)
    return torch.stack(path, 2)


def price(model: Model, start: torch.Tensor, actions: torch.Tensor, propagation: Propagation, cost: Cost) -> torch.Tensor | None:
    """What rollouts cost, without their paths, where model and cost can tell (see `costs.base.Squares`).

    Args:
        model, start, actions, propagation: as for `rollout`.
        cost: of states and commands.

    Returns:
        [E, N] (first axis 1 for `mean`), summed over the horizon and its end; None where it takes the paths to know.
    """
    squares, whole = getattr(cost, "squares", None), getattr(model, "price", None)
    costs: torch.Tensor | None = whole(start, actions, propagation, squares) if squares is not None and whole is not None else None
    return costs
