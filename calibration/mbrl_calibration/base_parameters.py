"""Base parameters: the fewest combinations of a tree's standard parameters that its efforts depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mbrl_calibration import kinematics
from mbrl_calibration.kinematics import Tree

DEPENDENT = 1e-7
"""Share of a column of the regressor that is left when it is a combination of others; what is not has a hundredth or more."""
ZERO = 1e-9
"""Coefficients of combinations below it are 0."""


@dataclass(frozen=True)
class BaseParameters:
    """base = regroup @ standard, and efforts = regressor[:, chosen] @ base.

    Attributes:
        standard: [N] names of the standard parameters.
        chosen: [P] index of the standard parameter that each base parameter is named after.
        regroup: [P, N] the combinations; the identity in the columns `chosen`, 0 in those of parameters without effect.
    """

    standard: tuple[str, ...]
    chosen: np.ndarray
    regroup: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """[P] of the base parameters."""
        return tuple(self.standard[i] for i in self.chosen)

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Standard parameters that no motion of the robot tells anything about."""
        return tuple(name for name, column in zip(self.standard, self.regroup.T, strict=True) if not column.any())

    def meaning(self, row: int) -> str:
        """A base parameter as a combination of standard ones, such as `link1.Iyy + 0.04 link2.m`."""
        place = int(self.chosen[row])
        rest = [i for i in np.flatnonzero(self.regroup[row]) if i != place]
        terms = [f"{'-' if self.regroup[row, i] < 0 else '+'} {abs(self.regroup[row, i]):.4g} {self.standard[i]}" for i in rest]
        return " ".join([self.standard[place], *terms]).replace(" 1 ", " ")


def sample(tree: Tree, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random positions (hinges anywhere, slides within 1 m), rates and accelerations, [n] each."""
    turns = np.array([math.pi if link.hinge else 1.0 for link in tree.links])
    return turns * rng.uniform(-1, 1, tree.count), 2.0 * rng.standard_normal(tree.count), 5.0 * rng.standard_normal(tree.count)


def find(tree: Tree, rng: np.random.Generator) -> BaseParameters:
    """The base parameters of a tree, by QR decomposition of its regressor over random motions.

    Columns are taken from the base outwards, inertias first, masses last, rotors after all links; one that is a combination of those
    before it is regrouped into them (Gautier, "Numerical calculation of the base inertial parameters of robots", ICRA 1990), so that
    outer masses join inner inertias, as in the closed forms for serial arms. Orthogonalised twice, so that no column is taken for
    independent by rounding.

    Args:
        tree: the links.
        rng: of the motions.
    """
    function, count = kinematics.regressor(tree), len(tree.names)
    samples = 10 + math.ceil(3 * count / tree.count)
    y = np.vstack([np.array(function(*sample(tree, rng))) for _ in range(samples)])
    size = np.linalg.norm(y, axis=0)
    directions, chosen = np.empty((len(y), 0)), []
    for column in np.flatnonzero(size > ZERO * size.max()):
        left = y[:, column] / size[column]
        for _ in range(2):
            left = left - directions @ (directions.T @ left)
        if np.linalg.norm(left) > DEPENDENT:
            directions = np.column_stack((directions, left / np.linalg.norm(left)))
            chosen.append(int(column))
    regroup = np.linalg.lstsq(y[:, chosen] / size[chosen], y, rcond=None)[0] / size[chosen, None]
    regroup[np.abs(regroup) < ZERO] = 0.0
    regroup[:, chosen] = np.eye(len(chosen))
    return BaseParameters(tree.names, np.array(chosen), regroup)
