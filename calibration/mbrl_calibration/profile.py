"""The delay of one input, by how well a regression does for each delay (profile likelihood)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize

from mbrl_calibration.whitening import ORDER, covariance, difference, memory_of, whiten
from mbrl_control.errors import DataError

Integral = Callable[[np.ndarray], np.ndarray]
"""From times [M], s, to the integral of a signal up to each."""

LIKELY = 1.96**2
"""Greatest likelihood ratio within the 95 % interval: the quantile of chi-squared with one degree of freedom."""
ROUNDS = 4


def held(time: np.ndarray, values: np.ndarray) -> Integral:
    """The integral of values [T], each in force until the next."""
    total = np.concatenate([[0.0], np.cumsum(values[:-1] * np.diff(time))])

    def integral(at: np.ndarray) -> np.ndarray:
        cell = np.clip(np.searchsorted(time, at, side="right") - 1, 0, len(time) - 1)
        return np.asarray(total[cell] + values[cell] * (at - time[cell]))

    return integral


def joined(time: np.ndarray, values: np.ndarray) -> Integral:
    """The integral of values [T] that are joined by straight lines."""
    widths = np.diff(time)
    total = np.concatenate([[0.0], np.cumsum(0.5 * (values[:-1] + values[1:]) * widths)])
    slope = np.append(np.diff(values) / widths, 0.0)

    def integral(at: np.ndarray) -> np.ndarray:
        cell = np.clip(np.searchsorted(time, at, side="right") - 1, 0, len(time) - 1)
        since = at - time[cell]
        return np.asarray(total[cell] + values[cell] * since + 0.5 * slope[cell] * since**2)

    return integral


def summed(time: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """[T, K] integrals from the first time on of rates [T - 1, K], each the mean between two times."""
    steps = rates * np.diff(time)[:, None]
    return np.concatenate([np.zeros((1, rates.shape[1])), np.cumsum(steps, axis=0)])


def averaged(columns: np.ndarray, count: int) -> np.ndarray:
    """[T // count, ...] means of `count` samples each: less noise and fewer rows, and no shift where both sides are averaged alike."""
    whole = len(columns) // count * count
    return np.asarray(columns[:whole].reshape(-1, count, *columns.shape[1:]).mean(axis=1)) if count > 1 else columns


@dataclass(frozen=True)
class Piece:
    """A stretch of a log for a regression: target = start + known a + moved(delay) b + residual.

    Attributes:
        target: [T].
        known: [T, K] columns that do not depend on the delay.
        moved: from a delay, s, to [T, M] columns.
    """

    target: np.ndarray
    known: np.ndarray
    moved: Callable[[float], np.ndarray]


@dataclass(frozen=True)
class Profile:
    """What is known of a delay.

    Attributes:
        delay_s: the most likely one.
        low_s, high_s: ends of the 95 % interval; at an end of the search where the interval may go on.
        elsewhere: delays far from that interval are as likely.
        effect: likelihood ratio of there being an input at all.
        moved: M, columns that depend on the delay.
        coefficients: [K + M] of the known and the moved columns at the most likely delay.
        covariance: [K + M + 1, K + M + 1] of these and of the delay.
    """

    delay_s: float
    low_s: float
    high_s: float
    elsewhere: bool
    effect: float
    moved: int
    coefficients: np.ndarray
    covariance: np.ndarray


class _Whitened:
    """The regression with its memory taken out; what does not depend on the delay is worked out once."""

    def __init__(self, pieces: Sequence[Piece], memory: np.ndarray) -> None:
        self.pieces, self.memory = pieces, memory
        starts = np.eye(len(pieces))
        self.known = np.concatenate([whiten(np.column_stack([np.tile(s, (len(p.target), 1)), p.known]), memory)
                                     for s, p in zip(starts, pieces, strict=True)])
        self.target = np.concatenate([whiten(p.target, memory) for p in pieces])
        self.base = _basis(self.known)
        self.rest = self.target - self.base @ (self.base.T @ self.target)

    def moved(self, delay: float) -> np.ndarray:
        return np.concatenate([whiten(p.moved(delay), self.memory) for p in self.pieces])

    def loss(self, delay: float) -> float:
        """Sum of squares that is left at a delay, all coefficients at their best."""
        moved = self.moved(delay)
        own = _basis(moved - self.base @ (self.base.T @ moved))
        part = own.T @ self.rest
        return float(self.rest @ self.rest - part @ part)

    def solve(self, delay: float) -> np.ndarray:
        """[P + K + M] coefficients: starts of the pieces, known, moved."""
        columns = np.column_stack([self.known, self.moved(delay)])
        scale = np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
        return np.asarray(np.linalg.lstsq(columns / scale, self.target, rcond=1e-10)[0] / scale)

    def levels(self, delay: float) -> list[np.ndarray]:
        """Residuals of the pieces before whitening, the start of each apart."""
        at = self.solve(delay)[len(self.pieces):]
        return [_centred(p.target - np.column_stack([p.known, p.moved(delay)]) @ at) for p in self.pieces]


def _centred(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - values.mean())


def _basis(columns: np.ndarray) -> np.ndarray:
    """[N, rank] orthonormal basis of columns."""
    if not columns.shape[1]:
        return columns
    scale = np.linalg.norm(columns, axis=0)
    kept = columns[:, scale > 1e-12 * max(float(scale.max()), 1e-300)]
    if not kept.shape[1]:
        return kept
    q, r, _ = linalg.qr(kept / np.linalg.norm(kept, axis=0), mode="economic", pivoting=True)
    return np.asarray(q[:, np.abs(np.diag(r)) > 1e-9])


def profile(pieces: Sequence[Piece], grid: np.ndarray, order: int = ORDER) -> Profile:
    """Find a delay and its 95 % interval.

    The residual is white after an autoregressive filter, which is fitted to it in turns with the delay (Cochrane & Orcutt, JASA 44,
    1949); the interval holds the delays whose likelihood ratio is below the 95 % quantile of chi-squared, widened where blocks of the
    log disagree more than white residuals would.

    Args:
        pieces: stretches that share all coefficients but their starts.
        grid: [D] delays to begin with, s, increasing, finer than the input changes.
        order: samples that the filter looks back.

    Raises:
        DataError: too few samples for so many columns.
    """
    rows = sum(len(p.target) - order for p in pieces)
    columns = pieces[0].known.shape[1] + pieces[0].moved(float(grid[0])).shape[1] + len(pieces) if pieces else 0
    if rows < 2 * columns + order:
        raise DataError(f"{rows} samples are too few for a regression on {columns} columns; record longer")
    memory, best = difference(order), float("nan")
    for _ in range(ROUNDS):
        fit = _Whitened(pieces, memory)
        losses = np.array([fit.loss(float(d)) for d in grid])
        before, best = best, _refined(fit, grid, int(np.argmin(losses)))
        if abs(best - before) < 0.02 * float(grid[1] - grid[0]):
            break
        memory = memory_of(fit.levels(best), order)
    return _described(fit, best, grid, losses, rows - columns)


def _refined(fit: _Whitened, grid: np.ndarray, at: int) -> float:
    ends = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    return float(optimize.minimize_scalar(fit.loss, bounds=ends, method="bounded", options={"xatol": 1e-3 * (ends[1] - ends[0])}).x)


def _described(fit: _Whitened, best: float, grid: np.ndarray, losses: np.ndarray, free: int) -> Profile:
    least, nudge = fit.loss(best), 0.25 * float(grid[1] - grid[0])
    solved = fit.solve(best)
    known, count = fit.known.shape[1], len(fit.pieces)
    moved = fit.moved(best)
    slope = (fit.moved(best + nudge) - fit.moved(best - nudge)) @ solved[known:] / (2 * nudge)
    jacobian = np.column_stack([fit.known, moved, slope])
    residual = fit.target - jacobian[:, :-1] @ solved
    spread = covariance(jacobian, residual)
    across = slope - _project(np.column_stack([fit.known, moved]), slope)
    plain = float(residual @ residual) / max(free, 1) / max(float(across @ across), 1e-300)
    widen = max(1.0, float(spread[-1, -1]) / plain)

    def ratio(delay: float) -> float:
        return float(free * np.log(max(fit.loss(delay), 1e-300) / max(least, 1e-300)) / widen)

    low, high = (_end(ratio, best, stop, nudge) for stop in (float(grid[0]), float(grid[-1])))
    ratios = free * np.log(np.maximum(losses, 1e-300) / max(least, 1e-300)) / widen
    step = 2 * float(grid[1] - grid[0])
    far = (grid < low - step) | (grid > high + step)
    effect = free * float(np.log(max(float(fit.rest @ fit.rest), 1e-300) / max(least, 1e-300))) / widen
    return Profile(best, low, high, bool((ratios[far] < LIKELY).any()), effect, moved.shape[1], solved[count:], spread[count:, count:])


def _project(columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    base = _basis(columns)
    return np.asarray(base @ (base.T @ values))


def _end(ratio: Callable[[float], float], best: float, stop: float, step: float) -> float:
    """Where the likelihood ratio first passes the limit on the way from the best delay to the end of the search."""
    sign, inside = (1.0 if stop > best else -1.0), best
    while sign * (stop - inside) > 0:
        outside = inside + sign * min(step, abs(stop - inside))
        if ratio(outside) > LIKELY:
            return float(optimize.brentq(lambda d: ratio(d) - LIKELY, inside, outside, xtol=1e-3 * step))
        inside, step = outside, 1.5 * step
    return stop
