"""Delays that sensors show by themselves: from a command to the sensor that measures it, and of rates behind their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mbrl_calibration.axis_delay import LONGEST_S, AxisDelay, by_profile, delays_to_try, first_row, period_of, require, still, unknown
from mbrl_calibration.profile import Piece, held, joined
from mbrl_calibration.runs import Run
from mbrl_control.robot import RobotSpec


def of_sensors(runs: Sequence[Run], spec: RobotSpec, longest_s: float = LONGEST_S) -> list[AxisDelay]:
    """The delay from each command to the sensor that measures what it came to (`nominal.measured`).

    Returns:
        One for each command that has such a sensor.

    Raises:
        DataError: no runs.
        UserError: `longest_s` is not above 0.
    """
    require(runs, longest_s)
    out = []
    for a, name in enumerate(spec.command_names):
        if any(np.isnan(r.measured[:, a]).all() for r in runs):
            continue
        quiet = still(runs, spec, a, longest_s)
        pieces = [_sensed(r, a, longest_s) for r in runs]
        out.append(replace(quiet, method="sensor") if quiet else
                   by_profile(name, pieces, delays_to_try(runs, a, longest_s), period_of(runs), longest_s, "sensor",
                              f"the sensor of command '{name}' does not follow it")[0])
    return out


def of_rates(runs: Sequence[Run], spec: RobotSpec, longest_s: float = 0.1) -> list[AxisDelay]:
    """How far each measured rate lags behind the motion that its position shows, such as by a filter on it.

    Returns:
        One for each `rate_of`; below 0 where the position lags behind the rate.

    Raises:
        DataError: no runs.
        UserError: `longest_s` is not above 0.
    """
    require(runs, longest_s)
    period, out = period_of(runs), []
    for whole, rate in spec.rate_pairs:
        grid = np.arange(-longest_s, longest_s + 0.5 * period, period)
        pieces = [_lagged(r, whole, rate, longest_s) for r in runs]
        name = spec.state_names[rate]
        if max(float(np.ptp(r.state[:, rate])) for r in runs) == 0.0:
            out.append(unknown(name, longest_s, f"'{name}' never changes in any run; move the joint", "rate"))
        else:
            out.append(by_profile(name, pieces, grid, period, longest_s, "rate",
                                  f"'{name}' is not the rate of '{spec.state_names[whole]}'")[0])
    return out


def _sensed(run: Run, a: int, longest_s: float) -> Piece:
    """A sensor's samples beside the command's mean over the period around each."""
    since = first_row(run, longest_s)
    time, source, half = run.time[since:], held(run.time, run.command[:, a]), 0.5 * run.period
    return Piece(run.measured[since:, a], np.empty((len(time), 0)),
                 lambda delay: ((source(time - delay + half) - source(time - delay - half)) / (2 * half))[:, None])


def _lagged(run: Run, whole: int, rate: int, longest_s: float) -> Piece:
    """A position beside the integral of its rate, which shows what it was `delay` ago."""
    inside = (run.time > run.time[0] + longest_s) & (run.time < run.time[-1] - longest_s)
    time, source = run.time[inside], joined(run.time, run.state[:, rate])
    return Piece(run.state[inside, whole], (time - time[:1])[:, None], lambda lag: (source(time + lag) - source(time[:1] + lag))[:, None])
