"""Where the zeros of a run's positions are: what must be added to them for the known equations to hold.

A joint whose zero is set where it hangs at rest hangs anywhere that dry friction holds it against gravity.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mbrl_calibration import shooting
from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.runs import Run

STEP_S, SUBSTEPS, SEGMENT_S = 0.01, 8, 2.0
FIRST_S = 2.0
"""So much of a run that nothing was fitted to tells its zeros; the rest is judged."""


def moved(run: Run, m: Mechanism, by: np.ndarray) -> Run:
    """A run with [n] `by` added to its positions."""
    state = run.state.copy()
    state[:, m.positions] += by
    return replace(run, state=state)


def find(run: Run, m: Mechanism, values: np.ndarray, delays: np.ndarray, measured: bool, spread: float) -> np.ndarray:
    """[n] what must be added to the positions of a run, with the parameters as they are, rad or m.

    Args:
        run: the data; a second or two are enough where gravity is felt.
        m: the mechanism.
        values: [P] its parameters.
        delays: [A] time from command to effect, s.
        measured: drive with sensors' efforts where there are any.
        spread: how great it is thought to be, one standard deviation of a normal distribution.

    Raises:
        DataError: the run is too short.
    """
    step_s = run.period * max(1, round(STEP_S / run.period))
    length = min(SEGMENT_S, run.duration - float(np.max(delays, initial=0.0)) - 4 * step_s)
    setting = shooting.Settings(length, 1, step_s, SUBSTEPS, known=m.names, zero=spread)
    found: np.ndarray = shooting.fit(shooting.cut([run], m, delays, measured, setting), m, values, setting).zeros[0]
    return found


def settled(run: Run, m: Mechanism, values: np.ndarray, delays: np.ndarray, measured: bool, spread: float, first_s: float = FIRST_S) -> Run:
    """What follows the first seconds of a run, with its zeros as these tell them; see `find`. The whole run as it is where it is too short.

    Raises:
        DataError: the first seconds are too short.
    """
    if run.duration < 2 * first_s:
        return run
    by = find(run.cut(0.0, first_s), m, values, delays, measured, spread)
    return moved(run.cut(first_s, run.duration), m, by)
