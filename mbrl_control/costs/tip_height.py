"""Double-pendulum swing-up: one minus a product reward of the tip's height, calm joints and small torques."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mbrl_control.costs import shaping
from mbrl_control.costs.base import Cost
from mbrl_control.errors import UserError, nearest
from mbrl_control.robot import RobotSpec


@dataclass
class Options:
    """Signal names, geometry, and what counts as near.

    Attributes:
        angles: signals of joint 1 (0 hanging) and joint 2 (relative to link 1), rad.
        rates: their rates, rad/s.
        lengths: of link 1 and link 2, m.
        near: height below the top, as a share of its whole range, at which the reward for being near has fallen to 10 %.
        straight: share of the height's reward that is lost with link 2 folded back, (1 - cos q2) / 2 of it in between: without it
            the tip of an acrobot stays up at half height, link 1 hanging.
        near_share: share of the height's reward that is for being near; the rest grows evenly from hanging to upright.
        rate_margins: rates at which the factor for calm has fallen to 55 %, rad/s.
        effort: cost of full torque, squared in between.
    """

    angles: list[str] = field(default_factory=lambda: ["q1", "q2"])
    rates: list[str] = field(default_factory=lambda: ["q1_dot", "q2_dot"])
    lengths: list[float] = field(default_factory=lambda: [0.2, 0.3])
    near: float = 0.02
    straight: float = 1.0
    near_share: float = 0.5
    rate_margins: list[float] = field(default_factory=lambda: [15.0, 15.0])
    effort: float = 0.01


class TipHeight:
    """1 - height x calm + effort, with calm as in the control suite: (1 + gaussian) / 2 of either rate.

    Height is h (1 - near_share) + near_share gaussian(1 - h), with h = 0 hanging and 1 upright, times the factor for straightness.
    """

    def __init__(self, spec: RobotSpec, options: Options) -> None:
        for key in ("angles", "rates", "lengths", "rate_margins"):
            if len(getattr(options, key)) != 2:
                raise UserError(f"costs 'tip_height': {key} = {getattr(options, key)} must be two, of joint 1 and joint 2")
        for name in (*options.angles, *options.rates):
            if name not in spec.state_names:
                raise UserError(f"costs 'tip_height': '{name}' is no state signal of '{spec.name}'{nearest(name, list(spec.state_names))}")
        self.q1, self.q2, self.v1, self.v2 = (spec.state_names.index(n) for n in (*options.angles, *options.rates))
        self.options = options
        self.zero = torch.as_tensor(spec.action_zero, dtype=torch.float32)
        self.half = torch.as_tensor((spec.action_high - spec.action_low) / 2, dtype=torch.float32)

    def _state_cost(self, state: torch.Tensor) -> torch.Tensor:
        o = self.options
        q1, q2 = state[..., self.q1], state[..., self.q2]
        l1, l2 = o.lengths
        low = (l1 * (1 + torch.cos(q1)) + l2 * (1 + torch.cos(q1 + q2))) / (2 * (l1 + l2))  # 0 upright, 1 hanging
        high = (1 - o.near_share) * (1 - low) + o.near_share * shaping.gaussian(low, o.near)
        high = high * (1 - o.straight * (1 - torch.cos(q2)) / 2)
        calm1 = (1 + shaping.gaussian(state[..., self.v1], o.rate_margins[0])) / 2
        calm2 = (1 + shaping.gaussian(state[..., self.v2], o.rate_margins[1])) / 2
        return 1 - high * calm1 * calm2

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """See `Cost.stage`."""
        return self._state_cost(state) + self.options.effort * (((action - self.zero) / self.half) ** 2).mean(-1)

    def terminal(self, state: torch.Tensor) -> torch.Tensor:
        """See `Cost.terminal`: none."""
        return torch.zeros_like(state[..., 0])


def build(spec: RobotSpec, options: Options) -> Cost:
    """The cost for a robot."""
    return TipHeight(spec, options)
