"""Delays per axis, to a fraction of a sample and with intervals: from command to motion, to a sensor, and of measured rates."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mbrl_calibration import delay_physics
from mbrl_calibration.features import Basis, basis
from mbrl_calibration.profile import Integral, Piece, Profile, averaged, held, joined, profile, summed
from mbrl_calibration.runs import Run
from mbrl_calibration.signals import low_pass
from mbrl_calibration.whitening import ORDER
from mbrl_control.axes import Axis
from mbrl_control.errors import DataError, UserError
from mbrl_control.robot import RobotSpec

LONGEST_S = 0.5
"""How far the search for a delay goes by default, s."""

EARLY = 3
"""Periods before the command at which the search begins: an effect that comes first is a fault of the log, and told."""

CHANCE, CHANCE_EACH = 20.0, 10.0
"""Likelihood ratio of an input below which what it does may be chance, over all delays that are tried: and so much for each column."""

SEARCH = 4
"""The search goes on to so many times the longest delay, so that one beyond it is told and none within it taken for it."""

STILL = 1e-3
"""A command that changes by less than this share of its limits does not move the robot."""


COARSEST_S = 0.05
"""Longest time over which samples are averaged, s."""

LEAST_ROWS = 200
"""Averages that a run should come to."""

SMOOTH = 0.3
"""Cut-off of states that enter functions, times the averaging time."""


@dataclass(frozen=True)
class AxisDelay:
    """The delay of one axis.

    Attributes:
        name: of the command, or of the measured rate.
        delay_s: the most likely one; nan where it is not determined.
        low_s, high_s: ends of the 95 % interval; where it is not determined, of what cannot be told apart.
        determined: the logs tell it.
        reason: why they do not; empty where they do.
        method: `regression` on functions of the state, `physics` of the robot's nominal section, `sensor` of the command, or `rate`.
        effect: the logs show an effect, whenever it may come.
    """

    name: str
    delay_s: float
    low_s: float
    high_s: float
    determined: bool
    reason: str
    method: str
    effect: bool = True


def estimate(runs: Sequence[Run], spec: RobotSpec, longest_s: float = LONGEST_S) -> list[AxisDelay]:
    """The delay from each command to the motion that it makes, as measured: the actuator's and the sensor's together.

    The tracked rate (of a speed command, the speed; of a position command, the rate of the position) is regressed on its own integral
    equation: functions of the state and the command in force `delay` before. Where the robot's `nominal` section names a mechanism,
    its equations then replace the functions of the state, and parameters and delays of all axes are found together.

    Args:
        runs: logs.
        spec: the robot.
        longest_s: greatest delay looked for, s.

    Returns:
        [A] in the order of the commands; those that the logs do not determine say why.

    Raises:
        DataError: no runs.
        UserError: `longest_s` is not above 0.
    """
    _require(runs, longest_s)
    functions = basis(np.concatenate([r.state for r in runs]), spec)
    outputs = [_output(spec, axis) for axis in spec.axes]
    delays = np.minimum(spec.delays, longest_s)
    found = [_still(runs, spec, a) for a in range(spec.action_dim)]
    open_axes = [a for a, settled in enumerate(found) if settled is None]
    for _ in range(2 if len(open_axes) > 1 else 1):
        for a in open_axes:
            made = _regression(runs, spec, functions, outputs[a], a, delays, longest_s)
            found[a] = made
            if made.determined:
                delays[a] = made.delay_s
    return _with_physics(runs, spec, [f for f in found if f is not None], longest_s)


def of_sensors(runs: Sequence[Run], spec: RobotSpec, longest_s: float = LONGEST_S) -> list[AxisDelay]:
    """The delay from each command to the sensor that measures what it came to (`nominal.measured`).

    Returns:
        One for each command that has such a sensor.

    Raises:
        DataError: no runs.
        UserError: `longest_s` is not above 0.
    """
    _require(runs, longest_s)
    out = []
    for a, name in enumerate(spec.command_names):
        if any(np.isnan(r.measured[:, a]).all() for r in runs):
            continue
        still = _still(runs, spec, a)
        pieces = [_sensed(r, a, longest_s) for r in runs]
        out.append(replace(still, method="sensor") if still else
                   _verdict(name, _try(pieces, _grid(runs, a, longest_s)), _period(runs), longest_s, "sensor",
                            f"the sensor of command '{name}' does not follow it"))
    return out


def of_rates(runs: Sequence[Run], spec: RobotSpec, longest_s: float = 0.1) -> list[AxisDelay]:
    """How far each measured rate lags behind the motion that its position shows, such as by a filter on it.

    Returns:
        One for each `rate_of`; below 0 where the position lags behind the rate.

    Raises:
        DataError: no runs.
        UserError: `longest_s` is not above 0.
    """
    _require(runs, longest_s)
    period, out = _period(runs), []
    for whole, rate in spec.rate_pairs:
        grid = np.arange(-longest_s, longest_s + 0.5 * period, period)
        pieces = [_lagged(r, whole, rate, longest_s) for r in runs]
        name = spec.state_names[rate]
        if max(float(np.ptp(r.state[:, rate])) for r in runs) == 0.0:
            out.append(unknown(name, longest_s, f"'{name}' never changes in any run; move the joint", "rate"))
        else:
            out.append(_verdict(name, _try(pieces, grid), period, longest_s, "rate",
                                f"'{name}' is not the rate of '{spec.state_names[whole]}'"))
    return out


def _require(runs: Sequence[Run], longest_s: float) -> None:
    if not runs:
        raise DataError("no runs were given; give logs of the robot")
    if not 0 < longest_s < np.inf:
        raise UserError(f"longest_s = {longest_s:g} is no time to look for delays in; give a number of seconds above 0")


def _period(runs: Sequence[Run]) -> float:
    return float(np.median([r.period for r in runs]))


def unknown(name: str, longest_s: float, reason: str, method: str) -> AxisDelay:
    """An axis whose delay may be anything up to `longest_s`, and why."""
    return AxisDelay(name, float("nan"), 0.0, longest_s, False, reason, method, False)


def _still(runs: Sequence[Run], spec: RobotSpec, a: int) -> AxisDelay | None:
    name, width = spec.command_names[a], float(spec.action_high[a] - spec.action_low[a])
    moved = max(float(np.ptp(r.command[:, a])) for r in runs)
    if moved > STILL * width:
        return None
    return unknown(name, LONGEST_S, f"command '{name}' hardly changes in any run (by {moved:.3g} of {width:.3g} at most); record with "
                    "excitation on this axis", "regression")


def _output(spec: RobotSpec, axis: Axis) -> list[int]:
    """State signals whose change shows the command: the rate of its joint, else the signal that tracks it, else all rates."""
    rate_of = {whole: rate for whole, rate in spec.rate_pairs}
    if axis.rate is not None:
        return [axis.rate]
    if axis.tracks is not None:
        return [rate_of.get(axis.tracks, axis.tracks)]
    rates = [i for i, s in enumerate(spec.state) if s.unit in ("m/s", "rad/s") or s.rate_of is not None]
    alone = [i for i, s in enumerate(spec.state) if axis.kind != "effort" and s.unit == "rad" and i not in rate_of]
    return rates + alone


def _memory(runs: Sequence[Run], a: int) -> float:
    """Least time, of all runs that move it, in which a command's autocorrelation falls to one half, s."""
    period, found = _period(runs), []
    for run in runs:
        at = np.arange(run.time[0], run.time[-1], period)
        u = run.command[np.searchsorted(run.time, at, side="right") - 1, a]
        if np.ptp(u) > 0:
            kept = np.fft.irfft(np.abs(np.fft.rfft(u - u.mean(), 2 * len(u))) ** 2)[: len(u)]
            below = np.flatnonzero(kept < 0.5 * kept[0])
            found.append(float(below[0] if len(below) else len(u)) * period)
    return min(found, default=period)


