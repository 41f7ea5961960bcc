"""Estimated parameters with their uncertainty: intervals, what is determined and what only in combination."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
VAGUE = 0.5
"""Half the interval as a share of the value, beyond which a parameter counts as not determined."""

TIED = 0.98
"""Correlation of two estimates beyond which only a combination of them is told."""


@dataclass(frozen=True)
class Estimate:
    """Values and their covariance.

    Attributes:
        names: [P] of the parameters.
        values: [P].
        covariance: [P, P]; rows of what was held are 0.
        held: indices of parameters that were not estimated.
    """

    names: tuple[str, ...]
    values: np.ndarray
    covariance: np.ndarray
    held: tuple[int, ...] = ()

    @property
    def std(self) -> np.ndarray:
        """[P] standard deviations."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    def interval(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """[P] lower and [P] upper ends of the central intervals of a normal distribution."""
        half = stats.norm.ppf(0.5 + 0.5 * level) * self.std
        return self.values - half, self.values + half

    def by_name(self) -> dict[str, float]:
        """Values by name."""
        return dict(zip(self.names, self.values.tolist(), strict=True))

    def vague(self) -> list[str]:
        """Names of parameters whose interval is wider than the value allows to call it determined."""
        low, high = self.interval()
        half = 0.5 * (high - low)
        return [n for i, n in enumerate(self.names) if i not in self.held and half[i] > VAGUE * abs(self.values[i])]

    def tied(self) -> list[tuple[str, str, float]]:
        """Pairs of parameters that the data hardly tells apart, with the correlation of their estimates."""
        std = np.where(self.std > 0, self.std, np.inf)
        correlation = self.covariance / np.outer(std, std)
        pairs = zip(*np.triu_indices(len(self.names), 1), strict=True)
        return [(self.names[i], self.names[j], float(correlation[i, j])) for i, j in pairs if abs(correlation[i, j]) > TIED]
