"""Fourier series for joints or commands that tell most about a mechanism's parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np

from mbrl_calibration import mechanism
from mbrl_calibration.information import Gauge, log_det
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.multisine import window
from mbrl_calibration.nominal_plant import substeps
from mbrl_control.robot import RobotSpec, wrap_angle
from mbrl_control.runtime.course import Region

Array = np.ndarray
HARMONICS = 6
PERIOD_S = 10.0
"""Longer designs repeat one of at most this length."""
ROUNDS, CANDIDATES, ELITES = 20, 40, 8
TRIALS = 8
POLISHING = 60
RIDGE = 1e-9
MOST_PLAYED = 200
"""Joints times ticks per second, up to which commands are sought for robots whose joints could be sent anywhere."""
KEEP = 0.1
EASE = 0.15
"""Share of a period in which a reference leaves and reaches rest."""


def inputs(spec: RobotSpec, m: Mechanism) -> Array:
    """[n, A] efforts per unit of command."""
    u = ca.SX.sym("u", spec.action_dim)
    slope: Any = ca.Function("slope", [u], [ca.jacobian(m.applied(u, m.named(m.start)), u)])
    return np.array(slope(0.5 * (spec.action_zero + spec.action_high)))  # beyond a dead band, short of saturation


def ways(spec: RobotSpec, m: Mechanism) -> tuple[bool, ...]:
    """What is worth a search: positions of the joints (True) where each has a drive, commands (False) where it has not, or where every
    candidate is played fast. Weak drives reach more by swinging up, as commands find; strong ones go wherever they are sent."""
    b = inputs(spec, m)
    driven = b.shape[0] == b.shape[1] and np.linalg.matrix_rank(b) == len(b) and all(axis.kind == "effort" for axis in spec.axes)
    return tuple(way for way, able in ((True, driven), (False, not driven or m.count * spec.rate_hz <= MOST_PLAYED)) if able)


@dataclass(frozen=True)
class Problem:
    """What is sought: coefficients [D, 2 K] of D joints' positions, or of D commands.

    Attributes:
        joints: it is the positions, which takes a drive for every joint; see `ways`.
        spec: the robot.
        m: its equations.
        time: [T] s of the whole design.
        start: [S] state that it begins in.
        band_hz: lowest and highest frequency; a reference's highest is half of it.
        where: the state may be.
        share: of the commands' limits that may be used.
    """

    joints: bool
    spec: RobotSpec
    m: Mechanism
    time: Array
    start: Array
    band_hz: tuple[float, float]
    where: Region
    share: float

    @cached_property
    def inputs(self) -> Array:
        """[n, A] efforts per unit of command."""
        return inputs(self.spec, self.m)

    @cached_property
    def gauge(self) -> Gauge:
        """Of what a motion tells."""
        return Gauge(self.spec, self.m)

    @cached_property
    def step(self) -> Any:
        """CasADi function (x, u, p) to x a tick later."""
        return mechanism.step(self.m, self.spec.action_dim, self.spec.tick_s, substeps(self.m, self.spec, self.m.start))

    @cached_property
    def forward(self) -> Any:
        """CasADi function (x, u, p) to the rate of x."""
        return mechanism.forward(self.m, self.spec.action_dim)

    @property
    def size(self) -> tuple[int, int]:
        """D and 2 K."""
        return (self.m.count if self.joints else self.spec.action_dim), 2 * len(self.frequencies)

    @cached_property
    def period(self) -> int:
        """Ticks of one period."""
        return len(self.time) // max(1, math.ceil(len(self.time) * self.spec.tick_s / PERIOD_S - 1e-9))

    @property
    def grid(self) -> Array:
        """Times at which limits are looked at, s: ten in a period of the highest frequency."""
        return self.spec.tick_s * np.arange(0, self.period, max(1, round(self.spec.rate_hz / (10 * self.frequencies[-1]))))

    @property
    def looked_at(self) -> Array:
        """Some of these, at which the information is."""
        return self.grid[:: max(1, len(self.grid) // 100)]

    @cached_property
    def frequencies(self) -> Array:
        """[K] Hz: multiples of the period's, evenly spread on a logarithmic scale over the band."""
        base = 1 / (self.period * self.spec.tick_s)
        low, high = self.band_hz[0], self.band_hz[1] * (0.5 if self.joints else 1.0)
        return np.unique(np.maximum(np.round(np.geomspace(max(low, base), max(high, 2 * base), HARMONICS) / base), 1)) * base

    def waves(self, time: Array) -> Array:
        """[3, 2 K, T] sines and cosines, and their first and second derivatives by time."""
        w = 2 * np.pi * self.frequencies[:, None]
        sine, cosine = np.sin(w * time), np.cos(w * time)
        return np.array([np.vstack((sine, cosine)), np.vstack((w * cosine, -w * sine)), np.vstack((-w**2 * sine, -w**2 * cosine))])

    def eased(self, time: Array) -> Array:
        """[3, 2 K, T] of `waves`, made to begin and end at rest."""
        length = self.period * self.spec.tick_s
        edge = EASE * length
        x = np.clip(np.minimum(time, length - time) / edge, 0.0, 1.0)
        side = np.where(time < length / 2, 1.0, -1.0) / edge
        ease = x**3 * (10 - 15 * x + 6 * x**2)
        slope, bend = side * 30 * x**2 * (1 - x) ** 2, side**2 * 60 * x * (1 - x) * (1 - 2 * x)
        s, ds, dds = self.waves(time)
        return np.array([ease * s, slope * s + ease * ds, bend * s + 2 * slope * ds + ease * dds])

    def motion(self, coefficients: Array, time: Array) -> tuple[Array, Array, Array]:
        """[T, n] positions, rates and accelerations of a reference that begins and ends at rest at the start."""
        q, v, a = (coefficients @ wave for wave in self.eased(time))
        return self.start[self.m.positions] + q.T, v.T, a.T

    @cached_property
    def inverse_function(self) -> Any:
        """CasADi function (q, v, a) to the commands [A] that bring the motion about."""
        q, v, a = (ca.SX.sym(name, self.m.count) for name in "qva")
        known = self.m.named(self.m.start)
        need = ca.SX(self.m.effort(q, v, a, known)) - self.m.applied(ca.DM(self.spec.action_zero), known)
        return ca.Function("inverse", [q, v, a], [ca.DM(self.spec.action_zero) + ca.mtimes(ca.DM(np.linalg.inv(self.inputs)), need)])

    def inverse(self, q: Array, v: Array, a: Array) -> Array:
        """[T, A] commands that bring a motion [T, n] about."""
        return np.array(self.inverse_function.map(len(q))(q.T, v.T, a.T)).T

    def state(self, q: Array, v: Array) -> Array:
        """[T, S] of positions and rates [T, n]."""
        out = np.tile(self.start, (len(q), 1))
        out[:, self.m.positions], out[:, self.m.rates] = q, v
        return out

    def commands(self, coefficients: Array, time: Array) -> Array:
        """[T, A] commands of a series, from and to `zero`."""
        edge = window(np.append(time, self.period * self.spec.tick_s))[:-1]
        return np.asarray(self.spec.action_zero + edge[:, None] * (coefficients @ self.waves(time)[0]).T)

    def course(self, coefficients: Array) -> tuple[Array, Array]:
        """[T, A] commands and [T, S] reference of the whole design: periods one after the other."""
        time = self.spec.tick_s * np.arange(self.period)
        if self.joints:
            q, v, a = self.motion(coefficients, time)
            command, reference = self.inverse(q, v, a), self.state(q, v)
        else:
            command, reference = self.commands(coefficients, time), np.tile(self.start, (self.period, 1))
        rows = np.arange(len(self.time)) % self.period
        if len(self.time) % self.period:  # what is left of a last period would break off in mid-motion
            whole = len(self.time) - len(self.time) % self.period
            rows[whole:] = 0
        return command[rows], reference[rows]

    def excess(self, states: Array, commands: Array, period_s: float) -> float:
        """By how much a motion [T, S] and commands [T, A], a period apart, go beyond what they may, as a share; below 0 if they do not."""
        spec = self.spec
        middle, half = (spec.action_low + spec.action_high) / 2, self.share * (spec.action_high - spec.action_low) / 2
        rates = np.abs(np.diff(commands, axis=0)).max(axis=0) / period_s / (self.share * spec.action_max_rate)
        parts = [self.where.used(states).max(), (np.abs(commands - middle) / half).max(), rates.max()]
        return float(max(parts)) - 1 if np.isfinite(parts).all() else math.inf


