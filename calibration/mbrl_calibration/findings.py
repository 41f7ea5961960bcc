"""Findings: what is wrong with a log, and small tools to look for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mbrl_calibration.runs import Run

SMOOTH = 0.5
"""Least correlation from sample to sample of a signal that is motion and not noise."""

MISFIT = 0.5
"""Correlation below which two signals do not belong together."""

NEAR = 0.1
"""Greatest relative distance from a factor between units that is taken for it."""


@dataclass(frozen=True)
class Finding:
    """A fault of a log.

    Attributes:
        code: which kind: no_excitation, no_motion, gaps, time_units, units, scale, sign, swapped, mismatch, duplicate, stuck, saturated,
            beyond_limits, fast, measured_swapped, measured_sign, measured_units, measured_gain or speed_sensor.
        severity: `refuse` where a fit would be confidently wrong, else `warn`.
        sentence: run, signal, time, value and what to do.
    """

    code: str
    severity: Literal["refuse", "warn"]
    sentence: str


def refuse(code: str, where: str, what: str, do: str) -> Finding:
    """A fault that forbids a fit: its place, what is wrong, and what to do."""
    return Finding(code, "refuse", f"{where}: {what}; {do}")


def warn(code: str, where: str, what: str, do: str) -> Finding:
    """A fault to know of: its place, what is wrong, and what to do."""
    return Finding(code, "warn", f"{where}: {what}; {do}")


def smoothness(values: np.ndarray) -> float:
    """Correlation from sample to sample of a signal [T]; 0 for a constant."""
    about = values - values.mean()
    power = float(about @ about)
    return float(about[1:] @ about[:-1]) / power if power > 0 else 0.0


def stretches(values: np.ndarray) -> list[tuple[int, int]]:
    """[begin, end) of the stretches in which a signal [T] keeps exactly one value, those of 3 samples and more."""
    edges = np.flatnonzero(np.diff(values) != 0) + 1
    ends = zip(np.append(0, edges).tolist(), np.append(edges, len(values)).tolist(), strict=True)
    return [(begin, end) for begin, end in ends if end - begin >= 3]


def quantum(values: np.ndarray) -> float:
    """The least step of a signal [T]; 0 for a constant."""
    steps = np.abs(np.diff(values))
    return float(steps[steps > 0].min()) if (steps > 0).any() else 0.0


def since(run: Run, row: int) -> str:
    """`1.5 s after the start`."""
    return f"{run.time[row] - run.time[0]:.3g} s after the start"
