"""Candidate rows from elsewhere: policies, stored manoeuvres."""

from __future__ import annotations

from typing import Protocol

import torch

from mbrl_control.planning.plan import PlanRequest


class Proposal(Protocol):
    """A source of candidate action sequences; which source wins is counted by `name`."""

    name: str

    def rows(self, request: PlanRequest) -> torch.Tensor:
        """[R, H, A] actions in physical units, the first one sent at the request's `apply_time`; rows that are not finite are left out."""
        ...

    def pass_over(self) -> None:
        """It is not asked in the plan under way."""
        ...

    def useful(self) -> bool:
        """Whether it is of use in the plan under way, whatever becomes of its rows."""
        ...
