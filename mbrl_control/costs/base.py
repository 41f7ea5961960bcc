"""The contract of a cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
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


@dataclass(frozen=True)
class Squares:
    """A whole cost that is nothing but weighted squared distances, `stage` of state and command as well as `terminal`.

    A cost that is so may say so with an attribute `squares` (None where it is not, for this robot). A model that rolls out in native code
    then sums them up on the way, and most of a plan's paths need not be written down.

    Attributes:
        target: [S + A] wanted state and command, float32.
        weight: [S + A] cost per squared unit away from them, float32.
        end: `terminal` is so many times the state's share of `stage`.
    """

    target: np.ndarray
    weight: np.ndarray
    end: float


def build(spec: RobotSpec) -> Cost:
    """The cost that a robot's YAML asks for.

    Raises:
        UserError: unknown kind or option.
    """
    cost: Cost = parts.find("costs", spec.cost.kind).build(spec, parts.options("costs", spec.cost.kind, dict(spec.cost.options)))
    return cost
