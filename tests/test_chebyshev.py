"""Runge-Kutta-Chebyshev steps against what defines them: order two, and a stability interval that grows with the square of the stages."""

from __future__ import annotations

import math

import pytest
import torch

from mbrl_control.models import chebyshev


def polynomial(stages: int, z: torch.Tensor) -> torch.Tensor:
    """What a step makes of 1 under y' = z y."""
    return chebyshev.step(lambda y: z * y, torch.ones_like(z), 1.0, chebyshev.scheme(stages))


@pytest.mark.parametrize("stages", [2, 3, 4, 8])
def test_stable_to_the_published_bound_and_not_much_beyond(stages):
    """beta = 2 / 3 (s^2 - 1) (1 - 2 / 15 epsilon), Sommeijer, Shampine & Verwer 1998, equation 2.7."""
    bound = 2 / 3 * (stages**2 - 1) * (1 - 2 / 15 * chebyshev.DAMPING)
    inside = polynomial(stages, torch.linspace(-bound, 0, 2001, dtype=torch.float64))
    assert inside.abs().max() <= 1 + 1e-12
    # The published formula rounds a little down: for two and three stages, where it is least exact, by a fifth at most.
    assert polynomial(stages, torch.tensor([-1.25 * bound], dtype=torch.float64)).abs() > 1


@pytest.mark.parametrize("stages", [2, 4, 6])
def test_order_two(stages):
    """A pendulum that swings: half the step, a quarter of the error."""
    def rate(y: torch.Tensor) -> torch.Tensor:
        return torch.stack([y[1], -y[0].sin()])

    def after(steps: int) -> torch.Tensor:
        y = torch.tensor([1.0, 0.5], dtype=torch.float64)
        for _ in range(steps):
            y = chebyshev.step(rate, y, 1 / steps, chebyshev.scheme(stages))
        return y

    exact = after(2000)
    errors = [float((after(n) - exact).norm()) for n in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_a_large_position_costs_no_digits():
    """A metre a second from 400 km away: float32 cannot do better than round the sum."""
    moved = chebyshev.step(torch.ones_like, torch.tensor([4e5]), 0.1, chebyshev.scheme(4))
    assert float(moved) == pytest.approx(4e5 + 0.1, abs=2**-6)
    assert math.isclose(float(chebyshev.step(torch.ones_like, torch.zeros(1), 0.1, chebyshev.scheme(4))), 0.1, rel_tol=1e-6)
