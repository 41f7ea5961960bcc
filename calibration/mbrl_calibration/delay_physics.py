"""Delays of all commands together with a mechanism's parameters: its accelerations, integrated, against the measured rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from scipy import optimize

from mbrl_calibration import mechanism, signals
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.profile import averaged, held, summed
from mbrl_calibration.runs import Run
from mbrl_calibration.whitening import ORDER, covariance, difference, memory_of, whiten
from mbrl_control.robot import RobotSpec

ROUNDS = 4
"""Times that the residual's memory is fitted anew."""
STEPS = 8
HALVINGS = 6
INVERSE_HZ = 10.0
"""Low-pass of the inverse dynamics that parameters start from."""


@dataclass(frozen=True)
class Refined:
    """Delays of the commands asked for.

    Attributes:
        delay_s: [D] the most likely ones.
        half_s: [D] half widths of their 95 % intervals.
        effect: [D] likelihood ratios of each command acting at all, about the fit.
    """

    delay_s: np.ndarray
    half_s: np.ndarray
    effect: np.ndarray


@dataclass(frozen=True)
class Stretch:
    """A run to fit.

    Attributes:
        run: the log.
        smooth: [T, S] its states, without noise that would bend friction.
        begin: the first sample that every delay in question finds a command before.
    """

    run: Run
    smooth: np.ndarray
    begin: int


@dataclass(frozen=True)
class _Part:
    """A run's states between samples, and what goes with them."""

    time: np.ndarray
    angle: np.ndarray  # [n, T - 1]
    speed: np.ndarray  # [n, T - 1]
    levels: np.ndarray  # [T, n] rates since the first
    sources: list[Any]  # [A] integrals of the commands

    def commands(self, delays: np.ndarray) -> np.ndarray:
        """[A, T - 1] means in force."""
        widths = np.diff(self.time)
        return np.stack([np.diff(s(self.time - d)) / widths for s, d in zip(self.sources, delays, strict=True)])


