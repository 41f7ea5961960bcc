"""How a model's next state moves with state and command: in a model's own native code, by autograd, or by finite differences."""

from __future__ import annotations

import torch

from mbrl_control.errors import UserError
from mbrl_control.models.base import Model
from mbrl_control.robot import RobotSpec

DIFFERENCE = 1e-3


def differentiable(model: Model, spec: RobotSpec) -> bool:
    """Whether autograd passes through a model; taken for granted of one that has not been fitted yet."""
    action = torch.zeros(1, spec.action_dim, requires_grad=True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return model.step(torch.zeros(model.members, 1, spec.state_dim), action).state.requires_grad
    except UserError:
        return True
    except RuntimeError:
        return False


def found(model: Model, states: torch.Tensor, actions: torch.Tensor, size: torch.Tensor, smooth: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Jacobians of each member's step, by the fastest way that a model knows.

    Args:
        model: any; its own `slopes(states, actions)` is asked first, if it has that, and may give None.
        states: [E or 1, N, S] where; one set for all members, or row n of member e is that member's.
        actions: [N, A] commands, physical units.
        size: [A] typical size of a command, physical units.
        smooth: whether the model is `differentiable`.

    Returns:
        [E, N, S, S] by the state and [E, N, S, A] by the command; the row index is the next state's.
    """
    own = getattr(model, "slopes", None)
    made: tuple[torch.Tensor, torch.Tensor] | None = own(states, actions) if own is not None else None
    if made is not None:
        return made
    states = states.expand(model.members, -1, -1)
    return by_autograd(model, states, actions) if smooth else by_differences(model, states, actions, size)


def by_autograd(model: Model, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Jacobians of each member's step, in one backward pass.

    Args:
        model: differentiable.
        states: [E, N, S] where; row n of member e is that member's.
        actions: [N, A] commands, physical units.

    Returns:
        As `found`.
    """
    members, count, signals = states.shape
    # Every row once for each signal of the next state, so that one sum has all their gradients.
    with torch.inference_mode(False), torch.enable_grad():
        x = states.clone().repeat(1, signals, 1).requires_grad_(True)
        a = actions.clone().repeat(members, signals, 1).requires_grad_(True)
        following = model.step(x, a).state.reshape(members, signals, count, signals)
        gradients = torch.autograd.grad(following.diagonal(dim1=1, dim2=3).sum(), (x, a))
    by_state, by_action = (g.reshape(members, signals, count, -1).transpose(1, 2) for g in gradients)
    return by_state, by_action


def by_differences(model: Model, states: torch.Tensor, actions: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by central differences, in double precision where the model has it; any model.

    Args:
        model: any.
        states: [E, N, S].
        actions: [N, A].
        size: [A] typical size of a command, physical units.
    """
    members, count, signals = states.shape
    wide = torch.cat([torch.full((signals,), DIFFERENCE), DIFFERENCE * size]).double()
    moved = torch.cat([wide.diag(), -wide.diag()])[:, None, None]
    points = torch.cat([states, actions.expand(members, -1, -1)], -1).double() + moved
    rows = points.transpose(0, 1).reshape(members, -1, points.shape[-1])
    following = model.step(rows[..., :signals], rows[..., signals:]).state.reshape(members, 2, len(wide), count, signals)
    slope = (following[:, 0] - following[:, 1]).permute(0, 2, 3, 1) / (2 * wide)
    return slope[..., :signals].float(), slope[..., signals:].float()