def _grid(runs: Sequence[Run], a: int, longest_s: float) -> np.ndarray:
    """[D] delays to try, s: a period apart, or as far as the command keeps to itself, but not fewer than 40 up to `longest_s`."""
    period = _period(runs)
    step = max(period, min(longest_s / 40, 0.5 * _memory(runs, a)))
    return np.asarray(np.arange(-EARLY * period, SEARCH * longest_s + 0.5 * step, step))


def _together(runs: Sequence[Run], a: int) -> int:
    """Samples that are averaged: a quarter of the time in which the command keeps to itself, so that noise counts less."""
    shortest = min(r.duration for r in runs)
    return max(1, round(min(0.25 * _memory(runs, a), COARSEST_S, shortest / LEAST_ROWS) / _period(runs)))


def _begin(run: Run, longest_s: float) -> int:
    """The first sample that every delay in question finds a command before."""
    return int(np.searchsorted(run.time, run.time[0] + min(longest_s, 0.25 * run.duration)))


def _input(run: Run, a: int, weights: np.ndarray, since: int, count: int) -> Callable[[float], np.ndarray]:
    source, time = held(run.time, run.command[:, a]), run.time[since:]
    return lambda delay: averaged(summed(time, weights * (_means(source, time, delay)[:, None])), count)


