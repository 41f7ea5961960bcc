"""Residuals with memory made white by autoregressive filters, so that least squares and its intervals hold for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

ORDER = 12
"""Samples that the filters look back."""

BLOCKS = 12
"""Stretches whose scores are compared for the robust variance."""


def difference(order: int = ORDER) -> np.ndarray:
    """[order] the filter of a random walk: each sample less the one before."""
    return np.asarray(np.eye(1, order)[0])


def whiten(columns: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """[T, ...] columns to [T - order, ...]: each sample less what those before it foretell.

    Args:
        columns: [T, ...] on a grid in time.
        memory: [order] weights of the samples before, the last one first.
    """
    order, count = len(memory), len(columns)
    out = columns[order:].astype(np.float64)
    for back, weight in enumerate(memory, start=1):
        out -= weight * columns[order - back:count - back]
    return out


def memory_of(residuals: Sequence[np.ndarray], order: int = ORDER) -> np.ndarray:
    """[order] the autoregressive filter that leaves least of the residuals, by least squares (unit roots are allowed).

    Args:
        residuals: [T] each, of stretches that share a filter.
        order: samples that it looks back.
    """
    windows = np.concatenate([sliding_window_view(r, order + 1) for r in residuals if len(r) > order])
    past, now = windows[:, order - 1::-1], windows[:, order]
    normal = past.T @ past
    return np.asarray(np.linalg.solve(normal + 1e-10 * (np.trace(normal) / order + 1e-300) * np.eye(order), past.T @ now))


def covariance(columns: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """[P, P] covariance of least squares, the greater of the usual one and of one that withstands memory left over.

    The second compares the scores of blocks of time (Liang & Zeger, Biometrika 73, 1986, equation 6: blocks as clusters); each variance
    is the greater of the two, correlations are those of the first. Variances are widened so that 1.96 standard deviations cover 95 %.

    Args:
        columns: [N, P] in order of time.
        residual: [N].
    """
    count, free = columns.shape
    scale = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    unit = columns / scale
    inverse = np.linalg.pinv(unit.T @ unit, rcond=1e-12, hermitian=True)
    plain = inverse * (residual @ residual) / max(count - free, 1)
    blocks = max(2, min(BLOCKS, count // (2 * ORDER)))
    scores = np.stack([part.sum(axis=0) for part in np.array_split(unit * residual[:, None], blocks)])
    robust = inverse @ (scores.T @ scores) @ inverse * blocks / (blocks - 1) * (stats.t.ppf(0.975, blocks - 1) / 1.96) ** 2
    widen = np.sqrt(np.maximum(1.0, np.diag(robust) / np.maximum(np.diag(plain), 1e-300)))
    return np.asarray(plain * np.outer(widen / scale, widen / scale))
