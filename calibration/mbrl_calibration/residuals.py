"""Whether a model leaves nothing over that could have been predicted: the correlation of residuals along time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Whiteness:
    """Of one signal's residuals.

    Attributes:
        correlation: [L] at lags 1 to L.
        time_s: integrated correlation time: residuals this far apart count as independent; one step for white noise.
        p_value: of the hypothesis that they are white (Ljung, Box 1978).
    """

    correlation: np.ndarray
    time_s: float
    p_value: float

    @property
    def white(self) -> bool:
        """Whether the hypothesis holds at 1 %."""
        return self.p_value > 0.01


def whiteness(residuals: np.ndarray, period: float, lags: int = 20) -> Whiteness:
    """Autocorrelation of residuals.

    Args:
        residuals: [G, T] of G segments.
        period: between samples, s.
        lags: L, at most half of T.
    """
    count, length = residuals.shape
    most = max(1, min(lags, length // 2))
    centred = residuals - residuals.mean()
    power = float((centred**2).mean())
    if power == 0.0:
        return Whiteness(np.zeros(most), period, 1.0)
    lagged = [float((centred[:, k:] * centred[:, :-k]).sum()) / (count * length * power) for k in range(1, most + 1)]
    correlation = np.array(lagged)
    total = count * length
    statistic = total * (total + 2) * float((correlation**2 / (total - np.arange(1, most + 1))).sum())
    negative = np.flatnonzero(correlation <= 0)
    until = int(negative[0]) if len(negative) else most
    return Whiteness(correlation, period * (1 + 2 * float(correlation[:until].sum())), float(stats.chi2.sf(statistic, most)))
