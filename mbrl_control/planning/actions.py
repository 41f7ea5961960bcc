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
        # Repeated over the horizon: broadcasting a handful of numbers is slower than reading them again.
        self._mids, self._halves = (t.repeat(spec.planner.horizon, 1) for t in (self.mid, self.half))

    def normal(self, physical: torch.Tensor) -> torch.Tensor:
        """Physical units [..., A] to half ranges."""
        return (physical - self.mid) / self.half

    def physical(self, normal: torch.Tensor) -> torch.Tensor:
        """Half ranges [..., A] to physical units."""
        return self.mid + self.half * normal

    def commands(self, rows: torch.Tensor) -> torch.Tensor:
        """Candidates [N, H, A] in half ranges to physical units."""
        return torch.addcmul(self._mids, self._halves, rows)

    def limit(self, rows: torch.Tensor, last: torch.Tensor, reuse: bool = False) -> torch.Tensor:
        """Clip candidates [N, H, A] to the limits and, where there are any, to the greatest rates from the command [A] on.

        With `reuse` the rows given may be overwritten.
        """
        rows = rows.clamp_(-1.0, 1.0) if reuse else rows.clamp(-1.0, 1.0)
        return self.slow(rows, last)

    def clear(self, row: torch.Tensor, last: torch.Tensor, share: float) -> bool:
        """Whether a candidate [H, A] keeps within a share of the limits, and of the greatest rates from the command [A] on."""
        within = bool((row.abs() < share).all())
        return within and not (self._rates and bool((row.diff(dim=0, prepend=last[None]).abs() >= share * self.max_step).any()))

    def slow(self, rows: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Clip candidates [N, H, A] to the greatest rates only."""
        if not self._rates:
            return rows
        before, within = last, []
        for row in rows.unbind(1):
            before = row.clamp(before - self.max_step, before + self.max_step)
            within.append(before)
        return torch.stack(within, 1)
