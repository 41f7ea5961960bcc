"""Distance to a goal: weighted squares (or saturated squares) of signals and commands. Enough for most own robots."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

import torch

from mbrl_control.costs import shaping
from mbrl_control.costs.base import Cost
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Per signal name.

    Attributes:
        target: wanted value; 0 where not given.
        weight: cost per squared unit; signals that are not named cost nothing.
        saturation: distance at which the saturating cost 1 - exp(-d^2 / 2) has reached 39 % (Deisenroth and Rasmussen 2011, eq. 25);
            a signal named here costs its weight x that instead of a square.
        effort: cost per squared command unit, away from the command's `zero`.
        terminal: factor on the state cost at the end of the horizon.
    """

    target: dict[str, float] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)
    saturation: dict[str, float] = field(default_factory=dict)
    effort: dict[str, float] = field(default_factory=dict)
    terminal: float = 0.0


class Quadratic:
    """sum_i w_i d_i^2 (or its saturated form) + sum_j r_j (u_j - zero_j)^2; angles that wrap are compared around the circle."""

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        for group, known in ((options.target, spec.state_names), (options.weight, spec.state_names),
                             (options.saturation, spec.state_names), (options.effort, spec.command_names)):
            for name in group:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                    raise UserError(f"costs 'quadratic': '{name}' is no signal of '{spec.name}'; nearest: '{near[0]}'")
        index = {n: i for i, n in enumerate(spec.state_names)}
        self.terms = [(index[n], options.target.get(n, 0.0), w, options.saturation.get(n), bool(spec.wraps[index[n]]))
                      for n, w in options.weight.items()]
        axes = [(spec.command_names.index(name), weight) for name, weight in options.effort.items()]
        self.effort = [(axis, float(spec.action_zero[axis]), weight) for axis, weight in axes]
        self.end = options.terminal

    def _state_cost(self, state: torch.Tensor) -> torch.Tensor:
        cost = torch.zeros_like(state[..., 0])
        for i, target, weight, width, wraps in self.terms:
            d = shaping.angle_error(state[..., i], target) if wraps else state[..., i] - target
            cost = cost + weight * (d**2 if width is None else 1 - torch.exp(-0.5 * (d / width) ** 2))
        return cost

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """See `Cost.stage`."""
        cost = self._state_cost(state)
        for j, zero, weight in self.effort:
            cost = cost + weight * (action[..., j] - zero) ** 2
        return cost

    def terminal(self, state: torch.Tensor) -> torch.Tensor:
        """See `Cost.terminal`: `terminal` x the state cost."""
        return self.end * self._state_cost(state)


def build(spec: RobotSpec, options: Options) -> Cost:
    """The cost for a robot."""
    return Quadratic(spec, options)
