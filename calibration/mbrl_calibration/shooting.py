"""Prediction-error identification by multiple shooting: parameters (and delays) with which free runs follow the measured ones.

Each segment of data is a free run from a start of its own (Bock 1981). Longer segments can be cut further into nodes where the run must
go on from where it was; with dry friction that hinders the search more than it helps, so by default a segment is one node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from mbrl_calibration.estimate import Estimate
from mbrl_calibration.free_run import drive
from mbrl_calibration.mechanism import Mechanism, step
from mbrl_calibration.residuals import whiteness
from mbrl_calibration.runs import Run
from mbrl_control.data.sequences import effective_action
from mbrl_control.errors import DataError

SLOPE_S = 1e-3
"""Half the step of the difference quotient of commands in their delay."""

TINY = 0.01
"""Parameters smaller than this share of the greatest are scaled as if they had it."""

MOST_STEPS = 20.0
"""So many steps a delay may be away from where the search begins."""

ENOUGH = 4
"""Segments per parameter from which on their scatter says how sure the parameters are."""

LEAST, RIDGE = 1e-9, 1e-10


def no_progress() -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Settings:
    """How segments are cut and solved.

    Attributes:
        segment_s: length of a free run, s.
        nodes: parts of a segment, each with states of its own as variables that must meet.
        step_s: comparison step, s; of `substeps` integration steps each, with the input that was in force in each of them (dry
            friction makes the equations stiff).
        rounds: of fitting, each with the spreads of the residuals of the one before as weights.
        delays: whether the commands' delays are found too.
        known: names of parameters that stay at their start.
        zero: how far from their true places the zeros of the positions are thought to be in each run, one standard deviation of a normal
            distribution, rad or m; 0: they are right.
        iterations: of the solver at most, per round.
        progress: called before each round.
    """

    segment_s: float = 0.5
    nodes: int = 1
    step_s: float = 0.01
    substeps: int = 4
    rounds: int = 2
    delays: bool = False
    known: tuple[str, ...] = ()
    zero: float = 0.0
    iterations: int = 60
    progress: Callable[[], None] = no_progress


@dataclass(frozen=True)
class Segments:
    """Data of all segments: G segments of K nodes of L steps.

    Attributes:
        state: [G, K * L + 1, 2 n] measured, (q, v).
        inputs: [G, K * L * substeps, A] mean input over each integration step; `slope` its derivative in each axis' delay, per s.
        run: [G] index of the run that the segment was cut from.
    """

    state: np.ndarray
    inputs: np.ndarray
    slope: np.ndarray
    run: np.ndarray


def cut(runs: Sequence[Run], m: Mechanism, delays: np.ndarray, measured: bool, s: Settings) -> Segments:
    """Cut runs into segments that follow each other without overlap.

    Args:
        runs: the data.
        m: the mechanism.
        delays: [A] time from command to effect, s.
        measured: drive with sensors' efforts where there are any (these have no delay).
        s: lengths.

    Raises:
        DataError: no run is as long as a segment.
    """
    order = np.concatenate((m.positions, m.rates))
    steps = round(s.segment_s / s.step_s) // s.nodes * s.nodes
    parts: list[tuple[np.ndarray, ...]] = []
    for index, run in enumerate(runs):
        driven, sensed = drive(run, measured)
        lag = np.where(sensed, 0.0, delays)
        earliest, fine = run.time[0] + float(lag.max(initial=0.0)) + 2 * SLOPE_S, s.step_s / s.substeps
        while earliest + (steps + 1) * s.step_s <= run.time[-1] - 2 * SLOPE_S:
            start = run.time[np.searchsorted(run.time, earliest)]  # at a sample, so that steps meet samples where rates allow it
            at = start + s.step_s * np.arange(steps + 1)
            inner = start + fine * np.arange(steps * s.substeps)
            state = np.stack([np.interp(at, run.time, run.state[:, i]) for i in order], axis=1)
            given, sooner, later = (effective_action(run.time, driven, inner, fine, lag + by) for by in (0.0, -SLOPE_S, SLOPE_S))
            parts.append((state, given, np.where(sensed, 0.0, (later - sooner) / (2 * SLOPE_S)), np.array(index)))
            earliest = start + steps * s.step_s
    if not parts:
        raise DataError(f"no run is as long as a segment of {s.segment_s:g} s (the longest is {max(r.duration for r in runs):.3g} s)")
    return Segments(*(np.stack(part) for part in zip(*parts, strict=True)))


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


def _node(m: Mechanism, commands: int, s: Settings) -> Any:
    """CasADi function (x, U [A, L * substeps], dU, p, delta [A]) to the states [2 n, L] after each step of a node."""
    one = step(m, commands, s.step_s / s.substeps, 1)
    steps = round(s.segment_s / s.step_s) // s.nodes
    x, p, delta = ca.SX.sym("x", 2 * m.count), ca.SX.sym("p", len(m.parameters)), ca.SX.sym("d", commands)
    u, slope = (ca.SX.sym(name, commands, steps * s.substeps) for name in "us")
    states, y = [], x
    for k in range(steps * s.substeps):
        y = one(y, u[:, k] + slope[:, k] * delta, p)
        if (k + 1) % s.substeps == 0:
            states.append(y)
    return ca.Function("node", [x, u, slope, p, delta], [ca.horzcat(*states)])


@dataclass(frozen=True)
class _Unknowns:
    """What is looked for, as one column of CasADi symbols: scaled parameters, delays in steps, scaled zeros, true states at the nodes.

    Attributes:
        column: all of them.
        parameters: [P] expressions in physical units; those that are known are numbers.
        delays: [A] expressions, s.
        zeros: [n, R] what must be added to the positions of each run, over `Settings.zero`; [n, 0] where they are right.
        states: [2 n, nodes].
        free: [P] whether a parameter is looked for.
        late: indices of the axes whose delay is.
        unit: [Q] physical units of the parameters, delays and zeros in the column.
    """

    column: Any
    parameters: Any
    delays: Any
    zeros: Any
    states: Any
    free: np.ndarray
    late: np.ndarray
    unit: np.ndarray


def _unknowns(data: Segments, m: Mechanism, start: np.ndarray, s: Settings) -> _Unknowns:
    free = np.array([name not in s.known for name in m.names])
    late = np.flatnonzero(np.abs(data.slope).max((0, 1)) > 0) if s.delays else np.empty(0, int)
    size = np.array([p.size for p in m.parameters])
    most = np.abs(start[size == 0]).max()
    scale = np.where(size > 0, size, np.where(np.abs(start) > TINY * most, np.abs(start), TINY * most))
    z, shift = ca.MX.sym("z", int(free.sum())), ca.MX.sym("shift", len(late))
    x = ca.MX.sym("x", 2 * m.count, len(data.state) * s.nodes)
    parameters, delays = ca.MX(start), ca.MX.zeros(data.inputs.shape[2])
    if free.any():
        parameters[np.flatnonzero(free).tolist()] = z * scale[free]
    if len(late):
        delays[late.tolist()] = s.step_s * shift
    zeros = ca.MX.sym("zeros", m.count, int(data.run.max()) + 1 if s.zero > 0 else 0)
    unit = np.concatenate([scale[free], np.full(len(late), s.step_s), np.full(zeros.numel(), s.zero)])
    return _Unknowns(ca.vertcat(z, shift, ca.vec(zeros), ca.vec(x)), parameters, delays, zeros, x, free, late, unit)


@dataclass(frozen=True)
class _Equations:
    """What must be small, and what must be zero or more.

    Attributes:
        left: [2 n, samples] fitted minus measured.
        errors: all of it, and how far the starts are from the measured ones, over the spreads; then the scaled zeros; one column.
        going: gaps between the nodes of a segment.
        built: expressions that are not negative for anything that can be built.
        spread: [2 n] symbols of the standard deviations.
        first: [2 n, nodes] measured states at the nodes.
    """

    left: Any
    errors: Any
    going: Any
    built: list[Any]
    spread: Any
    first: np.ndarray


def _equations(data: Segments, m: Mechanism, of: _Unknowns, s: Settings) -> _Equations:
    count, axes = of.states.shape[1], data.inputs.shape[2]
    length = (data.state.shape[1] - 1) // s.nodes
    inputs, slopes = (ca.DM(part.reshape(-1, axes).T) for part in (data.inputs, data.slope))
    after = _node(m, axes, s).map(count)(of.states, inputs, slopes, ca.repmat(of.parameters, 1, count), ca.repmat(of.delays, 1, count))
    first = data.state[:, :-1:length].reshape(count, -1).T
    shift = ca.MX.zeros(2 * m.count, count)
    if of.zeros.numel():
        shift[: m.count, :] = s.zero * of.zeros[:, np.repeat(data.run, s.nodes).tolist()]
    each = np.repeat(np.arange(count), length).tolist()
    left = after - shift[:, each] - data.state[:, 1:].reshape(count * length, -1).T
    goes_on = [k for k in range(count) if (k + 1) % s.nodes]
    ends = after[:, length - 1 :: length]
    going = ca.vec(ends[:, goes_on] - of.states[:, [k + 1 for k in goes_on]]) if goes_on else ca.MX(0, 1)
    begins = list(range(0, count, s.nodes))
    spread = ca.MX.sym("spread", 2 * m.count)
    starts = of.states[:, begins] - shift[:, begins] - first[:, begins]
    errors = ca.horzcat(left, starts) / ca.repmat(spread, 1, left.shape[1] + len(begins))
    return _Equations(left, ca.vertcat(ca.vec(errors), ca.vec(of.zeros)), going, m.feasible(m.named(of.parameters)), spread, first)


def _solver(of: _Unknowns, e: _Equations, s: Settings) -> Any:
    """IPOPT with the Gauss-Newton Hessian: the residuals' own curvature is left out, which keeps it positive far from the solution."""
    size, constraints = e.errors.numel(), ca.vertcat(e.going, *e.built)
    slope = ca.jacobian(e.errors, of.column)
    weight, duals = ca.MX.sym("weight"), ca.MX.sym("duals", constraints.numel())
    hessian = ca.Function("hessian", [of.column, e.spread, weight, duals], [ca.triu(weight / size * ca.mtimes(slope.T, slope))],
                          ["x", "p", "lam_f", "lam_g"], ["triu_hess_gamma_x_x"])
    # Dry friction makes the last digits slow: this little a change of the cost is far inside the intervals.
    enough = {"acceptable_tol": 0.1, "acceptable_iter": 3, "acceptable_obj_change_tol": 0.1 / size, "acceptable_constr_viol_tol": 1e-6}
    options = {"print_level": 0, "sb": "yes", "max_iter": s.iterations, "tol": 1e-6, "mu_strategy": "adaptive", **enough}
    return ca.nlpsol("shoot", "ipopt", {"x": of.column, "f": 0.5 * ca.sumsqr(e.errors) / size, "g": constraints, "p": e.spread},
                     {"print_time": False, "hess_lag": hessian, **{f"ipopt.{name}": value for name, value in options.items()}})


