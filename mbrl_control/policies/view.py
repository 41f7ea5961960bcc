"""How a policy sees a robot: angles as sine and cosine, everything of order one."""

from __future__ import annotations

import numpy as np
import torch

from mbrl_control.robot import RobotSpec

LEAST = 1e-6
"""A number that varies less than this is left as it is."""


class View:
    """Observations [..., O] from states [..., S]: signals that do not wrap, then sines, then cosines of those that do; less their mean,
    in units of their deviation. Until `measure` or a load both are those of nothing: 0 and 1.

    Args:
        spec: the robot.

    Attributes:
        size: O.
        mean: [O].
        inverse: [O] one over the deviation.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._plain = torch.as_tensor(np.flatnonzero(~spec.wraps))
        self._angles = torch.as_tensor(np.flatnonzero(spec.wraps))
        self.size = len(self._plain) + 2 * len(self._angles)
        self.mean, self.inverse = torch.zeros(self.size), torch.ones(self.size)

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        """[..., O] from [..., S]."""
        return (self._features(state) - self.mean) * self.inverse

    def _features(self, state: torch.Tensor) -> torch.Tensor:
        if not len(self._angles):
            return state[..., self._plain]
        angle = state[..., self._angles]
        return torch.cat([state[..., self._plain], angle.sin(), angle.cos()], -1)

    def measure(self, states: torch.Tensor) -> None:
        """Take mean and deviation from states [M, S]."""
        features = self._features(states.double())
        deviation = features.std(0, correction=0)
        self.mean.copy_(features.mean(0))
        self.inverse.copy_(torch.where(deviation > LEAST, 1 / deviation, torch.ones_like(deviation)))
