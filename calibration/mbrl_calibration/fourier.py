"""Fourier series for joints or commands that tell most about a mechanism's parameters, found by the cross-entropy method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from mbrl_calibration import mechanism
from mbrl_calibration.information import Gauge, log_det
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.multisine import window
from mbrl_calibration.nominal_plant import substeps
from mbrl_calibration.playing import Region
from mbrl_control.robot import RobotSpec, wrap_angle

Array = NDArray[np.float64]
HARMONICS = 6
PERIOD_S = 10.0
"""Longer designs repeat one of at most this length."""
ROUNDS, CANDIDATES, ELITES = 20, 40, 8
TRIALS = 8
MOST_PLAYED = 2
KEEP = 0.1
EASE = 0.15
"""Share of a period in which a reference leaves and reaches rest."""


def inputs(spec: RobotSpec, m: Mechanism) -> Array:
    """[n, A] efforts per unit of command."""
    u = ca.SX.sym("u", spec.action_dim)
    slope: Any = ca.Function("slope", [u], [ca.jacobian(m.applied(u, m.named(m.start)), u)])
    return np.array(slope(spec.action_zero))


def ways(spec: RobotSpec, m: Mechanism) -> tuple[bool, ...]:
    """What is worth a search: positions of the joints (True) where each has a drive, commands (False) where there are few enough joints to
    play every candidate. Weak drives reach more by swinging up, as commands find; strong ones go wherever they are sent."""
    b = inputs(spec, m)
    driven = b.shape[0] == b.shape[1] and np.linalg.matrix_rank(b) == len(b) and all(axis.kind == "effort" for axis in spec.axes)
    return tuple(way for way, able in ((True, driven), (False, not driven or m.count <= MOST_PLAYED)) if able)


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

    @cached_property
    def _effort(self) -> Any:
        return mechanism.effort_function(self.m)

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

    def motion(self, coefficients: Array, time: Array) -> tuple[Array, Array, Array]:
        """[T, n] positions, rates and accelerations of a reference that begins and ends at rest at the start."""
        length = self.period * self.spec.tick_s
        edge = EASE * length
        x = np.clip(np.minimum(time, length - time) / edge, 0.0, 1.0)
        side = np.where(time < length / 2, 1.0, -1.0) / edge
        ease = x**3 * (10 - 15 * x + 6 * x**2)
        slope, bend = side * 30 * x**2 * (1 - x) ** 2, side**2 * 60 * x * (1 - x) * (1 - 2 * x)
        s, ds, dds = (coefficients @ wave for wave in self.waves(time))
        q = self.start[self.m.positions] + (ease * s).T
        return q, (slope * s + ease * ds).T, (bend * s + 2 * slope * ds + ease * dds).T

    def inverse(self, q: Array, v: Array, a: Array) -> Array:
        """[T, A] commands that bring a motion [T, n] about."""
        efforts = self._effort.map(len(q))(q.T, v.T, a.T, np.tile(self.m.start[:, None], len(q)))
        idle: Any = ca.Function("idle", [], [self.m.applied(ca.DM(self.spec.action_zero), self.m.named(ca.DM(self.m.start)))])
        still = np.array(idle()["o0"]).reshape(-1, 1)
        return np.asarray(self.spec.action_zero + np.linalg.solve(self.inputs, np.array(efforts) - still).T)

    def state(self, q: Array, v: Array) -> Array:
        """[T, S] of positions and rates [T, n]."""
        out = np.tile(self.start, (len(q), 1))
        out[:, self.m.positions], out[:, self.m.rates] = q, v
        return out

    def commands(self, coefficients: Array, time: Array) -> Array:
        """[T, A] commands of a series, from and to `zero`."""
        edge = window(np.append(time, self.period * self.spec.tick_s))[:-1]
        return self.spec.action_zero + edge[:, None] * (coefficients @ self.waves(time)[0]).T

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
    time = problem.grid[:: max(1, len(problem.grid) // 100)]
    return np.array([_score(problem, *problem.motion(c, time), _beyond(problem, c)) for c in tried])


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
    return log_det(rows) - 10 * rows.shape[1] * max(0.0, beyond)


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
    """[D, 2 K] coefficients of the greatest information found (cross-entropy method: Rubinstein and Kroese 2004).

    Args:
        problem: see there.
        gain: [A, S] feedback towards the start while commands are tried.
        rng: of the candidates.
        rounds: of sampling and refitting; each tries `CANDIDATES`.
    """
    mean, deviation = np.zeros(problem.size), spread(problem)
    best, best_score = mean, -math.inf
    for _ in range(rounds):
        tried = mean + deviation * rng.standard_normal((CANDIDATES, *problem.size))
        tried[0] = best
        tried = np.array([allowed(problem, one) for one in tried])
        scores = _joint_scores(problem, tried) if problem.joints else _command_scores(problem, tried, gain)
        order = np.argsort(-scores)
        elite = tried[order[:ELITES]]
        if scores[order[0]] > best_score:
            best, best_score = tried[order[0]], float(scores[order[0]])
        mean, deviation = elite.mean(axis=0), KEEP * deviation + (1 - KEEP) * elite.std(axis=0)
    return best