def fit(data: Segments, m: Mechanism, start: np.ndarray, s: Settings) -> Shot:
    """Maximum likelihood with Gaussian measurement noise of unknown spread, by IPOPT.

    Args:
        data: see `cut`.
        m: the mechanism.
        start: [P] where the search begins; parameters of 0 are scaled by the greatest.
        s: settings.
    """
    of = _unknowns(data, m, start, s)
    e = _equations(data, m, of, s)
    solver, residual = _solver(of, e, s), ca.Function("residual", [of.column], [e.left])
    free, late = int(of.free.sum()), len(of.late)
    inside, others = free + late, of.zeros.numel() + of.states.numel()
    low, high = (np.concatenate([b[of.free] / of.unit[:free], np.full(late, sign * MOST_STEPS), np.full(others, sign * np.inf)])
                 for b, sign in zip(m.bounds, (-1.0, 1.0), strict=True))
    most = np.concatenate([np.zeros(e.going.numel()), np.full(len(e.built), np.inf)])
    found = np.concatenate([start[of.free] / of.unit[:free], np.zeros(late + of.zeros.numel()), e.first.T.ravel()])
    sigma = np.maximum(np.std(np.diff(data.state, axis=1), axis=(0, 1)), LEAST)
    left = np.empty(0)
    for _ in range(s.rounds):
        s.progress()
        found = np.asarray(solver(x0=found, p=sigma, lbx=low, ubx=high, lbg=0.0, ubg=most)["x"]).ravel()
        left = np.asarray(residual(found))
        sigma = np.maximum(np.sqrt((left**2).mean(1)), LEAST)
    values = np.concatenate([start, s.step_s * found[free:inside]])
    values[: len(start)][of.free] = found[:free] * of.unit[:free]
    places = np.concatenate([np.flatnonzero(of.free), len(start) + np.arange(late)])
    covariance = np.zeros((len(values),) * 2)
    unit = of.unit[:inside]
    all_of = _covariance(of, e, found, sigma, len(data.state), _curved(m, of))
    covariance[np.ix_(places, places)] = unit[:, None] * all_of[:inside, :inside] * unit
    names = m.names + tuple(f"delay:{axis}" for axis in of.late)
    status, shape = solver.stats(), (len(data.state), data.state.shape[1] - 1, -1)
    estimate = Estimate(names, values, covariance, tuple(np.flatnonzero(~of.free).tolist()))
    zeros = np.zeros((int(data.run.max()) + 1, m.count))
    if of.zeros.numel():
        zeros = s.zero * found[inside : inside + of.zeros.numel()].reshape(zeros.shape)
    return Shot(estimate, -left.T.reshape(shape), zeros, bool(status["success"]), int(status["iter_count"]))


