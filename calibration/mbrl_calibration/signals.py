"""Signals of a run on an even grid: low-pass without phase, derivatives, commands as they were in force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

from mbrl_calibration.runs import Run
from mbrl_control.data.sequences import effective_action
from mbrl_control.errors import DataError

LEAST = 1e-12
ORDER = 3
"""Of the Butterworth filter, which runs forward and back."""


@dataclass(frozen=True)
class Even:
    """A run on an even grid.

    Attributes:
        name: of the run.
        time: [T] s.
        state: [T, S] linear between the samples.
        command: [T, A] mean of what was in force over the period around each time, delays removed as asked.
        measured: [T, A] linear between the samples; nan where there is no sensor.
        period: of the grid, s.
    """

    name: str
    time: np.ndarray
    state: np.ndarray
    command: np.ndarray
    measured: np.ndarray
    period: float


def even(run: Run, period: float, delays: np.ndarray) -> Even:
    """Put a run on an even grid.

    Args:
        run: with samples at any times.
        period: of the grid, s.
        delays: [A] time from command to effect, s; commands are shifted by so much.

    Raises:
        DataError: the run is shorter than four periods and the delay.
    """
    begin = run.time[0] + float(np.max(delays, initial=0.0)) + 0.5 * period
    time = np.arange(begin, run.time[-1] - 0.5 * period, period)
    if len(time) < 4:
        raise DataError(f"{run.name}: {run.duration:.3g} s are too short for steps of {period:g} s; record longer")

    def between(columns: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(time, run.time, column) for column in columns.T], axis=1)

    command = effective_action(run.time, run.command, time - 0.5 * period, period, delays)
    return Even(run.name, time, between(run.state), command, between(run.measured), period)


def low_pass(values: np.ndarray, period: float, cutoff_hz: float) -> np.ndarray:
    """[T, ...] columns through a Butterworth filter of order `ORDER`, forward and back: no phase, twice the attenuation.

    Args:
        values: [T, ...] on an even grid.
        period: of the grid, s.
        cutoff_hz: where one pass has -3 dB; at or above half the sampling rate nothing is done.
    """
    if cutoff_hz >= 0.5 / period:
        return values
    b, a = signal.butter(ORDER, 2 * cutoff_hz * period)
    return np.asarray(signal.filtfilt(b, a, values, axis=0, padlen=min(len(values) - 1, 3 * max(len(a), len(b)))))


def derivative(values: np.ndarray, period: float) -> np.ndarray:
    """[T, ...] central differences along time, one-sided at the ends."""
    return np.asarray(np.gradient(values, period, axis=0))


def despike(values: np.ndarray, half_width: int = 5, threshold: float = 6.0) -> np.ndarray:
    """[T, ...] columns with samples that stand out of their neighbourhood replaced by its median (Hampel 1974).

    Args:
        values: [T, ...].
        half_width: neighbours on either side.
        threshold: greatest distance from the median, in standard deviations: of the neighbourhood by the median of absolute
            deviations, or of the whole signal by nine tenths of them, whichever are greater (a coarse sensor may not move for a while).
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, [(half_width, half_width)] + [(0, 0)] * (values.ndim - 1), "edge"),
                                                       2 * half_width + 1, axis=0)
    median = np.median(windows, axis=-1)
    spread = 1.4826 * np.median(np.abs(windows - median[..., None]), axis=-1)
    usual = np.quantile(np.abs(values - median), 0.9, axis=0) / 1.645
    return np.where(np.abs(values - median) > threshold * np.maximum(np.maximum(spread, usual), LEAST), median, values)
