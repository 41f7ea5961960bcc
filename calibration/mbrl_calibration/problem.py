"""What multiple shooting makes small, with its slopes: how far free runs of all segments are from what was measured.

Unknowns are one column: scaled parameters, delays in steps and scaled zeros of the positions, which are common to segments, then a start
for each node of each segment. A node's errors depend on the common ones and on its own start only, so slopes come as two blocks a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import casadi as ca
import numpy as np
from scipy import sparse

from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.segments import Segments, Settings
from mbrl_calibration.slopes import FreeRuns

TINY = 0.01
"""Parameters smaller than this share of the greatest are scaled as if they had it."""


@dataclass(frozen=True)
class Point:
    """A column of unknowns in physical units.

    Attributes:
        parameters: [P].
        delays: [A] what is added to them, s.
        zeros: [R, n] what must be added to the positions of each run.
        starts: [N, 2 n] true states at the begin of each node.
    """

    parameters: np.ndarray
    delays: np.ndarray
    zeros: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Blocks:
    """Slopes of the errors over their spreads, and these errors. Rows of a node: its L comparisons, then its start where a segment begins.

    Attributes:
        common: [N, E, Q] in the common unknowns; `own` [N, E, 2 n] in the node's start.
        errors: [N, E].
        known: [Q] what is known of the common unknowns beside: 1 for a zero, whose scaled value is one more error.
    """

    common: np.ndarray
    own: np.ndarray
    errors: np.ndarray
    known: np.ndarray


class Problem:
    """The errors of all segments.

    Args:
        data: see `segments.cut`.
        m: the mechanism.
        start: [P] parameters; those that are known stay at them.
        s: settings.

    Attributes:
        free: [F] indices of the parameters that are looked for; `late` [D] of the axes whose delay is.
        unit: [Q] physical units of the common unknowns.
        nodes: N of all segments together, each of `length` comparisons of `size` 2 n.
        begins: [N] whether a segment begins with the node; `first` [N, 2 n] what was measured there.
        goes_on: indices of the nodes whose end the next one begins with.
        known: see `Blocks`.
        limits: number of expressions in `built`.
    """

    def __init__(self, data: Segments, m: Mechanism, start: np.ndarray, s: Settings) -> None:
        self._m, self._start, self._zero = m, start, s.zero
        self.free = np.array([i for i, name in enumerate(m.names) if name not in s.known], int)
        self.late = np.flatnonzero(np.abs(data.slope).max((0, 1)) > 0) if s.delays else np.empty(0, int)
        self.run = np.repeat(data.run, s.nodes)
        self._zeros = (int(data.run.max()) + 1 if s.zero > 0 else 0, m.count)
        given, zeros = len(self.free) + len(self.late), self._zeros[0] * self._zeros[1]
        self.unit = np.concatenate([_scale(m, start)[self.free], np.full(len(self.late), s.step_s), np.full(zeros, s.zero)])
        self.known = np.concatenate([np.zeros(given), np.ones(zeros)])
        segments, steps, self.size = data.state.shape[0], data.state.shape[1] - 1, data.state.shape[2]
        self.nodes, self.length = segments * s.nodes, steps // s.nodes
        self.first = data.state[:, :-1 : self.length].reshape(self.nodes, self.size)
        self._measured = data.state[:, 1:].reshape(self.nodes, self.length, self.size)
        self.begins = np.arange(self.nodes) % s.nodes == 0
        self.goes_on = np.flatnonzero((np.arange(self.nodes) + 1) % s.nodes)
        cut = (self.nodes, self.length * s.substeps, data.inputs.shape[2])
        self._runs = FreeRuns(m, data.inputs.reshape(cut), data.slope.reshape(cut), s.step_s / s.substeps, s.substeps, self.free, self.late)
        z = ca.SX.sym("z", len(self.free))
        values = ca.SX(start)
        for i, place in enumerate(self.free):
            values[int(place)] = z[i] * self.unit[i]
        built = ca.vertcat(*m.feasible(m.named(values)))
        self._built = ca.Function("built", [z], [built, ca.densify(ca.jacobian(built, z))])
        self.limits = built.numel()

    @property
    def begin(self) -> np.ndarray:
        """The column where a search begins: parameters and delays as given, measured states."""
        found = np.zeros(len(self.unit))
        found[: len(self.free)] = self._start[self.free] / self.unit[: len(self.free)]
        return np.concatenate([found, self.first.ravel()])

    def point(self, column: np.ndarray) -> Point:
        """A column in physical units."""
        free, count = len(self.free), len(self.unit)
        common = column[:count] * self.unit
        parameters, delays = self._start.copy(), np.zeros(self._runs.axes)
        parameters[self.free] = common[:free]
        delays[self.late] = common[free : free + len(self.late)]
        return Point(parameters, delays, common[free + len(self.late):].reshape(self._zeros), column[count:].reshape(self.nodes, self.size))

    def left(self, at: Point) -> np.ndarray:
        """[N, L, 2 n] fitted minus measured."""
        found = self._runs.states(at.starts, at.parameters, at.delays)
        return np.asarray(found - self._shift(at)[:, None] - self._measured)

    def _shift(self, at: Point) -> np.ndarray:
        """[N, 2 n] how far true states are from measured ones."""
        shift = np.zeros((self.nodes, self.size))
        if at.zeros.size:
            shift[:, : self._m.count] = at.zeros[self.run]
        return shift

    def errors(self, column: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """[N, E] errors over their spreads [2 n]; see `Blocks`."""
        at = self.point(column)
        started = np.where(self.begins[:, None], at.starts - self._shift(at) - self.first, 0.0)
        return np.asarray((np.concatenate([self.left(at), started[:, None]], axis=1) / spread).reshape(self.nodes, -1))

    def blocks(self, column: np.ndarray, spread: np.ndarray) -> Blocks:
        """Errors over their spreads [2 n], and their slopes."""
        at, count, n = self.point(column), len(self.unit), self._m.count
        given = count - at.zeros.size
        slopes = self._runs.slopes(at.starts, at.parameters, at.delays)
        common, own = (np.zeros((self.nodes, self.length + 1, self.size, columns)) for columns in (count, self.size))
        own[:, :-1], common[:, :-1, :, :given] = slopes[..., : self.size], slopes[..., self.size:] * self.unit[:given]
        own[self.begins, -1] = np.eye(self.size)
        if at.zeros.size:
            for i in range(n):
                common[np.arange(self.nodes), :, i, given + self.run * n + i] = -self._zero
            common[~self.begins, -1] = 0.0
        rows = (self.nodes, (self.length + 1) * self.size, -1)
        weight = 1.0 / spread[:, None]
        return Blocks((common * weight).reshape(rows), (own * weight).reshape(rows), self.errors(column, spread), self.known)

    def gaps(self, column: np.ndarray) -> np.ndarray:
        """[M, 2 n] where the runs of nodes end minus where the next ones begin."""
        at = self.point(column)
        ends = self._runs.states(at.starts, at.parameters, at.delays)[self.goes_on, -1]
        return np.asarray(ends - at.starts[self.goes_on + 1])

    def tangent(self, column: np.ndarray) -> sparse.coo_matrix:
        """[M * 2 n, unknowns] slopes of the gaps; the places that are stored are the same for every column."""
        at, count = self.point(column), len(self.unit)
        slopes = self._runs.slopes(at.starts, at.parameters, at.delays)[self.goes_on, -1]
        common = np.zeros((len(slopes), self.size, count))
        given = count - at.zeros.size
        common[..., :given] = slopes[..., self.size:] * self.unit[:given]
        row = np.arange(len(slopes) * self.size).reshape(-1, self.size)
        start = count + self.goes_on[:, None] * self.size + np.arange(self.size)
        places = [(row[:, :, None], np.arange(count)[None, None], common), (row[:, :, None], start[:, None], slopes[..., : self.size]),
                  (row, start + self.size, -np.ones(row.shape))]
        return _stored(places, (row.size, count + self.nodes * self.size))

    def built(self, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[B] expressions that are not negative for anything that can be built, and their slopes [B, F] in the parameters."""
        value, slope = self._built(column[: len(self.free)])
        return np.asarray(value).ravel(), np.asarray(slope).reshape(self.limits, len(self.free))


