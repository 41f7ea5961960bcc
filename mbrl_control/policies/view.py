"""How a policy sees a robot: angles as sine and cosine, everything of order one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mbrl_control import parts
from mbrl_control.robot import RobotSpec

LEAST = 1e-6
"""A number that varies less than this is left as it is."""

LEAST_UNIT = 1e-3
"""Of rewards: what costs almost nothing is not blown up."""


def matters(spec: RobotSpec) -> np.ndarray:
    """[S] bool: the signals that a policy needs: all but those that neither the model nor the cost looks at, as how far a runner has come.

    What a cost looks at are the signals that its options name. A signal that only grows would leave, in time, what a policy was trained on.
    """
    named: set[str] = set()

    def gather(value: Any) -> None:
        if isinstance(value, str):
            named.add(value)
        elif isinstance(value, dict):
            gather([*value.keys(), *value.values()])
        elif isinstance(value, list | tuple):
            for part in value:
                gather(part)

    gather(asdict(parts.options("costs", spec.cost.kind, dict(spec.cost.options))))
    return np.array([name in named or name not in spec.model.ignore for name in spec.state_names])


class View:
    """Observations [..., O] from states [..., S]: signals that do not wrap, then sines, then cosines of those that do; less their mean,
    in units of their deviation. Until `measure` or a load both are those of nothing: 0 and 1. Signals that do not matter are left out.

    Args:
        spec: the robot.

    Attributes:
        size: O.
        mean: [O].
        inverse: [O] one over the deviation.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._plain = torch.as_tensor(np.flatnonzero(~spec.wraps & (needed := matters(spec))))
        self._angles = torch.as_tensor(np.flatnonzero(spec.wraps & needed))
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


class Units:
    """A view's units and that of rewards, taken from data once: what was learned in one unit means something else in another.

    Args:
        view: that is to see states with mean 0 and deviation 1.
        unit: [1] that is to be the mean size of rewards.

    Attributes:
        settled: whether they have been taken; set it where they come from elsewhere.
    """

    def __init__(self, view: View, unit: torch.Tensor) -> None:
        self.view, self.unit, self.settled = view, unit, False

    def settle(self, states: torch.Tensor, rewards: torch.Tensor) -> None:
        """Take them from states [M, S] and rewards [...], if that has not been done."""
        if not self.settled:
            self.view.measure(states)
            self.unit.fill_(max(LEAST_UNIT, float(rewards.abs().mean())))
            self.settled = True