def _means(source: Integral, time: np.ndarray, delay: float) -> np.ndarray:
    return np.diff(source(time - delay)) / np.diff(time)


def _moving(run: Run, functions: Basis, output: int, a: int, delays: np.ndarray, since: int, count: int) -> Piece:
    time, state = run.time[since:], smoothed(run, count)[since:]
    middle = 0.5 * (state[:-1] + state[1:])
    weights = functions.weights(middle)
    others = [_input(run, b, weights, since, count)(float(delays[b])) for b in range(run.command.shape[1])
              if b != a and np.ptp(run.command[:, b]) > 0]
    known = averaged(summed(time, functions.columns(middle)), count)
    target = averaged(run.state[since:, output] - run.state[since, output], count)
    return Piece(target, np.concatenate([known, *others], axis=1), _input(run, a, weights, since, count))


def smoothed(run: Run, count: int) -> np.ndarray:
    """[T, S] states without what is faster than means of `count` samples show."""
    return low_pass(run.state, run.period, SMOOTH / (count * run.period)) if count > 1 else run.state


def _regression(runs: Sequence[Run], spec: RobotSpec, functions: Basis, outputs: list[int], a: int, delays: np.ndarray,
                longest_s: float) -> AxisDelay:
    name = spec.command_names[a]
    if not outputs:
        return unknown(name, longest_s, f"no rate in the state shows what command '{name}' does; add a signal with 'rate_of' to the "
                        "robot's YAML", "regression")
    usable = [r for r in runs if len(r.time) - _begin(r, longest_s) > 2 * ORDER]
    made, count = [], _together(runs, a)
    for output in outputs:
        pieces = [_moving(r, functions, output, a, delays, _begin(r, longest_s), count) for r in usable]
        made.append(_try(pieces, _grid(runs, a, longest_s)))
    best = max(made, key=lambda m: m.effect if isinstance(m, Profile) else -1.0)
    return _verdict(name, best, _period(runs), longest_s, "regression",
                    f"what command '{name}' does to {', '.join(spec.state_names[o] for o in outputs)} cannot be told from chance")


def _try(pieces: list[Piece], grid: np.ndarray) -> Profile | str:
    try:
        return profile(pieces, grid)
    except DataError as error:
        return str(error)


def _verdict(name: str, made: Profile | str, period: float, longest_s: float, method: str, no_effect: str) -> AxisDelay:
    if isinstance(made, str):
        return unknown(name, longest_s, made, method)
    if by_chance(made):
        return unknown(name, longest_s, f"{no_effect}; record with more excitation", method)
    return judged(AxisDelay(name, made.delay_s, made.low_s, made.high_s, True, "", method), period, longest_s, made.elsewhere)


