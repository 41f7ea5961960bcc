"""What an ensemble's networks learn from and are judged by: errors of open-loop predictions over stretches of data."""

from __future__ import annotations

import numpy as np
import torch

from mbrl_control.data.sequences import Sequences
from mbrl_control.models import network
from mbrl_control.models.encoding import Encoding, Normaliser

HELD_TRANSITIONS = 10_000
Weights = list[torch.Tensor]


def unroll(weights: Weights, encoding: Encoding, norm: Normaliser, state: torch.Tensor, action: torch.Tensor
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised open-loop errors [E, B, K, S] and the first step's log-variance [E, B, S].

    Args:
        weights: of the networks, see `models.network`.
        encoding: between states and what networks see.
        norm: float32 statistics.
        state: [E, B, K + 1, S].
        action: [E, B, K, A].
    """
    size, now, means, raw = state.shape[-1], state[:, :, 0], [], torch.empty(0)
    for k in range(action.shape[2]):
        features = encoding.features(now, action[:, :, k])
        out = network.forward(weights, (features - norm.input_mean) * norm.input_inverse)
        raw = out[..., size:] if k == 0 else raw
        change = (out[..., :size] * norm.target_scale + norm.target_mean) @ encoding.spread
        now = encoding.base(now, action[:, :, k]) + change
        means.append(now)
    return (state[:, :, 1:] - torch.stack(means, 2)) / norm.error_scale, network.bounded_log_variance(raw)


def loss(weights: Weights, encoding: Encoding, norm: Normaliser, state: torch.Tensor, action: torch.Tensor, floor: float) -> torch.Tensor:
    """Likelihood of the means with one unknown variance per step and signal, plus that of the variances given the means; over all members.

    With the variance put at its best value, the Gaussian likelihood of a batch of errors is log(mean square) / 2, which
    weighs all steps and signals alike whatever their size. The variance head learns from the errors as they are: it must
    not buy likelihood by giving up the mean where it is hard (Seitzer et al. 2022).

    Args:
        weights, encoding, norm, state, action: see `unroll`.
        floor: mean square error below which less is of no use.
    """
    errors, log_variance = unroll(weights, encoding, norm, state, action)
    means = 0.5 * (errors.square().mean(1) + floor).log().mean((1, 2))
    variances = network.gaussian_nll(errors[:, :, 0].detach(), log_variance).mean((1, 2))
    return (means + variances).sum()


@torch.no_grad()
def error(weights: Weights, encoding: Encoding, norm: Normaliser, judged: list[tuple[torch.Tensor, torch.Tensor]], floor: float
          ) -> torch.Tensor:
    """[E] log of the mean square open-loop error, mean over sets, steps and signals.

    Args:
        weights, encoding, norm: see `unroll`.
        judged: state and action of each set, see `thinned`.
        floor: see `loss`.
    """
    errors = [(unroll(weights, encoding, norm, *held)[0].square().mean(1) + floor).log().mean((1, 2)) for held in judged]
    return torch.stack(errors).mean(0)


def thinned(held: Sequences, members: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out state [E, B, K + 1, S] and action [E, B, K, A], thinned so that choosing weights costs little."""
    rows = np.unique(np.linspace(0, len(held) - 1, max(50, HELD_TRANSITIONS // held.action.shape[1])).round().astype(int))
    state, action = (torch.tensor(a[rows], dtype=torch.float32) for a in (held.state, held.action))
    return state.expand(members, *state.shape), action.expand(members, *action.shape)
