"""The delay of each command axis up to the motion that it makes, to a fraction of a sample and with an interval."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np

from mbrl_calibration import car, delay_physics
from mbrl_calibration.axis_delay import (
    LONGEST_S,
    AxisDelay,
    by_profile,
    delays_to_try,
    first_row,
    judged,
    keeps_for,
    period_of,
    require,
    still,
    unknown,
)
from mbrl_calibration.features import Basis, basis
from mbrl_calibration.profile import Integral, Piece, averaged, held, summed
from mbrl_calibration.runs import Run
from mbrl_calibration.signals import low_pass
from mbrl_calibration.whitening import ORDER
from mbrl_control.axes import Axis
from mbrl_control.robot import RobotSpec

STARTS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Delays, as shares of the longest, that the search by a mechanism starts from where a regression does not tell."""

ACTS = 50.0
"""Likelihood ratio of a mechanism's command acting, beside others, above which no regression need tell that it does: that of a single
command is always 0, for one without effect looks like one that moves heavy masses."""

STEPPING = 0.05
"""Share of a sample that smoothing and integration by midpoints may shift a mechanism's delay by; part of its interval."""

COARSEST_S = 0.05
"""Longest time over which samples are averaged, s."""

LEAST_ROWS = 200
"""Averages that a run should come to."""

SMOOTH = 0.3
"""Cut-off of states that enter functions, times the averaging time."""