def by_chance(made: Profile) -> bool:
    """Whether what an input does may be chance."""
    return made.effect < CHANCE + CHANCE_EACH * made.moved


def judged(found: AxisDelay, period: float, longest_s: float, elsewhere: bool = False) -> AxisDelay:
    """The delay as it is, or refused with the reason, by its interval.

    Args:
        found: with its interval.
        period: between samples, s.
        longest_s: longest delay looked for, s.
        elsewhere: delays outside the interval are as likely.
    """
    width, reason = found.high_s - found.low_s, ""
    span = f"{found.low_s:.3g} to {found.high_s:.3g} s"
    if found.delay_s > longest_s:
        reason = f"the most likely delay ({span}) is beyond the longest looked for, {longest_s:g} s; look for longer ones"
    elif elsewhere:
        reason = (f"delays far apart are as likely (one is {span}): the command repeats itself or follows the state; excite "
                  "with a multisine or random steps")
    elif found.high_s >= longest_s:
        reason = f"the interval ({span}) reaches the end of the search, {longest_s:g} s; search further, or excite with faster changes"
    elif width > max(4 * period, 0.04, 0.6 * abs(found.delay_s)):
        reason = f"the interval ({span}) is too wide; excite with faster or stronger changes, or record longer"
    elif found.high_s < -0.5 * period and found.method != "rate":
        reason = (f"the effect comes before the command ({span}): times of the command and of the state are not of one clock, or "
                  "columns are mixed up")
    return replace(found, determined=False, delay_s=float("nan"), reason=f"'{found.name}': {reason}") if reason else found


def _with_physics(runs: Sequence[Run], spec: RobotSpec, found: list[AxisDelay], longest_s: float) -> list[AxisDelay]:
    """Delays by the mechanism of the nominal section, where there is one and the command does something."""
    system = spec.nominal.system if spec.nominal else ""
    open_axes = [a for a, f in enumerate(found) if f.effect and f.low_s < longest_s]
    if not system or not open_axes or importlib.util.find_spec(f"mbrl_calibration.mechanisms.{system}") is None:
        return found
    unsure = any(not found[a].determined for a in open_axes)
    starts = [np.array([f.delay_s if f.determined else f.low_s + share * (f.high_s - f.low_s) for f in found]).clip(0.0, longest_s)
              for share in ((0.5, 0.1, 0.3, 0.7, 0.9) if unsure else (0.5,))]
    count = min(_together(runs, a) for a in open_axes)
    stretches = [delay_physics.Stretch(r, smoothed(r, count), _begin(r, longest_s)) for r in runs]
    refined = delay_physics.refine(stretches, spec, starts, np.array(open_axes), count)
    if refined is None:
        return found
    out = list(found)
    for place, a in enumerate(open_axes):
        delay, half = float(refined.delay_s[place]), float(refined.half_s[place])
        out[a] = judged(AxisDelay(found[a].name, delay, delay - half, delay + half, True, "", "physics"), _period(runs), longest_s)
    return out


def _sensed(run: Run, a: int, longest_s: float) -> Piece:
    """A sensor's samples beside the command's mean over the period around each."""
    since = _begin(run, longest_s)
    time, source, half = run.time[since:], held(run.time, run.command[:, a]), 0.5 * run.period
    return Piece(run.measured[since:, a], np.empty((len(time), 0)),
                 lambda delay: ((source(time - delay + half) - source(time - delay - half)) / (2 * half))[:, None])


def _lagged(run: Run, whole: int, rate: int, longest_s: float) -> Piece:
    """A position beside the integral of its rate, which shows what it was `delay` ago."""
    inside = (run.time > run.time[0] + longest_s) & (run.time < run.time[-1] - longest_s)
    time, source = run.time[inside], joined(run.time, run.state[:, rate])
    return Piece(run.state[inside, whole], (time - time[:1])[:, None], lambda lag: (source(time + lag) - source(time[:1] + lag))[:, None])
