"""Commands in units of half their range around its middle, and their limits: the space that planners search in."""

from __future__ import annotations

import torch

from mbrl_control.robot import RobotSpec


class ActionSpace:
    """Between physical commands and half ranges, in which every axis goes from -1 to 1.

    Attributes:
        mid: [A] middle of the limits, physical units.
        half: [A] half of their width, physical units.
        zero: [A] the command that does nothing, half ranges.
        max_step: [A] greatest change from one action to the next, half ranges; inf where unlimited.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self.mid = torch.as_tensor((spec.action_high + spec.action_low) / 2, dtype=torch.float32)
        self.half = torch.as_tensor((spec.action_high - spec.action_low) / 2, dtype=torch.float32)
        self.zero = self.normal(torch.as_tensor(spec.action_zero, dtype=torch.float32))
        self.max_step = torch.as_tensor(spec.action_max_rate * spec.model_dt, dtype=torch.float32) / self.half
        self._rates = bool(torch.isfinite(self.max_step).any())

    def normal(self, physical: torch.Tensor) -> torch.Tensor:
        """Physical units [..., A] to half ranges."""
        return (physical - self.mid) / self.half

    def physical(self, normal: torch.Tensor) -> torch.Tensor:
        """Half ranges [..., A] to physical units."""
        return self.mid + self.half * normal

    def limit(self, rows: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Clip candidates [N, H, A] to the limits and, where there are any, to the greatest rates from the command [A] on."""
        rows = rows.clamp(-1.0, 1.0)
        if not self._rates:
            return rows
        before, within = last, []
        for k in range(rows.shape[1]):
            before = torch.maximum(torch.minimum(rows[:, k], before + self.max_step), before - self.max_step)
            within.append(before)
        return torch.stack(within, 1)
