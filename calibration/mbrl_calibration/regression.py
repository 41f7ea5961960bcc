"""Inverse dynamics by least squares: lumped parameters from efforts, rates and accelerations, within what can be built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from scipy.optimize import lsq_linear

from mbrl_calibration.estimate import Estimate
from mbrl_calibration.mechanism import Mechanism, regressor
from mbrl_calibration.runs import Run
from mbrl_calibration.signals import derivative, even, low_pass
from mbrl_control.errors import DataError

CUTOFF_HZ = 10.0
EDGE_S = 0.6
BLOCK_S = 0.5
"""Residuals further apart count as independent."""

SMALL = 1e-9
CLEARLY = 0.99
"""A start is given up for one that leaves less than so much of what it leaves: just above the greatest command, any saturation fits."""


@dataclass(frozen=True)
class Rows:
    """Equations of one run: matrix @ p = target, for each sample and coordinate.

    Attributes:
        name: of the run.
        matrix: [T, n, P].
        target: [T, n] efforts, N or N m.
        period: between samples, s.
    """

    name: str
    matrix: np.ndarray
    target: np.ndarray
    period: float


@dataclass(frozen=True)
class Motion:
    """What a run did, low-passed without phase, its ends cut off.

    Attributes:
        q: [T, n] positions.
        v: [T, n] rates.
        a: [T, n] accelerations, by central differences of the rates.
        u: [T, A] what drove it: commands, or what sensors say that they came to.
        shown: [T, A] what sensors say that commands came to; the commands where there are none.
    """

    q: np.ndarray
    v: np.ndarray
    a: np.ndarray
    u: np.ndarray
    shown: np.ndarray


def motion(run: Run, m: Mechanism, delays: np.ndarray, measured: bool, cutoff_hz: float = CUTOFF_HZ, edge_s: float = EDGE_S) -> Motion:
    """What a run did; arguments as of `rows`.

    Raises:
        DataError: nothing is left of the run.
    """
    period = run.period
    grid = even(run, period, delays)
    told = np.where(np.isnan(grid.measured), grid.command, grid.measured)
    q, v, sent, shown = (low_pass(x, period, cutoff_hz) for x in (grid.state[:, m.positions], grid.state[:, m.rates], grid.command, told))
    keep = slice(round(edge_s / period), len(q) - round(edge_s / period))
    if len(q[keep]) < 10:
        raise DataError(f"{run.name}: {run.duration:.3g} s leave nothing when {edge_s:g} s are cut off at both ends; record longer")
    return Motion(q[keep], v[keep], derivative(v, period)[keep], (shown if measured else sent)[keep], shown[keep])


def rows(run: Run, m: Mechanism, delays: np.ndarray, measured: bool, cutoff_hz: float = CUTOFF_HZ, edge_s: float = EDGE_S,
         at: np.ndarray | None = None) -> Rows:
    """The equations of a run; see `Motion`.

    Args:
        run: the data.
        m: the mechanism.
        delays: [A] time from command to effect, s; not applied to what sensors measured.
        measured: drive with sensors' efforts where there are any.
        cutoff_hz: of the low-pass.
        edge_s: cut at both ends, s.
        at: [P] values for parameters in which efforts are not linear; by default where the search begins.

    Raises:
        DataError: nothing is left of the run.
    """
    did = motion(run, m, delays, measured, cutoff_hz, edge_s)
    count = len(did.q)
    matrix, target = regressor(m, did.u.shape[1], at).map(count)(did.q.T, did.v.T, did.a.T, did.u.T)
    shaped = np.asarray(matrix).reshape(m.count, count, len(m.parameters)).transpose(1, 0, 2)
    return Rows(run.name, shaped, np.asarray(target).T, run.period)


def solve(data: Sequence[Rows], m: Mechanism, known: Sequence[str] = ()) -> Estimate:
    """Least squares over all runs within bounds and feasibility.

    The covariance is the sandwich of blocks of `BLOCK_S`, so that what the model leaves over in a block counts once (Newey, West 1987
    do the same with lags).

    Args:
        data: equations of each run.
        m: the mechanism.
        known: names of parameters that stay at their start, beside those in which efforts are not linear.
    """
    free = np.array([name not in known and name not in m.nonlinear for name in m.names])
    hold = np.where(free, 0.0, m.start)
    flat = [(r.matrix.reshape(-1, len(free)), (r.target - r.matrix @ hold).reshape(-1)) for r in data]
    matrix, target = (np.concatenate(part) for part in zip(*flat, strict=True))
    matrix = matrix[:, free]
    scale = np.maximum(np.sqrt((matrix**2).mean(0)), SMALL)
    low, high = (bound[free] * scale for bound in m.bounds)
    found = lsq_linear(matrix / scale, target, (low, high), lsq_solver="exact").x / scale
    values = m.start.copy()
    values[free] = found
    if any(float(c) < 0 for c in m.feasible(m.named(values))):
        values = _feasible(matrix, target, m, free, values)
    return Estimate(m.names, values, sandwich(data, values, free), tuple(np.flatnonzero(~free).tolist()))


def begin(runs: Sequence[Run], m: Mechanism, delays: np.ndarray, measured: bool,
          known: Sequence[str] = ()) -> tuple[Mechanism, tuple[str, ...]]:
    """Better starts for parameters in which efforts are not linear: of what each may be tried with, one after the other, the value with
    which least squares of the others leave least, if that is clearly less.

    Args:
        runs, m, delays, measured: see `rows`.
        known: names of parameters that stay at their start.

    Returns:
        The mechanism with these starts, and the names of parameters that leave no trace in the runs.
    """
    unseen = []
    for p in m.parameters:
        if p.linear or p.name in known or not p.tries:
            continue
        values = list(dict.fromkeys((p.start, *p.tries, *([] if p.unseen is None else [p.unseen]))))
        tried = [m.starting({p.name: value}) for value in values]
        left = []
        for one in tried:
            data = [rows(run, one, delays, measured) for run in runs]
            left.append(rmse(data, solve(data, one, known).values))
        if p.unseen is not None and not min(left) < CLEARLY * left[values.index(p.unseen)]:
            unseen.append(p.name)
        elif min(left) < CLEARLY * left[0]:
            m = tried[int(np.argmin(left))]
    return m, tuple(unseen)


def _feasible(matrix: np.ndarray, target: np.ndarray, m: Mechanism, free: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The same least squares with the constraints of what can be built."""
    z = ca.SX.sym("z", int(free.sum()))
    p: Any = ca.SX(start)
    p[np.flatnonzero(free).tolist()] = z
    hessian, slope = matrix.T @ matrix, matrix.T @ target
    scale = float(target @ target) or 1.0
    cost = (0.5 * ca.bilin(ca.DM(hessian), z, z) - ca.dot(ca.DM(slope), z)) / scale
    solver = ca.nlpsol("fit", "ipopt", {"x": z, "f": cost, "g": ca.vertcat(*m.feasible(m.named(p)))},
                       {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes"})
    low, high = (bound[free] for bound in m.bounds)
    values = start.copy()
    values[free] = np.asarray(solver(x0=start[free], lbx=low, ubx=high, lbg=0.0)["x"]).ravel()
    return values


def sandwich(data: Sequence[Rows], values: np.ndarray, free: np.ndarray) -> np.ndarray:
    """[P, P] covariance; 0 for what is held."""
    bread = np.zeros((int(free.sum()),) * 2)
    meat, blocks = np.zeros_like(bread), 0
    for r in data:
        size = max(1, round(BLOCK_S / r.period))
        left = r.target - r.matrix @ values
        for begin in range(0, len(left), size):
            part, error = r.matrix[begin:begin + size][..., free], left[begin:begin + size]
            slope = np.einsum("tnp,tn->p", part, error)
            meat += np.outer(slope, slope)
            bread += np.einsum("tnp,tnq->pq", part, part)
            blocks += 1
    inverse = np.linalg.pinv(bread, hermitian=True)
    out = np.zeros((len(free),) * 2)
    out[np.ix_(free, free)] = blocks / max(1, blocks - int(free.sum())) * inverse @ meat @ inverse
    return out


def rmse(data: Sequence[Rows], values: np.ndarray) -> float:
    """Root mean square of what efforts the parameters do not explain, all runs and coordinates pooled, N or N m."""
    return float(np.sqrt(np.mean(np.concatenate([(r.target - r.matrix @ values).ravel() for r in data]) ** 2)))