@dataclass
class _Fit:
    """The regression at one memory of the residual: what it needs to give residuals and their slopes."""

    parts: list[_Part]
    function: Any
    free: np.ndarray
    axes: np.ndarray
    memories: list[np.ndarray]
    sigmas: np.ndarray
    nudge: float
    count: int

    def levels(self, p: np.ndarray, delays: np.ndarray) -> list[np.ndarray]:
        """[T / count, n] of each run: measured rates less predicted ones."""
        out = []
        for part in self.parts:
            rate = np.array(self.function(part.angle, part.speed, part.commands(delays), p)[0])
            out.append(averaged(part.levels - summed(part.time, rate.T), self.count))
        return out

    def residual(self, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        """[N] whitened, the outputs one after another within each run, the start of each taken off."""
        levels = self.levels(p, delays)
        return np.concatenate([_off(whiten(level[:, o], m) / s, m) for level in levels
                               for o, (m, s) in enumerate(zip(self.memories, self.sigmas, strict=True))])

    def loss(self, p: np.ndarray, delays: np.ndarray) -> float:
        """Twice the negative logarithm of the likelihood, less a constant."""
        residual = self.residual(p, delays)
        rows = len(residual) / len(self.sigmas)
        return float(len(residual) * np.log(residual @ residual / len(residual)) + 2 * rows * np.log(self.sigmas).sum())

    def slopes(self, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        """[N, free + D] of the whitened prediction by the free parameters and the delays."""
        columns = []
        for part in self.parts:
            _, by_p, by_u = self._by_sample(part, part.commands(delays), p)
            rate = (part.commands(delays + self.nudge) - part.commands(delays - self.nudge))[self.axes].T / (2 * self.nudge)
            columns.append(np.concatenate([by_p[:, :, self.free], by_u[:, :, self.axes] * rate], axis=2))
        return self._whitened(columns)

    def shares(self, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        """[N, D] what each command adds to the whitened prediction."""
        columns = []
        for part in self.parts:
            commands = part.commands(delays)
            columns.append(self._by_sample(part, commands, p)[2][:, :, self.axes] * commands[self.axes].T)
        return self._whitened(columns)

    def _by_sample(self, part: _Part, commands: np.ndarray, p: np.ndarray) -> list[np.ndarray]:
        """Accelerations [n, T - 1, 1] and their slopes by parameters [n, T - 1, P] and by commands [n, T - 1, A]."""
        n, count = len(part.angle), commands.shape[1]
        return [np.array(x).reshape(n, count, -1) for x in self.function(part.angle, part.speed, commands, p)]

    def _whitened(self, columns: list[np.ndarray]) -> np.ndarray:
        """[N, K] columns [n, T - 1, K] of accelerations as `residual` has them."""
        return np.concatenate([_off(whiten(averaged(summed(part.time, both[o]), self.count), m) / s, m)
                               for part, both in zip(self.parts, columns, strict=True)
                               for o, (m, s) in enumerate(zip(self.memories, self.sigmas, strict=True))])


def _off(columns: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Columns without their part along a constant, the whitened start of a stretch (which a random walk's filter takes off itself)."""
    return columns if abs(1.0 - memory.sum()) < 1e-6 else np.asarray(columns - columns.mean(axis=0))


def refine(stretches: Sequence[Stretch], spec: RobotSpec, starts: Sequence[np.ndarray], axes: np.ndarray, count: int = 1) -> Refined | None:
    """The most likely delays, by Gauss-Newton on rate(t) - rate(0) = integral of the mechanism's acceleration.

    Noise on the measured rates and what the model leaves out are residual, made white by an autoregressive filter for each rate.

    Args:
        stretches: what to fit.
        spec: with a `nominal` section that names a mechanism; its `known` parameters stay as they are.
        starts: delays to begin with, [A] s each; the one that ends best counts.
        axes: [D] commands whose delays are looked for; the others keep those of the start.
        count: samples that are averaged before the residual is made white.

    Returns:
        None where no start led anywhere.
    """
    m = mechanism.build(spec)
    parts = [_part(s, m) for s in stretches if len(s.run.time) - s.begin > 4 * ORDER * count]
    if not parts:
        return None
    period = float(np.median(np.concatenate([np.diff(p.time) for p in parts])))
    kept = {*(spec.nominal.known if spec.nominal else []), *m.nonlinear}
    free = np.array([i for i, name in enumerate(m.names) if name not in kept], dtype=int)
    function, runs = _function(m, spec.action_dim), [s.run for s in stretches]
    tried: list[tuple[float, int, _Fit, tuple[np.ndarray, np.ndarray]]] = []
    for start in starts:
        for p in _parameters(runs, m, spec, start, free):
            fit = _Fit(parts, function, free, axes, [difference()] * m.count, np.ones(m.count), 0.5 * period, count)
            first = _descend(fit, m, p, start.astype(np.float64), 1)
            tried += [(fit.loss(*first), len(tried), fit, first)] if first is not None else []
    if not tried:
        return None
    _, _, fit, first = min(tried)
    last = _descend(fit, m, *first, ROUNDS)
    return _described(fit, *last) if last is not None else None


def _part(stretch: Stretch, m: Mechanism) -> _Part:
    run, smooth = stretch.run, stretch.smooth[stretch.begin:]
    middle = 0.5 * (smooth[:-1] + smooth[1:])
    rates = run.state[stretch.begin:, m.rates]
    sources = [held(run.time, column) for column in run.command.T]
    return _Part(run.time[stretch.begin:], middle[:, m.positions].T.copy(), middle[:, m.rates].T.copy(), rates - rates[0], sources)


def _function(m: Mechanism, commands: int) -> Any:
    """CasADi function (q, v, u, p) to accelerations [n] and their slopes, a row for each sample when called with many."""
    n = m.count
    q, v, u, p = ca.SX.sym("q", n), ca.SX.sym("v", n), ca.SX.sym("u", commands), ca.SX.sym("p", len(m.parameters))
    rate = mechanism.forward(m, commands)(ca.vertcat(q, v), u, p)[n:]
    return ca.Function("slopes", [q, v, u, p], [rate, ca.jacobian(rate, p), ca.jacobian(rate, u)])


def _parameters(runs: Sequence[Run], m: Mechanism, spec: RobotSpec, delays: np.ndarray, free: np.ndarray) -> list[np.ndarray]:
    """Where the search may start: the mechanism's own parameters, and those of its inverse dynamics if they can be built."""
    function, rows, sides = mechanism.regressor(m, spec.action_dim), [], []
    for run in runs:
        grid = signals.even(run, run.period, delays)
        state = signals.low_pass(grid.state, grid.period, INVERSE_HZ)
        speed = state[:, m.rates]
        acceleration = signals.derivative(speed, grid.period)
        y_matrix, y = function(state[:, m.positions].T, speed.T, acceleration.T, signals.low_pass(grid.command, grid.period, INVERSE_HZ).T)
        rows.append(np.array(y_matrix).reshape(m.count, len(state), -1).reshape(-1, len(m.parameters)))
        sides.append(np.array(y).reshape(-1))
    matrix, side = np.concatenate(rows), np.concatenate(sides)
    fixed = np.setdiff1d(np.arange(len(m.parameters)), free)
    low, high = m.bounds
    solved = m.start.copy()
    solved[free] = optimize.lsq_linear(matrix[:, free], side - matrix[:, fixed] @ m.start[fixed], (low[free], high[free])).x
    possible = all(float(x) > 0 for x in m.feasible(m.named(solved)))
    return [solved, m.start] if possible else [m.start]


def _descend(fit: _Fit, m: Mechanism, p: np.ndarray, delays: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Gauss-Newton with halved steps, the residual's memory fitted anew in turns; None where the motion runs away."""
    for _ in range(rounds):
        levels = fit.levels(p, delays)
        if not all(np.isfinite(level).all() for level in levels):
            return None
        centred = [level - level.mean(axis=0) for level in levels]
        fit.memories = [memory_of([c[:, o] for c in centred]) for o in range(m.count)]
        fit.sigmas = np.array([np.std(np.concatenate([whiten(c[:, o], fit.memories[o]) for c in centred])) for o in range(m.count)])
        fit.sigmas = np.maximum(fit.sigmas, 1e-12)
        p, delays = _steps(fit, m, p, delays)
    return p, delays


def _described(fit: _Fit, p: np.ndarray, delays: np.ndarray) -> Refined | None:
    slopes, residual = fit.slopes(p, delays), fit.residual(p, delays)
    variance = np.diag(covariance(slopes, residual))[len(fit.free):]
    if not np.isfinite(variance).all() or (variance <= 0).any():
        return None
    scale = np.maximum(np.linalg.norm(slopes, axis=0), 1e-300)
    without = [np.linalg.lstsq(slopes / scale, residual + share, rcond=1e-9)[1] for share in fit.shares(p, delays).T]
    effect = len(residual) * np.log([float(w[0]) / float(residual @ residual) if len(w) else 1.0 for w in without])
    return Refined(delays[fit.axes], 1.96 * np.sqrt(variance), effect)


def _steps(fit: _Fit, m: Mechanism, p: np.ndarray, delays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = m.bounds
    residual = fit.residual(p, delays)
    for _ in range(STEPS):
        slopes = fit.slopes(p, delays)
        scale = np.maximum(np.linalg.norm(slopes, axis=0), 1e-300)
        step = np.linalg.lstsq(slopes / scale, residual, rcond=1e-9)[0] / scale
        for halving in range(HALVINGS):
            part = step * 0.5**halving
            p_new, delays_new = p.copy(), delays.copy()
            p_new[fit.free] = np.clip(p[fit.free] + part[: len(fit.free)], low[fit.free], high[fit.free])
            delays_new[fit.axes] = delays[fit.axes] + part[len(fit.free):]
            new = fit.residual(p_new, delays_new)
            if np.isfinite(new).all() and new @ new < residual @ residual:
                break
        else:
            return p, delays
        gained = 1.0 - float(new @ new) / float(residual @ residual)
        p, delays, residual = p_new, delays_new, new
        if gained < 1e-7:
            break
    return p, delays
