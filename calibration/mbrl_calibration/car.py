"""A car's steering delay, wheelbase, understeer, steering offset and end stop, and the lag and gain of its speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import optimize, signal

from mbrl_calibration.axis_delay import STILL, AxisDelay, by_profile, judged, unknown
from mbrl_calibration.profile import Piece, Profile, held, summed
from mbrl_calibration.runs import Run
from mbrl_calibration.signals import low_pass
from mbrl_calibration.whitening import covariance, memory_of, whiten
from mbrl_control.errors import DataError, UserError
from mbrl_control.models.equations import Equations, Options, of
from mbrl_control.robot import RobotSpec

BEYOND = 0.02
"""Share of commands beyond the limits from which on the end stop is looked for."""

APART = 0.15
"""Greatest half width of the wheelbase's interval, as a share of it, with which understeer is told apart from it."""

ROUNDS = 4
SPEED_HZ = 2.0
"""Of the low-pass on the speed that the yaw is reckoned from: cars do not change it faster."""

SUBSTEPS = 4
COURSE_S = 2.0
"""Stretches over which driven distance is compared with places."""

WRONG = 0.15
"""Difference of the speed by places from that measured, as a share of it, from which on the sensor is not believed."""

PLACES_HZ = 0.3
"""Of the low-pass on places before speed is taken from them: GPS comes about once a second."""


@dataclass(frozen=True)
class Estimate:
    """A parameter.

    Attributes:
        name: as in the equations of the car, or what it is.
        unit: SI.
        value: the most likely one.
        low, high: ends of its 95 % interval.
    """

    name: str
    unit: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CarFit:
    """What logs tell of a car.

    Attributes:
        steering: from steering command to yaw rate.
        speed: from speed command to speed.
        parameters: those that could be found: L (m), K (s^2/m), offset, limit (rad), tau (s), gear, and from places speed_scale and
            heading (rad: how far the course lies to the left of the measured yaw). Where speed hardly varies, `L + K v^2` for L and K.
        notes: what could not be found, and why.
    """

    steering: AxisDelay
    speed: AxisDelay
    parameters: tuple[Estimate, ...]
    notes: tuple[str, ...]

    def get(self, name: str) -> Estimate | None:
        """A parameter by name; None where it was not found."""
        return next((p for p in self.parameters if p.name == name), None)


@dataclass(frozen=True)
class _Drive:
    """A run's rows at about the tick, and its commands as finely as they are known."""

    time: np.ndarray
    state: np.ndarray
    sent_time: np.ndarray
    sent: np.ndarray

    @cached_property
    def speed(self) -> np.ndarray:
        """[T - 1] between the rows, without noise that would bend what is not linear in it."""
        smooth = low_pass(self.state[:, 3], float(np.median(np.diff(self.time))), SPEED_HZ)
        return np.asarray(0.5 * (smooth[:-1] + smooth[1:]))

    def mean(self, values: np.ndarray, delay: float) -> np.ndarray:
        """[T - 1] means between the rows of a function of the commands, late by `delay`."""
        return np.asarray(np.diff(held(self.sent_time, values)(self.time - delay)) / np.diff(self.time))


def fit(runs: Sequence[Run], spec: RobotSpec, longest_s: float = 1.0) -> CarFit:
    """Find what logs tell of a car: yaw' = v tan(clip(steering(t - d)) + offset) / (L + K v^2), v' = (gear command(t - d) - v) / tau.

    Single-track model in steady state (Rajamani, Vehicle Dynamics and Control, section 3.3). A gain of the steering cannot be told
    from the wheelbase: L is that of a steering that does as it is told. Steering beyond the limits of the robot's YAML is clipped there,
    or, where that happens often, at an end stop that is found with the rest.

    Args:
        runs: logs. Grids finer than the tick make commands' times exact; rows are then thinned to about the tick.
        spec: a robot whose `nominal.system` is `car`.
        longest_s: greatest delay looked for, s.

    Raises:
        UserError: the robot is no car, or its signals do not fit the equations.
        DataError: no runs.
    """
    known = _known(spec, runs)
    drives = [_drive(r, spec, known) for r in runs]
    odd, told = _odd(drives), []
    course = _course(drives)
    if odd is not None:
        drives = [_by_places(d) for d in drives]
        told.append(f"places change {odd.value:.3g} times ({odd.low:.3g} to {odd.high:.3g}) as fast as "
                    f"'{spec.state_names[known.order[3]]}' tells; speed below {PLACES_HZ:g} Hz is taken from places instead; look at the "
                    "speed sensor")
    turning, driving = spec.command[int(known.command[1])], spec.command[int(known.command[0])]
    steering, turned, said = _steering(drives, turning.name, turning.limits, longest_s)
    if odd is not None:
        reason = f"'{spec.state_names[known.order[3]]}' is not the speed of the car, so lag and gain of its speed cannot be found"
        return CarFit(steering, unknown(driving.name, longest_s, reason, "regression"), (*turned, *course), (*told, *said, reason))
    speed, driven, slow = _speed(drives, driving.name, driving.limits[1] - driving.limits[0], longest_s)
    return CarFit(steering, speed, (*turned, *driven, *course), (*said, *slow))


