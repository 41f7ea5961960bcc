"""Prediction-error identification by multiple shooting: parameters (and delays) with which free runs follow the measured ones.

Each segment of data is a free run from a start of its own (Bock 1981). Longer segments can be cut further into nodes where the run must
go on from where it was; with dry friction that hinders the search more than it helps, so by default a segment is one node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from mbrl_calibration.estimate import Estimate
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.problem import Problem, information
from mbrl_calibration.residuals import whiteness
from mbrl_calibration.search import Search
from mbrl_calibration.segments import Segments, Settings

MOST_STEPS = 20.0
"""So many steps a delay may be away from where the search begins."""

MOST_SPREADS = 10.0
"""So many of its standard deviations a zero may be away from where it is thought to be: a search that goes astray is not to turn rounds."""

ENOUGH = 4
"""Segments per parameter from which on their scatter says how sure the parameters are."""

LEAST, RIDGE = 1e-9, 1e-10


@dataclass(frozen=True)
class Shot:
    """What a fit came to.

    Attributes:
        estimate: parameters and, where asked for, delays named `delay:<axis>` (as corrections to those given, s).
        residuals: [G, K * L, 2 n] measured minus fitted.
        zeros: [R, n] what must be added to the positions of each run; 0 where that was not asked for.
        success: whether the solver converged.
        iterations: that it took in the last round.
    """

    estimate: Estimate
    residuals: np.ndarray
    zeros: np.ndarray
    success: bool
    iterations: int


def fit(data: Segments, m: Mechanism, start: np.ndarray, s: Settings) -> Shot:
    """Maximum likelihood with Gaussian measurement noise of unknown spread, by IPOPT.

    Args:
        data: see `segments.cut`.
        m: the mechanism.
        start: [P] where the search begins; parameters of 0 are scaled by the greatest.
        s: settings.
    """
    problem = Problem(data, m, start, s)
    search, found = Search(problem, s.iterations), problem.begin
    low, high = _bounds(problem, m)
    spread = np.maximum(np.std(np.diff(data.state, axis=1), axis=(0, 1)), LEAST)
    left = np.empty(0)
    for _ in range(s.rounds):
        s.progress()
        found = search.run(found, spread, low, high)
        left = problem.left(problem.point(found))
        spread = np.maximum(np.sqrt((left**2).mean((0, 1))), LEAST)
    at, inside = problem.point(found), len(problem.free) + len(problem.late)
    places = np.concatenate([problem.free, len(start) + np.arange(len(problem.late))])
    covariance = np.zeros((len(start) + len(problem.late),) * 2)
    unit, scaled = problem.unit[:inside], _covariance(problem, found, spread, s.nodes, _curved(m, problem))
    covariance[np.ix_(places, places)] = unit[:, None] * scaled[:inside, :inside] * unit
    names = m.names + tuple(f"delay:{axis}" for axis in problem.late)
    values = np.concatenate([at.parameters, at.delays[problem.late]])
    zeros = at.zeros if at.zeros.size else np.zeros((int(data.run.max()) + 1, m.count))
    success, iterations = search.status
    residuals = -left.reshape(len(data.state), -1, problem.size)
    held = tuple(np.setdiff1d(np.arange(len(start)), problem.free).tolist())
    return Shot(Estimate(names, values, covariance, held), residuals, zeros, success, iterations)


def _bounds(problem: Problem, m: Mechanism) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest values of all unknowns."""
    free, late, zeros = len(problem.free), len(problem.late), int(problem.known.sum())
    most = np.concatenate([np.full(late, MOST_STEPS), np.full(zeros, MOST_SPREADS), np.full(problem.first.size, np.inf)])
    low, high = (b[problem.free] / problem.unit[:free] for b in m.bounds)
    return np.concatenate([low, -most]), np.concatenate([high, most])


def _curved(m: Mechanism, problem: Problem) -> np.ndarray:
    """[Q] which of the parameters, delays and zeros that are looked for are parameters in which efforts are not linear."""
    curved = ~np.array([p.linear for p in m.parameters])[problem.free]
    return np.concatenate([curved, np.zeros(len(problem.unit) - len(curved), bool)])


def _covariance(problem: Problem, found: np.ndarray, spread: np.ndarray, nodes: int, curved: np.ndarray) -> np.ndarray:
    """[Q, Q] of the parameters, delays and zeros.

    With enough segments a sandwich of whole segments, whose residuals may be as correlated as they like; with few, the inverse
    information times how much less than each sample its own the residuals say by their correlation time.

    The influence of a residual on the parameters is its row times the inverse of the Karush-Kuhn-Tucker matrix (Bock, Kostina, Schloeder
    2007); those of a segment are added up before they are squared (Huber 1967; Liang, Zeger 1986). Variances of
    parameters in which efforts are not linear are not below those of the inverse information.
    """
    count, segments = len(problem.unit), problem.nodes // nodes
    if not count:
        return np.zeros((0, 0))
    b = problem.blocks(found, spread)
    half = information(b).tocsc()
    whole = half + sparse.triu(half, 1).T + RIDGE * sparse.identity(len(found))
    tangent = problem.tangent(found).tocsc()
    matrix = sparse.bmat([[whole, tangent.T], [tangent, None]], format="csc") if tangent.shape[0] else whole.tocsc()
    right = np.zeros((matrix.shape[0], count))
    right[:count] = np.eye(count)
    inverse = splu(matrix).solve(right)
    if segments < ENOUGH * count:
        shaped = b.errors.reshape(problem.nodes, problem.length + 1, -1)[:, :-1].reshape(segments, -1, problem.size)
        said = np.mean([whiteness(shaped[..., i], 1.0, shaped.shape[1]).time_s for i in range(problem.size)])
        return np.asarray(inverse[:count] * max(1.0, float(said)))
    of_start = inverse[count : len(found)].reshape(problem.nodes, problem.size, count)
    moved = np.einsum("neq,ne->nq", b.common @ inverse[:count] + b.own @ of_start, b.errors).reshape(segments, nodes, count).sum(1).T
    out = segments / max(1, segments - count) * moved @ moved.T
    # A saturation that is never reached leaves no trace in any segment: scatter alone would call it certain.
    least = np.where(curved, np.diag(inverse[:count]), 0.0)
    wider = np.sqrt(np.maximum(least / np.maximum(np.diag(out), LEAST * LEAST), 1.0))
    return np.asarray(np.where(np.eye(count, dtype=bool), np.maximum(np.diag(out), least), wider[:, None] * out * wider))
