"""What known models share: one member, no doubt, whole horizons in one call."""

from __future__ import annotations

import abc

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl_control.errors import UserError
from mbrl_control.models.base import Step
from mbrl_control.robot import RobotSpec

Array = NDArray[np.float64]


class KnownModel(abc.ABC):
    """`mbrl_control.models.base.Model` from a `simulate` on whole horizons, in double precision.

    Attributes:
        members: 1.
        dt: the model step, s.
        version: 1; a known model is never refitted.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self.members, self.dt, self.version = 1, spec.model_dt, 1
        self.state_dim, self.action_dim = spec.state_dim, spec.action_dim

    @abc.abstractmethod
    def simulate(self, start: Array, actions: Array) -> Array:
        """States [N, H, S] after each model step, from `start` [N, S] under `actions` [N, H, A]; rows that fail are NaN."""

    def rollout(self, start: torch.Tensor, actions: torch.Tensor, propagation: str = "mean") -> torch.Tensor:
        """The whole horizon in one call.

        Args:
            start: [S] or [N, S] states, SI units.
            actions: [N, H, A] commands, each held for `dt`.
            propagation: changes nothing, there is one member.

        Returns:
            [1, N, H + 1, S] states in the dtype of `start`, the first being `start`; angles are not wrapped.
        """
        s, a = self.state_dim, self.action_dim
        if actions.ndim != 3 or actions.shape[-1] != a or start.shape not in ((s,), (len(actions), s)):
            raise UserError(f"known model: rollout of start {list(start.shape)} under actions {list(actions.shape)}; "
                            f"wanted [{s}] or [N, {s}] and [N, H, {a}]")
        first = start.expand(len(actions), s)
        after = self.simulate(first.numpy().astype(np.float64), actions.numpy().astype(np.float64))
        return torch.cat((first[:, None], torch.from_numpy(after).to(start.dtype)), dim=1)[None]

    def step(self, state: torch.Tensor, action: torch.Tensor, rng: torch.Generator | None = None) -> Step:
        """See `Model.step`; state [1, N, S], action [N, A] or [1, N, A]; deterministic, so `rng` has no effect."""
        s, a = self.state_dim, self.action_dim
        rows = state.shape[1] if state.ndim == 3 else 0
        if state.shape != (1, rows, s) or action.shape not in ((rows, a), (1, rows, a)):
            raise UserError(f"known model: step of state {list(state.shape)} under action {list(action.shape)}; "
                            f"wanted [1, N, {s}] and [N, {a}]")
        return Step(self.rollout(state[0], action.reshape(rows, 1, a))[:, :, 1])

    def scale(self) -> torch.Tensor:
        """[S] ones: a single member never disagrees."""
        return torch.ones(self.state_dim)
