"""Free runs: how far a simulation that knows only the start and the inputs is from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mbrl_calibration.mechanism import Mechanism, step
from mbrl_calibration.runs import Run
from mbrl_calibration.signals import low_pass
from mbrl_control.data.sequences import effective_action
from mbrl_control.errors import DataError

STEP_S = 0.005
STRIDE_S = 0.1
SMOOTH_HZ = 20.0
"""Starts are measured states after a low-pass without phase: their noise is no fault of the model."""


@dataclass(frozen=True)
class FreeRun:
    """Free runs of one length from many starts.

    Attributes:
        horizon_s: their length.
        rmse: root mean square over time, starts and coordinates of the positions' error, rad or m; inf where a run diverged.
        each: [n] of each coordinate.
        starts: how many.
    """

    horizon_s: float
    rmse: float
    each: np.ndarray
    starts: int


def drive(run: Run, measured: bool) -> tuple[np.ndarray, np.ndarray]:
    """[T, A] inputs of a run and [A] bool whether they were measured: sensors' word where there is one and it is wanted, else commands."""
    sensed = ~np.isnan(run.measured).any(0) & measured
    return np.where(sensed, run.measured, run.command), sensed


def simulate(run: Run, m: Mechanism, values: np.ndarray, delays: np.ndarray, measured: bool, starts: np.ndarray, steps: int,
             step_s: float = STEP_S) -> tuple[np.ndarray, np.ndarray]:
    """Simulations from many instants of a run.

    Args:
        run: gives starts and inputs.
        m: the mechanism.
        values: [P] its parameters.
        delays: [A] time from command to effect, s; sensors' efforts have none.
        measured: drive with sensors' efforts where there are any.
        starts: [G] times, s.
        steps: K.
        step_s: length of each, s.

    Returns:
        [G, K + 1, 2 n] simulated and [G, K + 1, 2 n] measured (smoothed) states.
    """
    order = np.concatenate((m.positions, m.rates))
    grid = np.arange(run.time[0], run.time[-1], step_s)
    smooth = low_pass(np.stack([np.interp(grid, run.time, run.state[:, i]) for i in order], axis=1), step_s, SMOOTH_HZ)
    given, sensed = drive(run, measured)
    lag = np.where(sensed, 0.0, delays)
    one = step(m, given.shape[1], step_s, 1).map(len(starts))
    at = starts[:, None] + step_s * np.arange(steps + 1)
    truth = np.stack([np.interp(at, grid, column) for column in smooth.T], axis=-1)
    x = truth[:, 0].T
    out = [x.T]
    for k in range(steps):
        x = one(x, effective_action(run.time, given, at[:, k], step_s, lag).T, values).full()
        out.append(x.T)
    return np.stack(out, axis=1), truth


def free_run(runs: Sequence[Run], m: Mechanism, values: np.ndarray, delays: np.ndarray, measured: bool, horizon_s: float) -> FreeRun:
    """Free runs from every `STRIDE_S` of every run.

    Args:
        runs, m, values, delays, measured: see `simulate`.
        horizon_s: length of the free runs.

    Raises:
        DataError: no run is long enough.
    """
    errors = []
    lag = float(np.max(delays, initial=0.0))
    for run in runs:
        starts = np.arange(run.time[0] + max(STRIDE_S, lag), run.time[-1] - horizon_s - STRIDE_S, STRIDE_S)
        if len(starts):
            simulated, truth = simulate(run, m, values, delays, measured, starts, round(horizon_s / STEP_S))
            errors.append((simulated - truth)[:, 1:, : m.count])
    if not errors:
        raise DataError(f"no run is long enough for free runs of {horizon_s:g} s (the longest has {max(r.duration for r in runs):.3g} s)")
    squares = np.concatenate(errors) ** 2
    each = np.sqrt(squares.mean((0, 1)))
    each = np.where(np.isfinite(each), each, np.inf)
    return FreeRun(horizon_s, float(np.sqrt((each**2).mean())), each, len(squares))