def _curved(m: Mechanism, of: _Unknowns) -> np.ndarray:
    """[Q] which of the parameters, delays and zeros that are looked for are parameters in which efforts are not linear."""
    return np.concatenate([~np.array([p.linear for p in m.parameters])[of.free], np.zeros(len(of.late) + of.zeros.numel(), bool)])


def _covariance(of: _Unknowns, e: _Equations, found: np.ndarray, sigma: np.ndarray, segments: int, curved: np.ndarray) -> np.ndarray:
    """[Q, Q] of the parameters, delays and zeros.

    With enough segments a sandwich of whole segments, whose residuals may be as correlated as they like; with few, the inverse
    information times how much less than each sample its own the residuals say by their correlation time.

    The influence of a residual on the parameters is its row times the inverse of the Karush-Kuhn-Tucker matrix (Bock, Kostina, Schloeder
    2007); those of a segment are added up before they are squared (Huber 1967; Liang, Zeger 1986). Variances of
    parameters in which efforts are not linear are not below those of the inverse information.
    """
    count = len(of.unit)
    if not count:
        return np.zeros((0, 0))
    slopes = ca.Function("slopes", [of.column, e.spread], [ca.jacobian(e.errors, of.column), ca.jacobian(e.going, of.column), e.errors])
    error, tangent, left = slopes(found, sigma)
    error, tangent = (sparse.csc_matrix(part.sparse()) for part in (error, tangent))
    information = error.T @ error + RIDGE * sparse.identity(len(found))
    matrix = sparse.bmat([[information, tangent.T], [tangent, None]], format="csc") if tangent.shape[0] else information.tocsc()
    right = np.zeros((matrix.shape[0], count))
    right[:count] = np.eye(count)
    inverse, size = splu(matrix).solve(right), len(sigma)
    rows, samples = size * (e.left.shape[1] + segments), e.left.shape[1] // segments  # what is known of zeros has no segment
    if segments < ENOUGH * count:
        shaped = np.asarray(left)[: segments * samples * size].reshape(segments, samples, size)
        said = np.mean([whiteness(shaped[..., i], 1.0, samples).time_s for i in range(size)])
        return np.asarray(inverse[:count] * max(1.0, float(said)))
    influence = (error @ inverse[: len(found)])[:rows] * np.asarray(left)[:rows]
    of_segment = np.repeat(np.concatenate([np.repeat(np.arange(segments), samples), np.arange(segments)]), size)
    moved = np.stack([np.bincount(of_segment, column, segments) for column in influence.T])
    out = segments / max(1, segments - count) * moved @ moved.T
    # A saturation that is never reached leaves no trace in any segment: scatter alone would call it certain.
    least = np.where(curved, np.diag(inverse[:count]), 0.0)
    wider = np.sqrt(np.maximum(least / np.maximum(np.diag(out), LEAST * LEAST), 1.0))
    return np.asarray(np.where(np.eye(count, dtype=bool), np.maximum(np.diag(out), least), wider[:, None] * out * wider))