def speed_by_places(runs: Sequence[Run], spec: RobotSpec) -> Estimate | None:
    """How many times as fast as measured the car drives by its places; None where the two agree, or places do not tell.

    Raises:
        UserError, DataError: as `fit`.
    """
    known = _known(spec, runs)
    return _odd([_drive(r, spec, known) for r in runs])


def _known(spec: RobotSpec, runs: Sequence[Run]) -> Equations:
    known = of(spec, Options(), "nominal")
    if spec.nominal is None or spec.nominal.system != "car":
        raise UserError(f"robot '{spec.name}': nominal.system = '{spec.nominal.system if spec.nominal else ''}' is no car; set it to 'car'")
    if not runs:
        raise DataError("no runs were given; give logs of the car")
    return known


def _odd(drives: list[_Drive]) -> Estimate | None:
    return next((e for e in _course(drives) if e.name == "speed_scale" and abs(e.value - 1) > WRONG and not e.low < 1 < e.high), None)


def _drive(run: Run, spec: RobotSpec, known: Equations) -> _Drive:
    every = max(1, round(spec.tick_s / run.period))
    rows = slice(None, None, every)
    return _Drive(run.time[rows], run.state[rows][:, known.order], run.time, run.command[:, known.command])


def _by_places(drive: _Drive) -> _Drive:
    """The same with the speed along the measured yaw that smoothed places show."""
    period = float(np.median(np.diff(drive.time)))
    places = low_pass(drive.state[:, :2] - drive.state[0, :2], period, PLACES_HZ)
    rate, yaw = np.gradient(places, drive.time, axis=0), drive.state[:, 2]
    state = drive.state.copy()
    state[:, 3] = rate[:, 0] * np.cos(yaw) + rate[:, 1] * np.sin(yaw)
    return replace(drive, state=state)


def _bends(steering: np.ndarray, offset: float, low: float, high: float) -> np.ndarray:
    return np.asarray(np.tan(np.clip(np.clip(steering, low, high) + offset, -1.5, 1.5)))


def _since(drive: _Drive, longest_s: float) -> _Drive:
    begin = int(np.searchsorted(drive.time, drive.time[0] + min(longest_s, 0.25 * (drive.time[-1] - drive.time[0]))))
    return _Drive(drive.time[begin:], drive.state[begin:], drive.sent_time, drive.sent)


def _turning(d: _Drive, limits: tuple[float, float]) -> Piece:
    """The yaw as a regression on the bend of the way, with an offset of the steering."""
    bends = _bends(d.sent[:, 1], 0.0, *limits)
    return Piece(d.state[:, 2] - d.state[0, 2], summed(d.time, d.speed[:, None]),
                 lambda delay: summed(d.time, (d.speed * d.mean(bends, delay))[:, None]))


def _driving(d: _Drive) -> Piece:
    """The speed as a regression on itself and its command."""
    return Piece(d.state[:, 3] - d.state[0, 3], summed(d.time, d.speed[:, None]),
                 lambda delay: summed(d.time, d.mean(d.sent[:, 0], delay)[:, None]))


def _steering(drives: list[_Drive], name: str, limits: tuple[float, float], longest_s: float
              ) -> tuple[AxisDelay, list[Estimate], list[str]]:
    sent = np.concatenate([d.sent[:, 1] for d in drives])
    if float(np.ptp(np.clip(sent, *limits))) <= STILL * (limits[1] - limits[0]):
        return unknown(name, longest_s, f"command '{name}' hardly changes in any run; drive curves to both sides", "physics"), [], []
    late = [_since(d, longest_s) for d in drives]
    pieces = [_turning(d, limits) for d in late]
    period = float(np.median(np.concatenate([np.diff(d.time) for d in late])))
    first, made = by_profile(name, pieces, np.arange(-2 * period, 2 * longest_s + 0.5 * period, period), period, longest_s, "physics",
                             f"what command '{name}' does to the yaw cannot be told from chance")
    if made is None or not first.effect:
        return first, [], []
    fitted = _Steered(late, period, limits, _beyond(late, limits) > BEYOND)
    return _bicycle(fitted, made, name, longest_s)