def estimate(runs: Sequence[Run], spec: RobotSpec, longest_s: float = LONGEST_S) -> list[AxisDelay]:
    """The delay from each command to the motion that it makes, as measured: the actuator's and the sensor's together.

    The tracked rate (of a speed command, the speed; of a position command, the rate of the position) is regressed on its own integral
    equation: functions of the state and the command in force `delay` before. Where the robot's `nominal` section names a mechanism,
    its equations then replace the functions of the state, and parameters and delays of all axes are found together; a car is
    left to `car.fit`. Runs from bags tell when commands came to their grid only: read them with a finer `rate_hz` than the tick.

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
    require(runs, longest_s)
    if spec.nominal is not None and spec.nominal.system == "car":
        made = car.fit(runs, spec, longest_s)
        return sorted((made.steering, made.speed), key=lambda d: spec.command_names.index(d.name))
    functions = basis(np.concatenate([r.state for r in runs]), spec)
    delays = np.minimum(spec.delays, longest_s)
    quiet = [still(runs, spec, a, longest_s) for a in range(spec.action_dim)]
    found = {a: made for a, made in enumerate(quiet) if made is not None}
    moving = [a for a in range(spec.action_dim) if a not in found]
    for _ in range(2 if len(moving) > 1 else 1):  # again, the delays of the others known
        for a in moving:
            found[a] = _regression(runs, spec, functions, a, delays, longest_s)
            delays[a] = found[a].delay_s if found[a].determined else delays[a]
    return _with_physics(runs, spec, [found[a] for a in range(spec.action_dim)], moving, longest_s)


def _outputs(spec: RobotSpec, axis: Axis) -> list[int]:
    """State signals whose change shows the command: the rate of its joint, else the signal that tracks it, else all rates."""
    rate_of = {whole: rate for whole, rate in spec.rate_pairs}
    if axis.rate is not None:
        return [axis.rate]
    if axis.tracks is not None:
        return [rate_of.get(axis.tracks, axis.tracks)]
    rates = [i for i, s in enumerate(spec.state) if s.unit in ("m/s", "rad/s") or s.rate_of is not None]
    alone = [i for i, s in enumerate(spec.state) if axis.kind != "effort" and s.unit == "rad" and i not in rate_of]
    return rates + alone


def _together(runs: Sequence[Run], a: int) -> int:
    """Samples that are averaged: a quarter of the time in which the command keeps to itself, so that noise counts less."""
    shortest = min(r.duration for r in runs)
    return max(1, round(min(0.25 * keeps_for(runs, a), COARSEST_S, shortest / LEAST_ROWS) / period_of(runs)))


def _input(run: Run, a: int, weights: np.ndarray, since: int, count: int) -> Callable[[float], np.ndarray]:
    source, time = held(run.time, run.command[:, a]), run.time[since:]
    return lambda delay: averaged(summed(time, weights * (_means(source, time, delay)[:, None])), count)


def _means(source: Integral, time: np.ndarray, delay: float) -> np.ndarray:
    return np.diff(source(time - delay)) / np.diff(time)


def _moving(run: Run, functions: Basis, output: int, a: int, others: list[int], delays: np.ndarray, since: int, count: int
            ) -> Piece:
    time, state = run.time[since:], smoothed(run, count)[since:]
    middle = 0.5 * (state[:-1] + state[1:])
    weights = functions.weights(middle)
    beside = [_input(run, b, weights, since, count)(float(delays[b])) for b in others]
    known = averaged(summed(time, functions.columns(middle)), count)
    target = averaged(run.state[since:, output] - run.state[since, output], count)
    return Piece(target, np.concatenate([known, *beside], axis=1), _input(run, a, weights, since, count))


def smoothed(run: Run, count: int) -> np.ndarray:
    """[T, S] states without what is faster than means of `count` samples show."""
    return low_pass(run.state, run.period, SMOOTH / (count * run.period)) if count > 1 else run.state


def _regression(runs: Sequence[Run], spec: RobotSpec, functions: Basis, a: int, delays: np.ndarray, longest_s: float) -> AxisDelay:
    name, outputs = spec.command_names[a], _outputs(spec, spec.axes[a])
    if not outputs:
        return unknown(name, longest_s, f"no rate in the state shows what command '{name}' does; add a signal with 'rate_of' to the "
                       "robot's YAML", "regression")
    count, grid = _together(runs, a), delays_to_try(runs, a, longest_s)
    others = [b for b in range(spec.action_dim) if b != a and any(np.ptp(r.command[:, b]) > 0 for r in runs)]
    usable = [(r, first_row(r, longest_s)) for r in runs if len(r.time) - first_row(r, longest_s) > 2 * ORDER * count]
    made = []
    for output in outputs:
        pieces = [_moving(r, functions, output, a, others, delays, since, count) for r, since in usable]
        made.append(by_profile(name, pieces, grid, period_of(runs), longest_s, "regression", f"what command '{name}' does to "
                               f"{', '.join(spec.state_names[o] for o in outputs)} cannot be told from chance"))
    return max(made, key=lambda m: m[1].effect if m[1] is not None else -1.0)[0]


def _with_physics(runs: Sequence[Run], spec: RobotSpec, found: list[AxisDelay], moving: list[int], longest_s: float) -> list[AxisDelay]:
    """Delays of all commands that move by the mechanism of the nominal section, where there is one."""
    system = spec.nominal.system if spec.nominal else ""
    if not system or not moving or importlib.util.find_spec(f"mbrl_calibration.mechanisms.{system}") is None:
        return found
    shares = (0.5,) if all(found[a].determined for a in moving) else STARTS
    starts = [np.array([f.delay_s if f.determined else share * longest_s for f in found]).clip(0.0, longest_s) for share in shares]
    count = min(_together(runs, a) for a in moving)
    stretches = [delay_physics.Stretch(r, smoothed(r, count), first_row(r, longest_s)) for r in runs]
    refined = delay_physics.refine(stretches, spec, starts, np.array(moving), count)
    if refined is None:
        return found
    out = list(found)
    halves = np.hypot(refined.half_s, STEPPING * period_of(runs))
    for a, delay, half, effect in zip(moving, refined.delay_s.tolist(), halves.tolist(), refined.effect.tolist(), strict=True):
        made = AxisDelay(found[a].name, delay, delay - half, delay + half, True, "", "physics")
        told = f"command '{made.name}' does nothing that its mechanism could not do without it; record with more excitation"
        acts = effect > ACTS or found[a].effect
        out[a] = judged(made, period_of(runs), longest_s) if acts else unknown(made.name, longest_s, told, "physics")
    return out
