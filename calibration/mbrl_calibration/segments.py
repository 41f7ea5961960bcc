"""Runs cut into segments, each of them a free run with a start of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mbrl_calibration.free_run import drive
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.runs import Run
from mbrl_control.data.sequences import effective_action
from mbrl_control.errors import DataError

SLOPE_S = 1e-3
"""Half the step of the difference quotient of commands in their delay."""


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
