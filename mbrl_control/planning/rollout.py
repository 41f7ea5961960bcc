"""One function unrolls any model under action sequences: planners, evaluation and branches all call it."""

from __future__ import annotations

from typing import Literal

import torch

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
        [E, N, H + 1, S] (first axis 1 for `mean`), the start included.
    """
    whole = getattr(model, "rollout", None)
    if whole is not None and model.members == 1:
        return torch.as_tensor(whole(start, actions))
    n, horizon, _ = actions.shape
    members = model.members
    state = start.expand(members, n, start.shape[-1]) if start.dim() == 2 else start.expand(members, n, -1)
    out = state.new_empty(horizon + 1, 1 if propagation == "mean" else members, n, start.shape[-1])
    out[0] = state[:1] if propagation == "mean" else state
    noise = rng if sample else None
    for k in range(horizon):
        state = model.step(state, actions[:, k], noise).state
        if propagation == "mean":
            state = state.mean(0, keepdim=True)
            out[k + 1] = state
            state = state.expand(members, -1, -1)
        else:
            if propagation == "ts1" and members > 1:
                state = state[torch.randperm(members, generator=rng)]
            out[k + 1] = state
    return out.permute(1, 2, 0, 3)