def _beyond(drives: list[_Drive], limits: tuple[float, float]) -> float:
    """Share of the way on which the steering command lies beyond the limits."""
    way = [np.abs(d.speed) * np.diff(d.time) for d in drives]
    out = [d.mean(((d.sent[:, 1] < limits[0]) | (d.sent[:, 1] > limits[1])).astype(float), 0.0) for d in drives]
    return float(sum(w @ o for w, o in zip(way, out, strict=True)) / max(sum(w.sum() for w in way), 1e-12))


@dataclass(frozen=True)
class _Steered:
    """The car's yaw for parameters (delay, L, offset[, limit][, K])."""

    drives: list[_Drive]
    period: float
    limits: tuple[float, float]
    stops: bool
    understeer: bool = False

    def levels(self, x: np.ndarray) -> list[np.ndarray]:
        """Yaw less what the parameters predict, of each drive."""
        low, high = (-x[3], x[3]) if self.stops else self.limits
        k = x[-1] if self.understeer else 0.0
        return [d.state[:, 2] - d.state[0, 2] - summed(d.time, (d.speed * d.mean(_bends(d.sent[:, 1], x[2], low, high), x[0])
                                                                / (x[1] + k * d.speed**2))[:, None])[:, 0] for d in self.drives]

    def solve(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[P] the most likely parameters and [P, P] their covariance."""
        low, high = np.full(len(start), -np.inf), np.full(len(start), np.inf)
        low[0], high[0], low[1], low[2], high[2] = start[0] - 5 * self.period, start[0] + 5 * self.period, 1e-3, -1.0, 1.0
        if self.stops:
            low[3], high[3] = 0.02, 1.4
        if self.understeer:
            low[-1] = 0.0
        return _solve(self.levels, start, (low, high), np.append(0.25 * self.period, np.full(len(start) - 1, 1e-3)))


def _solve(levels: Callable[[np.ndarray], list[np.ndarray]], start: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], nudges: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray]:
    """The parameters that leave least of the levels [T] after their memory is taken out, and their covariance.

    Args:
        levels: measured less predicted, of each drive, for parameters [P].
        start: [P] where the search begins.
        bounds: [P] least and greatest values.
        nudges: [P] steps of the central differences.
    """

    def residual(x: np.ndarray, memory: np.ndarray) -> np.ndarray:
        white = [whiten(level, memory) for level in levels(x)]
        return np.concatenate([w - w.mean() for w in white])

    def slopes(x: np.ndarray, memory: np.ndarray) -> np.ndarray:
        both = [(residual(x + nudge, memory), residual(x - nudge, memory)) for nudge in np.diag(nudges)]
        return np.stack([(after - before) / (2 * step) for (after, before), step in zip(both, nudges, strict=True)], axis=1)

    x, memory = np.clip(start, *bounds), np.zeros(1)
    for _ in range(ROUNDS):
        memory = memory_of([level - level.mean() for level in levels(x)])
        x = optimize.least_squares(residual, np.clip(x, *bounds), slopes, bounds, x_scale="jac", args=(memory,)).x
    return x, covariance(slopes(x, memory), residual(x, memory))


def _bicycle(model: _Steered, made: Profile, name: str, longest_s: float) -> tuple[AxisDelay, list[Estimate], list[str]]:
    length = 1.0 / made.coefficients[1] if made.coefficients[1] > 0 else 0.4
    start = np.array([made.delay_s, length, 0.0] + ([max(np.abs(model.limits))] if model.stops else []))
    x, spread = model.solve(start)
    x_both, spread_both = replace(model, understeer=True).solve(np.append(x, 0.01))
    speeds = np.concatenate([d.speed for d in model.drives])
    moving = np.abs(speeds)[np.abs(speeds) > 0.1 * np.abs(speeds).max()]
    apart = 1.96 * np.sqrt(spread_both[1, 1]) < APART * x_both[1]
    notes = []
    names = [("delay", "s"), ("L", "m"), ("offset", "rad")] + ([("limit", "rad")] if model.stops else [])
    if apart:
        x, spread, names = x_both, spread_both, [*names, ("K", "s^2/m")]
    else:
        names[1] = ("L + K v^2", "m")
        notes.append(f"speed hardly varies ({np.quantile(moving, 0.05):.3g} to {np.quantile(moving, 0.95):.3g} m/s), so wheelbase L and "
                     f"understeer K cannot be told apart; L + K v^2 = {x[1]:.3g} m holds at {np.sqrt(np.mean(moving**2)):.3g} m/s; drive "
                     "curves at other speeds too")
    if x[1] <= 2e-3 or made.coefficients[1] <= 0:
        notes.append(f"the car turns against '{name}'; check the sign of the command or of the yaw")
        return unknown(name, longest_s, notes[-1], "physics"), [], notes
    half = 1.96 * np.sqrt(np.diag(spread))
    found = [Estimate(n, unit, float(v), float(v - h), float(v + h)) for (n, unit), v, h in zip(names, x, half, strict=True)]
    delay = AxisDelay(name, found[0].value, min(found[0].low, made.low_s), max(found[0].high, made.high_s), True, "", "physics")
    return judged(delay, model.period, longest_s, made.elsewhere), found[1:], notes


def _speed(drives: list[_Drive], name: str, width: float, longest_s: float) -> tuple[AxisDelay, list[Estimate], list[str]]:
    changes = max(float(np.ptp(d.sent[:, 0])) for d in drives)
    if changes <= STILL * width:
        told = f"command '{name}' hardly changes in any run, so lag and gain of the speed cannot be found; drive with changes of speed"
        return unknown(name, longest_s, told, "regression"), [], [told]
    late = [_since(d, longest_s) for d in drives]
    pieces = [_driving(d) for d in late]
    period = float(np.median(np.concatenate([np.diff(d.time) for d in late])))
    told = f"speed does not follow '{name}' as a lag of first order would; lag and gain are not told"
    first, made = by_profile(name, pieces, np.arange(-2 * period, 2 * longest_s + 0.5 * period, period), period, longest_s, "physics", told)
    if made is None or not first.effect or made.coefficients[0] >= 0:
        return (first if not first.effect else unknown(name, longest_s, told, "physics")), [], [told]
    drag, drive = made.coefficients
    start = np.array([made.delay_s, -1.0 / drag, -drive / drag])
    low, high = np.array([made.delay_s - 5 * period, 0.01, 1e-6]), np.array([made.delay_s + 5 * period, 100.0, np.inf])
    x, spread = _solve(lambda at: [_lagging(d, *at) for d in late], start, (low, high), np.array([0.25 * period, 1e-3, 1e-3]))
    half = 1.96 * np.sqrt(np.diag(spread))
    delay, *others = (Estimate(label, unit, float(v), float(v - h), float(v + h))
                      for (label, unit), v, h in zip((("delay", "s"), ("tau", "s"), ("gear", "1")), x, half, strict=True))
    found = AxisDelay(name, delay.value, delay.low, delay.high, True, "", "physics")
    return judged(found, period, longest_s, made.elsewhere), others, []


def _lagging(drive: _Drive, delay: float, tau: float, gear: float) -> np.ndarray:
    """[T] measured speed less that of a lag of first order, which follows the commands alone and so takes up no noise."""
    count = len(drive.time)
    fine = np.interp(np.arange(SUBSTEPS * (count - 1) + 1) / SUBSTEPS, np.arange(count), drive.time)
    sent = gear * np.diff(held(drive.sent_time, drive.sent[:, 0])(fine - delay)) / np.diff(fine)
    decay = float(np.exp(-np.median(np.diff(fine)) / tau))
    later, _ = signal.lfilter([1.0 - decay], [1.0, -decay], sent, zi=[decay * drive.state[0, 3]])
    return np.asarray(drive.state[:, 3] - np.append(drive.state[0, 3], later[SUBSTEPS - 1::SUBSTEPS]))


def _course(drives: list[_Drive]) -> list[Estimate]:
    """How places compare with speed and yaw: displacement = scale rotation(heading) integral of v (cos yaw, sin yaw).

    Places are taken relative to the first one before anything else, so that coordinates of millions of metres keep their millimetres.
    """
    moved, told = [], []
    for d in drives:
        place = (d.state[:, 0] - d.state[0, 0]) + 1j * (d.state[:, 1] - d.state[0, 1])
        yaw = 0.5 * (d.state[:-1, 2] + d.state[1:, 2])
        path = np.concatenate([[0.0], np.cumsum(d.speed * np.exp(1j * yaw) * np.diff(d.time))])
        stride = max(1, round(COURSE_S / float(np.median(np.diff(d.time)))))
        moved.append(np.diff(place[::stride]))
        told.append(np.diff(path[::stride]))
    y, z = np.concatenate(moved), np.concatenate(told)
    if len(z) < 10 or float(np.abs(z).sum()) <= 1e-6:
        return []
    columns = np.concatenate([np.column_stack([z.real, -z.imag]), np.column_stack([z.imag, z.real])])
    side = np.concatenate([y.real, y.imag])
    a, b = np.linalg.lstsq(columns, side, rcond=None)[0]
    spread = covariance(columns, side - columns @ np.array([a, b]))
    scale = float(np.hypot(a, b))
    out = []
    for name, unit, value, slope in (("speed_scale", "1", scale, np.array([a, b]) / scale),
                                     ("heading", "rad", float(np.arctan2(b, a)), np.array([-b, a]) / scale**2)):
        half = 1.96 * float(np.sqrt(slope @ spread @ slope))
        out.append(Estimate(name, unit, value, value - half, value + half))
    return out
