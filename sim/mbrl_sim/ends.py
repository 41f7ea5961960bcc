"""Where gymnasium's tasks end, as functions of the next observation: what an agent may know that imagines episodes."""

from __future__ import annotations

from collections.abc import Callable

import torch

End = Callable[[torch.Tensor], torch.Tensor]


def never(following: torch.Tensor) -> torch.Tensor:
    """[N] False: only time ends an episode."""
    return torch.zeros(len(following), dtype=torch.bool)


def inverted_pendulum(following: torch.Tensor) -> torch.Tensor:
    """[N] from [N, 4] (cart, angle, their rates): the pole leans more than 0.2 rad."""
    return ~following.isfinite().all(-1) | (following[:, 1].abs() > 0.2)


def inverted_double_pendulum(following: torch.Tensor) -> torch.Tensor:
    """[N] from [N, 9] (cart, sin and cos of both angles, …): the tip is at most 1 m high; both poles are 0.6 m long."""
    sin_1, sin_2, cos_1, cos_2 = following[:, 1:5].unbind(-1)
    return 0.6 * (cos_1 + cos_1 * cos_2 - sin_1 * sin_2) <= 1.0


def hopper(following: torch.Tensor) -> torch.Tensor:
    """[N] from [N, 11] (height, angle, …): below 0.7 m, leaning 0.2 rad, or any of the rest beyond 100."""
    height, angle = following[:, 0], following[:, 1]
    return ~((height > 0.7) & (angle.abs() < 0.2) & (following[:, 1:].abs() < 100).all(-1))


def walker(following: torch.Tensor) -> torch.Tensor:
    """[N] from [N, 17] (height, angle, …): not between 0.8 and 2 m high, or leaning 1 rad."""
    height, angle = following[:, 0], following[:, 1]
    return ~((height > 0.8) & (height < 2.0) & (angle.abs() < 1.0))


ENDS: dict[str, End] = {
    "InvertedPendulum-v4": inverted_pendulum, "InvertedPendulum-v5": inverted_pendulum,
    "InvertedDoublePendulum-v5": inverted_double_pendulum, "Hopper-v5": hopper, "Walker2d-v5": walker,
    "Pendulum-v1": never, "MountainCarContinuous-v0": lambda following: (following[:, 0] >= 0.45) & (following[:, 1] >= 0.0),
    "HalfCheetah-v5": never, "Swimmer-v5": never, "Reacher-v5": never, "Pusher-v5": never,
}
"""By gymnasium's name; what is not here ends where nobody has said."""
