"""The contract of a cost."""

from __future__ import annotations

from typing import Protocol

import torch

from mbrl_control import parts
from mbrl_control.robot import RobotSpec


class Cost(Protocol):
    """Costs to minimise. Non-finite values count as +inf, never as 0.

    For a planner on another device the tensors among a cost's attributes are moved there; a cost that keeps some elsewhere (in objects
    of its own) brings a method `on(device)` that gives its twin there. Both methods may then run inside a captured graph: no branch on
    what a tensor holds, no reading it back.
    """

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Cost of arriving in `state` [..., S] under `action` [..., A] (broadcast over leading axes), [...]."""
        ...

    def terminal(self, state: torch.Tensor) -> torch.Tensor:
        """Cost of ending in `state` [..., S], [...]."""
        ...


def build(spec: RobotSpec) -> Cost:
    """The cost that a robot's YAML asks for.

    Raises:
        UserError: unknown kind or option.
    """
    cost: Cost = parts.find("costs", spec.cost.kind).build(spec, parts.options("costs", spec.cost.kind, dict(spec.cost.options)))
    return cost
