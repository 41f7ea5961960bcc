"""Standard parameters of bodies that can be built, closest to known ones, that have given base parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mbrl_calibration.base_parameters import BaseParameters
from mbrl_control.errors import UserError

Array = np.ndarray
ROUNDS = 200
WEIGHTS = (1e2, 1e4, 1e6, *[1e7] * 12)
"""Of squared misfits, as shares, in the method of multipliers."""
EXACT, MET = 1e-12, 1e-8
SHORTEST = 1e-10
RIDGE = 1e-13
FLOOR = 1e-4
"""A body of the file may be a point or a thin rod; its second moments count as at least so much of the largest, or they had no inverse."""


def pseudo_inertia(standard: Array) -> Array:
    """[..., 4, 4] of [..., 10] standard parameters: positive definite for what can be built, and for nothing else.

    Wensing, Kim and Slotine, "Linear matrix inequalities for physically consistent inertial parameter identification", IEEE Robotics
    and Automation Letters 2018, section III: second moments trace(I) / 2 - I, first moments, mass.
    """
    xx, xy, xz, yy, yz, zz, hx, hy, hz, m = np.moveaxis(np.asarray(standard, dtype=float), -1, 0)
    rows = [[(yy + zz - xx) / 2, -xy, -xz, hx], [-xy, (xx + zz - yy) / 2, -yz, hy], [-xz, -yz, (xx + yy - zz) / 2, hz], [hx, hy, hz, m]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


BASIS: Array = pseudo_inertia(np.eye(10))


def buildable(standard: Array) -> bool:
    """Whether [10] standard parameters are those of some distribution of positive mass."""
    return bool(np.linalg.eigvalsh(pseudo_inertia(standard)).min() > 0)


def _rounded(standard: Array) -> Array:
    """[10] the same body with no direction in which it is infinitely thin."""
    mass, centre = standard[9], standard[6:9] / standard[9]
    second = pseudo_inertia(standard)[:3, :3] - mass * np.outer(centre, centre)
    values, vectors = np.linalg.eigh(second)
    values = np.maximum(values, FLOOR * max(values.max(), 1e-6 * mass))
    second = (vectors * values) @ vectors.T + mass * np.outer(centre, centre)
    inertia = np.trace(second) * np.eye(3) - second
    return np.array([*inertia[np.triu_indices(3)], *standard[6:]])


@dataclass(frozen=True)
class _Divergence:
    """trace(J0^-1 J) - log det J summed over the bodies, and r / r0 - log r over the rotors: 0 slope at the known parameters.

    The log-det divergence of Lee, Wensing and Park, "Geometric robot dynamic identification: a convex programming approach", IEEE
    Transactions on Robotics 2020, section IV: convex, free of units and of the choice of frames, infinite at what cannot be built.
    """

    inverse: Array  # [L, 4, 4] of the known pseudo-inertias
    rotors: Array  # [R] known

    @property
    def cut(self) -> int:
        return 10 * len(self.inverse)

    def value(self, x: Array) -> float:
        """Of [10 L + R] parameters; inf where they cannot be built."""
        rotors = x[self.cut:]
        try:
            factors = np.linalg.cholesky(pseudo_inertia(x[:self.cut].reshape(-1, 10)))
        except np.linalg.LinAlgError:
            return np.inf
        if (rotors <= 0).any():
            return np.inf
        size = np.einsum("lij,lji->", self.inverse, pseudo_inertia(x[:self.cut].reshape(-1, 10)))
        return float(size - 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum() + (rotors / self.rotors - np.log(rotors)).sum())

    def slopes(self, x: Array) -> tuple[Array, Array]:
        """Gradient and Hessian."""
        now = np.linalg.inv(pseudo_inertia(x[:self.cut].reshape(-1, 10)))
        rotors, size = x[self.cut:], len(x)
        gradient, hessian = np.zeros(size), np.zeros((size, size))
        gradient[:self.cut] = np.einsum("lij,kji->lk", self.inverse - now, BASIS).ravel()
        gradient[self.cut:] = 1 / self.rotors - 1 / rotors
        for k, j in enumerate(now):
            turned = j @ BASIS
            hessian[10 * k:10 * k + 10, 10 * k:10 * k + 10] = np.einsum("aij,bji->ab", turned, turned)
        hessian[range(self.cut, size), range(self.cut, size)] = rotors**-2
        return gradient, hessian


def consistent(known: Array, bodies: int, base: BaseParameters, values: Array, information: Array | None = None) -> Array:
    """Standard parameters of bodies that can be built: those closest to known ones that have given base parameters.

    A convex problem. Its linear constraints are met by the method of multipliers (Boyd et al., "Distributed optimization and statistical
    learning via the alternating direction method of multipliers", section 2.3), each of its steps by Newton's method. A rotor that is a
    base parameter of its own is taken as it is; one that is 0 in the file and cannot be told from other parts stays 0.

    Args:
        known: [N] standard parameters, ten for each body and then rotors.
        bodies: L.
        base: the combinations.
        values: [P] base parameters.
        information: [P, P] inverse covariance of the values: then they need not be met, but the sum of half their squared misfit and
            of the divergence is least. That always has an answer, also where noise made the values impossible.

    Returns:
        [N] standard parameters.

    Raises:
        UserError: nothing that can be built has these base parameters.
    """
    cut, rows = 10 * bodies, np.arange(len(values))
    own = [r for r in rows if base.chosen[r] >= cut
           and all(i == base.chosen[r] or known[i] <= 0 for i in np.flatnonzero(base.regroup[r]))]
    for r in own:
        if values[r] < -EXACT:
            raise UserError(f"{base.names[r]} = {values[r]:g} is no rotor inertia, which is at least 0; fit it with that bound, or hold it "
                            "(`nominal.known`)")
    x = known.copy()
    x[:cut] = np.concatenate([_rounded(body) for body in known[:cut].reshape(-1, 10)])
    x[cut:] = np.maximum(known[cut:], 0.0)
    fixed = np.concatenate((np.zeros(cut, bool), known[cut:] <= 0))
    fixed[base.chosen[own]], x[base.chosen[own]] = True, np.maximum(values[own], 0.0)
    free, others = np.flatnonzero(~fixed), np.setdiff1d(rows, own)
    divergence = _Divergence(np.linalg.inv(pseudo_inertia(x[:cut].reshape(-1, 10))), x[free[free >= cut]])
    a = base.regroup[np.ix_(others, free)]
    wanted = values[others] - base.regroup[np.ix_(others, np.flatnonzero(fixed))] @ x[fixed]
    if information is None:
        x[free] = _met(divergence, x[free], a, wanted, [base.names[r] for r in others])
    else:
        x[free] = _near(divergence, x[free], a, wanted, information[np.ix_(others, others)])
    return x


def _met(divergence: _Divergence, x: Array, a: Array, wanted: Array, names: list[str]) -> Array:
    """The least divergence with a x = wanted."""
    size = np.maximum(np.abs(a) @ np.abs(x), 1e-9)
    a, goal = a / size[:, None], wanted / size
    prices, short = np.zeros(len(goal)), a @ x - goal
    for weight in WEIGHTS:
        x = _near(divergence, x, a, goal - prices / weight, weight * np.eye(len(goal)))
        short = a @ x - goal
        prices = prices + weight * short
        if np.abs(short).max(initial=0.0) < EXACT:
            return x
    worst = int(np.argmax(np.abs(short)))
    if np.abs(short[worst]) < MET:
        return x
    raise UserError(f"no bodies of positive mass have these base parameters: {names[worst]} = {wanted[worst]:.4g} cannot be had with the "
                    f"others (nearest found: {wanted[worst] + short[worst] * size[worst]:.4g}); excite it more, or give `information`, "
                    "so that they are met only as far as they are certain")


def _near(divergence: _Divergence, x: Array, a: Array, wanted: Array, weight: Array) -> Array:
    """The least divergence plus half the weighted squared misfit of a x (Newton's method with backtracking)."""

    def cost(x: Array) -> float:
        gap = a @ x - wanted
        return divergence.value(x) + 0.5 * float(gap @ weight @ gap)

    now = cost(x)
    for _ in range(ROUNDS):
        gradient, hessian = divergence.slopes(x)
        gradient = gradient + a.T @ weight @ (a @ x - wanted)
        hessian = hessian + a.T @ weight @ a
        # Parameters differ by orders of magnitude; in steps of their own curvature they do not.
        scale = 1 / np.sqrt(np.diag(hessian))
        move = -scale * np.linalg.solve(hessian * np.outer(scale, scale) + RIDGE * np.eye(len(x)), scale * gradient)
        slope, step = float(gradient @ move), 1.0
        while (then := cost(x + step * move)) > now + 0.1 * step * slope and step > SHORTEST:
            step *= 0.5
        if -slope < EXACT or step <= SHORTEST:  # the rest is rounding
            break
        x, now = x + step * move, then
    return x