def _scale(m: Mechanism, start: np.ndarray) -> np.ndarray:
    """[P] about how great the parameters are."""
    size = np.array([p.size for p in m.parameters])
    most = np.abs(start[size == 0]).max()
    return np.where(size > 0, size, np.where(np.abs(start) > TINY * most, np.abs(start), TINY * most))


def _stored(places: list[tuple[np.ndarray, np.ndarray, np.ndarray]], shape: tuple[int, int]) -> sparse.coo_matrix:
    """A matrix of (rows, columns, values) that are broadcast to the shape of the values."""
    rows, columns, values = (np.concatenate([np.broadcast_to(part[i], part[2].shape).ravel() for part in places]) for i in range(3))
    return sparse.coo_matrix((values, (rows, columns)), shape)


def information(b: Blocks) -> sparse.coo_matrix:
    """[unknowns, unknowns] upper half of the Gauss-Newton Hessian of half the sum of squares; the places stored are always the same."""
    nodes, rows, count = b.common.shape
    size = b.own.shape[2]
    flat = b.common.reshape(nodes * rows, count)
    common, cross, own = flat.T @ flat + np.diag(b.known), b.common.transpose(0, 2, 1) @ b.own, b.own.transpose(0, 2, 1) @ b.own
    upper, half = np.triu_indices(count), np.triu_indices(size)
    start = count + size * np.arange(nodes)[:, None]
    places = [(upper[0], upper[1], common[upper]),
              (np.arange(count)[None, :, None], (start + np.arange(size))[:, None], cross),
              (start + half[0], start + half[1], own[:, half[0], half[1]])]
    return _stored(places, (count + nodes * size,) * 2)


def gradient(b: Blocks, column: np.ndarray) -> np.ndarray:
    """[unknowns] slopes of half the sum of squares."""
    common = np.einsum("neq,ne->q", b.common, b.errors, optimize=True) + b.known * column[: len(b.known)]
    return np.concatenate([common, np.einsum("nei,ne->ni", b.own, b.errors, optimize=True).ravel()])


def cost(errors: np.ndarray, known: np.ndarray, column: np.ndarray) -> float:
    """Half the sum of squares of errors [N, E] and of what is known of the common unknowns [Q]; see `Blocks`."""
    return 0.5 * float((errors**2).sum() + known @ column[: len(known)] ** 2)
