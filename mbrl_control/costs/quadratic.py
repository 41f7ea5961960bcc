"""Distance to a goal: weighted squares (or saturated squares) of signals and commands. Enough for most own robots."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

import torch

from mbrl_control.costs import shaping
from mbrl_control.costs.base import Cost, Squares
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
        bent = [n for n in options.weight if spec.wraps[index[n]] or n in options.saturation]
        weight = torch.zeros(spec.state_dim)
        target = torch.tensor([options.target.get(n, 0.0) for n in spec.state_names])
        for name in options.weight.keys() - set(bent):
            weight[index[name]] = options.weight[name]
        # The columns from the first that counts to the last: a slice costs nothing, picking them out does.
        used = weight.nonzero().flatten().tolist() or [0, -1]
        self.used = slice(used[0], used[-1] + 1)
        self.weight, self.target = weight[self.used], target[self.used]
        self.offset = bool(self.target.any())
        self.bent = torch.tensor([index[n] for n in bent], dtype=torch.long)
        self.bent_weight, self.bent_target = torch.tensor([options.weight[n] for n in bent]), target[self.bent]
        self.wraps = torch.tensor(spec.wraps)[self.bent]
        self.saturates = torch.tensor([n in options.saturation for n in bent], dtype=torch.bool)
        self.width = torch.tensor([options.saturation.get(n, 1.0) for n in bent])
        self.end = options.terminal
        self.effort = torch.tensor([options.effort.get(n, 0.0) for n in spec.command_names])
        self.rest = torch.as_tensor(spec.action_zero, dtype=torch.float32)
        # Angles that wrap and saturated squares are no plain squares.
        self.squares = None if bent else Squares(torch.cat([target, self.rest]).numpy(), torch.cat([weight, self.effort]).numpy(), self.end)

    def _state_cost(self, state: torch.Tensor) -> torch.Tensor:
        near = state[..., self.used]
        square = (near - self.target).square_() if self.offset else near.square()
        cost = square @ self.weight.to(state.dtype)
        return cost + self._bent_cost(state) if len(self.bent) else cost

    def _bent_cost(self, state: torch.Tensor) -> torch.Tensor:
        away = state.index_select(-1, self.bent) - self.bent_target
        square = torch.where(self.wraps, shaping.angle_error(away, 0.0), away).square()
        saturated = 1 - torch.exp(-0.5 * square / self.width.square())
        return torch.where(self.saturates, saturated, square) @ self.bent_weight.to(state.dtype)

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """See `Cost.stage`."""
        return self._state_cost(state) + (action - self.rest).square() @ self.effort.to(action.dtype)

    def terminal(self, state: torch.Tensor) -> torch.Tensor:
        """See `Cost.terminal`: `terminal` x the state cost."""
        return self.end * self._state_cost(state) if self.end else torch.zeros_like(state[..., 0])


def build(spec: RobotSpec, options: Options) -> Cost:
    """The cost for a robot."""
    return Quadratic(spec, options)
