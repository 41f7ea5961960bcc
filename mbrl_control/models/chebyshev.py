"""Explicit integration that stays stable where friction makes rates decay fast: Runge-Kutta-Chebyshev steps of order 2.

Dry friction about zero rate decays within a millisecond or two; the classical Runge-Kutta step then needs many substeps, or rings, and
gradients through it explode. With s stages these steps are stable up to a decay rate of about 2 / 3 (s^2 - 1) / h: four stages reach 3.5
times as far as the four of the classical step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.polynomial.chebyshev import Chebyshev

DAMPING = 2 / 13


@dataclass(frozen=True)
class Scheme:
    """Coefficients of a step (Sommeijer, Shampine & Verwer 1998, "RKC: an explicit solver for parabolic PDEs", section 2).

    Attributes:
        first: mu~_1.
        later: (mu_j, nu_j, mu~_j, gamma~_j) of the stages from the second on.
    """

    first: float
    later: tuple[tuple[float, float, float, float], ...]


def scheme(stages: int) -> Scheme:
    """The coefficients for a number of stages, at least 2."""
    w0 = 1 + DAMPING / stages**2
    basis = [Chebyshev.basis(j) for j in range(stages + 1)]
    value, slope, bend = ([float(f(w0)) for f in made] for made in (basis, [f.deriv(1) for f in basis], [f.deriv(2) for f in basis]))
    w1 = slope[stages] / bend[stages]
    b = [0.0, 0.0, *(bend[j] / slope[j] ** 2 for j in range(2, stages + 1))]
    b[0] = b[1] = b[2]
    a = [1 - b[j] * value[j] for j in range(stages + 1)]
    later = [(2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * w1 / b[j - 1], -a[j - 1] * 2 * b[j] * w1 / b[j - 1])
             for j in range(2, stages + 1)]
    return Scheme(b[1] * w1, tuple(later))


def step(rate: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, h: float, scheme: Scheme) -> torch.Tensor:
    """The state after `h` seconds, of the shape of `start`.

    Args:
        rate: time derivative of a state.
        start: state.
        h: s.
        scheme: coefficients.
    """
    # Stages are kept as what they add to the start, so that a large position costs no digits.
    first = h * rate(start)
    before, moved = torch.zeros_like(start), scheme.first * first
    for mu, nu, weight, again in scheme.later:
        before, moved = moved, mu * moved + nu * before + (weight * h) * rate(start + moved) + again * first
    return start + moved