def _beyond(problem: Problem, coefficients: Array) -> float:
    """By how much a series goes beyond what is allowed, as far as that can be told without playing it."""
    time = problem.grid
    if problem.joints:
        q, v, a = problem.motion(coefficients, time)
        return problem.excess(problem.state(q, v), problem.inverse(q, v, a), float(time[1] - time[0]))
    return problem.excess(problem.start[None], problem.commands(coefficients, time), float(time[1] - time[0]))


def allowed(problem: Problem, coefficients: Array) -> Array:
    """A series [D, 2 K] made smaller until it is allowed."""
    for _ in range(TRIALS):
        beyond = _beyond(problem, coefficients)
        if beyond <= 0:
            break
        coefficients = coefficients * 0.98 / (1 + beyond)
    return coefficients


def _joint_scores(problem: Problem, tried: Array) -> Array:
    """[N] of candidates [N, n, 2 K]: information less a price on what is not allowed."""
    return np.array([_score(problem, *problem.motion(c, problem.looked_at), _beyond(problem, c)) for c in tried])


def polished(problem: Problem, coefficients: Array) -> Array:
    """A local maximum of the information over series [n, 2 K] of the joints' positions, by IPOPT with the limits as its constraints.

    Args:
        problem: of the joints' positions.
        coefficients: where the search begins.
    """
    size, (count, columns), gauge = spread(problem), problem.size, problem.gauge
    c: Any = ca.MX.sym("c", count, columns)

    def along(time: Array) -> list[Any]:
        q, v, a = (ca.mtimes(c * size, ca.DM(wave)) for wave in problem.eased(time))
        return [q + ca.repmat(ca.DM(problem.start[problem.m.positions]), 1, len(time)), v, a]

    idle = np.tile(problem.spec.action_zero[:, None], len(problem.looked_at))
    table = gauge.table.map(len(problem.looked_at))(*along(problem.looked_at), idle)
    rows: Any = ca.vertcat(*ca.horzsplit(table, len(gauge.names)))
    begun = gauge.rows(*problem.motion(coefficients, problem.looked_at))
    even = ca.DM(np.diag(1 / np.maximum(np.linalg.norm(begun, axis=0), 1e-9)))
    rows = ca.mtimes(rows, even)
    held, low, high = _held(problem, along(problem.grid))
    whole = ca.SX.sym("m", len(gauge.names), len(gauge.names))
    log_det_of = ca.Function("log_det", [whole], [2 * ca.sum1(ca.log(ca.diag(ca.chol(whole))))])
    cost = -log_det_of(ca.mtimes(rows.T, rows) + RIDGE * ca.DM.eye(len(gauge.names)))
    solver = ca.nlpsol("best", "ipopt", {"x": ca.vec(c), "f": cost, "g": held}, {
        "print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes", "ipopt.hessian_approximation": "limited-memory",
        "ipopt.max_iter": POLISHING, "ipopt.tol": 1e-3})
    found = np.array(solver(x0=(coefficients / size).ravel(order="F"), lbg=low, ubg=high)["x"]).reshape(count, columns, order="F") * size
    return allowed(problem, found) if np.isfinite(found).all() else coefficients


