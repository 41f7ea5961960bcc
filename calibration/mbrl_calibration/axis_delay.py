"""The delay of one axis, and whether logs determine it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mbrl_calibration.profile import Piece, Profile, profile
from mbrl_calibration.runs import Run
from mbrl_control.errors import DataError, UserError
from mbrl_control.robot import RobotSpec

LONGEST_S = 0.5
"""How far the search for a delay goes by default, s."""

EARLY = 3
"""Periods before the command at which the search begins: an effect that comes first is a fault of the log, and told."""

SEARCH = 4
"""The search goes on to so many times the longest delay, so that one beyond it is told and none within it taken for it."""

CHANCE, CHANCE_EACH = 20.0, 10.0
"""Likelihood ratio of an input below which what it does may be chance, over all delays that are tried: and so much for each column."""

STILL = 1e-3
"""A command that changes by less than this share of its limits does not move the robot."""


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


def unknown(name: str, longest_s: float, reason: str, method: str) -> AxisDelay:
    """An axis whose delay may be anything up to `longest_s`, and why."""
    return AxisDelay(name, float("nan"), 0.0, longest_s, False, reason, method, False)


def by_profile(name: str, pieces: Sequence[Piece], grid: np.ndarray, period: float, longest_s: float, method: str, no_effect: str
               ) -> tuple[AxisDelay, Profile | None]:
    """The delay of a regression (see `profile`), or why it is not determined.

    Args:
        name: of the axis.
        pieces: stretches of logs.
        grid: [D] delays to try, s; further than `longest_s`, so that one beyond it is not taken for one within.
        period: between samples, s.
        longest_s: longest delay looked for, s.
        method: of the delay.
        no_effect: a sentence for an input that does nothing.

    Returns:
        It, and the profile where there are samples enough for one.
    """
    try:
        made = profile(pieces, grid)
    except DataError as error:
        return unknown(name, longest_s, str(error), method), None
    if made.effect < CHANCE + CHANCE_EACH * made.moved:
        return unknown(name, longest_s, f"{no_effect}; record with more excitation", method), made
    return judged(AxisDelay(name, made.delay_s, made.low_s, made.high_s, True, "", method), period, longest_s, made.elsewhere), made


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


def require(runs: Sequence[Run], longest_s: float) -> None:
    """Refuse what no delay can be looked for in.

    Raises:
        DataError: no runs.
        UserError: `longest_s` is not above 0.
    """
    if not runs:
        raise DataError("no runs were given; give logs of the robot")
    if not 0 < longest_s < np.inf:
        raise UserError(f"longest_s = {longest_s:g} is no time to look for delays in; give a number of seconds above 0")


def period_of(runs: Sequence[Run]) -> float:
    """Time between samples, s: the median run's."""
    return float(np.median([r.period for r in runs]))


def still(runs: Sequence[Run], spec: RobotSpec, a: int, longest_s: float) -> AxisDelay | None:
    """That a command hardly changes and tells nothing; None where it does."""
    name, width = spec.command_names[a], float(spec.action_high[a] - spec.action_low[a])
    moved = max(float(np.ptp(r.command[:, a])) for r in runs)
    if moved > STILL * width:
        return None
    return unknown(name, longest_s, f"command '{name}' hardly changes in any run (by {moved:.3g} of {width:.3g} at most); record with "
                    "excitation on this axis", "regression")


def keeps_for(runs: Sequence[Run], a: int) -> float:
    """Least time, of all runs that move it, in which a command's autocorrelation falls to one half, s."""
    period, found = period_of(runs), []
    for run in runs:
        at = np.arange(run.time[0], run.time[-1], period)
        u = run.command[np.searchsorted(run.time, at, side="right") - 1, a]
        if np.ptp(u) > 0:
            kept = np.fft.irfft(np.abs(np.fft.rfft(u - u.mean(), 2 * len(u))) ** 2)[: len(u)]
            below = np.flatnonzero(kept < 0.5 * kept[0])
            found.append(float(below[0] if len(below) else len(u)) * period)
    return min(found, default=period)


def delays_to_try(runs: Sequence[Run], a: int, longest_s: float) -> np.ndarray:
    """[D] delays to try, s: a period apart, or as far as the command keeps to itself, but not fewer than 40 up to `longest_s`."""
    period = period_of(runs)
    step = max(period, min(longest_s / 40, 0.5 * keeps_for(runs, a)))
    return np.asarray(np.arange(-EARLY * period, SEARCH * longest_s + 0.5 * step, step))


def first_row(run: Run, longest_s: float) -> int:
    """The first sample that every delay in question finds a command before."""
    return int(np.searchsorted(run.time, run.time[0] + min(longest_s, 0.25 * run.duration)))
