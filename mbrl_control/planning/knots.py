"""Splines over the horizon as one matrix: actions = matrix @ knots."""

from __future__ import annotations

from typing import Literal

import numpy as np


def spline_matrix(horizon: int, knots: int | None, kind: Literal["hold", "linear", "cubic"]) -> np.ndarray:
    """[H, K] weights that turn knot values into actions; the identity without knots.

    Args:
        horizon: H actions at the centres of their cells.
        knots: K knots spread evenly from the first action to the last; None for one per action.
        kind: `hold` (nearest knot before), `linear`, or `cubic` (Catmull-Rom: passes through the knots, local).
    """
    if knots is None or knots >= horizon:
        return np.eye(horizon)
    at = np.arange(horizon) * (knots - 1) / max(horizon - 1, 1)
    left = np.minimum(at.astype(int), knots - 2)
    part = at - left
    matrix = np.zeros((horizon, knots))
    rows = np.arange(horizon)
    if kind == "hold":
        matrix[rows, np.minimum((np.arange(horizon) * knots) // horizon, knots - 1)] = 1.0
    elif kind == "linear":
        matrix[rows, left] = 1 - part
        matrix[rows, left + 1] += part
    else:
        t, t2, t3 = part, part**2, part**3
        for offset, weight in ((-1, (-t + 2 * t2 - t3) / 2), (0, (2 - 5 * t2 + 3 * t3) / 2),
                               (1, (t + 4 * t2 - 3 * t3) / 2), (2, (t3 - t2) / 2)):
            at_knot = left + offset
            beyond = (at_knot < 0) | (at_knot > knots - 1)
            edge = np.clip(at_knot, 0, knots - 1)
            # A knot beyond the ends lies on the line through the last two, so that straight lines stay straight.
            np.add.at(matrix, (rows, edge), np.where(beyond, 2.0, 1.0) * weight)
            np.add.at(matrix, (rows, np.clip(edge + np.where(at_knot < 0, 1, -1), 0, knots - 1)), np.where(beyond, -weight, 0.0))
    return matrix