def _held(problem: Problem, motion: list[Any]) -> tuple[Any, Array, Array]:
    """Expressions of a motion on the grid that have limits, and these."""
    spec, at = problem.spec, problem.m.positions
    u = problem.inverse_function.map(motion[0].shape[1])(*motion)
    middle, half = (spec.action_low + spec.action_high) / 2, problem.share * (spec.action_high - spec.action_low) / 2
    turned = problem.start[at] - np.where(spec.wraps[at], wrap_angle(problem.start[at]), problem.start[at])
    parts = [(u, middle - half, middle + half), (motion[0], problem.where.low[at] + turned, problem.where.high[at] + turned),
             (motion[1], problem.where.low[problem.m.rates], problem.where.high[problem.m.rates])]
    if np.isfinite(spec.action_max_rate).any():
        most = problem.share * spec.action_max_rate * float(problem.grid[1] - problem.grid[0])
        parts.append((u[:, 1:] - u[:, :-1], -most, most))
    rows = [(part[i, :].T, low[i], high[i]) for part, low, high in parts for i in range(part.shape[0]) if np.isfinite(high[i])]
    lows, highs = (np.concatenate([np.full(row[0].shape[0], row[k]) for row in rows]) for k in (1, 2))
    return ca.vertcat(*[row[0] for row in rows]), lows, highs


