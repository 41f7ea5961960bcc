"""Cart-pole swing-up: one minus the product reward of the control suite's `cartpole swingup`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mbrl_control.costs import shaping
from mbrl_control.costs.base import Cost
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Signal names, and the margins of the reward's factors.

    Attributes:
        position: the cart's signal, m.
        angle: the pole's, rad, 0 upright.
        rate: the pole's rate, rad/s.
        position_margin: distance from the middle at which the factor for being centred has fallen to 55 %, m.
        rate_margin: rate at which the factor for calm has fallen to 55 %, rad/s.
        rail: |position| beyond which the penalty rises, m; 0 for none.
        rail_weight: penalty per metre beyond.
    """

    position: str = "x"
    angle: str = "theta"
    rate: str = "theta_dot"
    position_margin: float = 2.0
    rate_margin: float = 5.0
    rail: float = 0.0
    rail_weight: float = 10.0


class SwingUp:
    """1 - upright x centred x small control x small rate; each factor as in the control suite (dm_control, cartpole.py `Balance`)."""

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        try:
            self.x, self.theta, self.rate = (spec.state_names.index(n) for n in (options.position, options.angle, options.rate))
        except ValueError as error:
            raise UserError(f"costs 'swing_up': {error} (state signals: {', '.join(spec.state_names)})") from error
        self.options = options
        self.half = float(spec.action_high[0] - spec.action_low[0]) / 2
        self.mid = float(spec.action_high[0] + spec.action_low[0]) / 2

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """See `Cost.stage`."""
        o = self.options
        upright = (torch.cos(state[..., self.theta]) + 1) / 2
        centred = (1 + shaping.gaussian(state[..., self.x], o.position_margin)) / 2
        calm = (1 + shaping.gaussian(state[..., self.rate], o.rate_margin)) / 2
        gentle = (4 + shaping.quadratic((action[..., 0] - self.mid) / self.half, 1.0)) / 5
        cost = 1 - upright * centred * calm * gentle
        if o.rail > 0:
            cost = cost + o.rail_weight * shaping.excess(state[..., self.x], o.rail)
        return cost

    def terminal(self, state: torch.Tensor) -> torch.Tensor:
        """See `Cost.terminal`: none."""
        return torch.zeros_like(state[..., 0])


def build(spec: RobotSpec, options: Options) -> Cost:
    """The cost for a robot."""
    return SwingUp(spec, options)