def _command_scores(problem: Problem, tried: Array, gain: Array) -> Array:
    """[N] of candidates [N, A, 2 K]: they are played on the equations all at once, with feedback [A, S]."""
    spec, m, count = problem.spec, problem.m, len(tried)
    time = spec.tick_s * np.arange(problem.period)
    order = np.concatenate((m.positions, m.rates))
    step = problem.step.map(count)
    asked = np.stack([problem.commands(c, time) for c in tried], axis=1)
    late, p = np.round(spec.delays * spec.rate_hz).astype(int), np.tile(m.start[:, None], count)
    states, sent = np.empty((len(time), count, spec.state_dim)), np.empty_like(asked)
    state = np.tile(problem.start, (count, 1))
    for k in range(len(time)):
        gap = problem.start - state
        sent[k] = np.clip(asked[k] + np.where(spec.wraps, wrap_angle(gap), gap) @ gain.T, spec.action_low, spec.action_high)
        acting = np.stack([sent[k - d, :, a] if k >= d else np.full(count, spec.action_zero[a]) for a, d in enumerate(late)])
        states[k] = state
        state = state.copy()
        state[:, order] = np.array(step(state[:, order].T, acting, p)).T
    every = max(1, len(time) // 100)
    out = np.empty(count)
    for i in range(count):
        x = states[::every, i][:, order]
        if not np.isfinite(x).all():
            out[i] = -math.inf
            continue
        a = np.array(problem.forward.map(len(x))(x.T, sent[::every, i].T, np.tile(m.start[:, None], len(x)))).T[:, m.count:]
        beyond = problem.excess(states[:, i], asked[:, i], spec.tick_s)
        out[i] = _score(problem, x[:, :m.count], x[:, m.count:], a, beyond)
    return out


def _score(problem: Problem, q: Array, v: Array, a: Array, beyond: float) -> float:
    rows = problem.gauge.rows(q, v, a)
    # Twice as large a motion tells at most 2 P log 2 more; what is not allowed must cost more than it can gain.
    return log_det(rows) - 10.0 * len(problem.gauge.names) * max(0.0, beyond)


def spread(problem: Problem) -> Array:
    """[D, 2 K] standard deviation of the first candidates' coefficients: each wave as large as it may be alone, shared among all."""
    spec, (count, columns) = problem.spec, problem.size
    if not problem.joints:
        room = np.minimum(spec.action_high - spec.action_zero, spec.action_zero - spec.action_low)
        return np.repeat(room[:, None], columns, axis=1) / math.sqrt(columns)
    out = np.empty((count, columns))
    for d in range(count):
        for k in range(columns):
            alone = np.zeros((count, columns))
            alone[d, k] = np.pi
            out[d, k] = allowed(problem, alone)[d, k]
    return out / math.sqrt(columns)


def search(problem: Problem, gain: Array, rng: np.random.Generator, rounds: int = ROUNDS) -> Array:
    """[D, 2 K] coefficients of the greatest information found.

    Of commands by the cross-entropy method (Rubinstein and Kroese 2004), because every candidate must be played; of positions by IPOPT
    from the best of some random ones.

    Args:
        problem: see there.
        gain: [A, S] feedback towards the start while commands are tried.
        rng: of the candidates.
        rounds: of sampling and refitting commands; each tries `CANDIDATES`.
    """
    mean, deviation = np.zeros(problem.size), spread(problem)
    best, best_score = mean, -math.inf
    for _ in range(1 if problem.joints else rounds):
        tried = mean + deviation * rng.standard_normal((CANDIDATES, *problem.size))
        tried[0] = best
        tried = np.array([allowed(problem, one) for one in tried])
        scores = _joint_scores(problem, tried) if problem.joints else _command_scores(problem, tried, gain)
        order = np.argsort(-scores)
        elite = tried[order[:ELITES]]
        if scores[order[0]] > best_score:
            best, best_score = tried[order[0]], float(scores[order[0]])
        mean, deviation = elite.mean(axis=0), KEEP * deviation + (1 - KEEP) * elite.std(axis=0)
    return polished(problem, best) if problem.joints else best
