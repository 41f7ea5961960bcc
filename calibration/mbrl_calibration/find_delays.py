"""The step of a calibration that finds rhythms, clocks and delays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mbrl_calibration import delay, times
from mbrl_calibration.page import Table
from mbrl_calibration.session import Session
from mbrl_control.data.bags import read_bag
from mbrl_control.errors import DataError


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _clocks(session: Session, file: Path) -> list[times.TopicTimes]:
    """The times of a bag's topics; none for what is no bag."""
    try:
        recording = read_bag(file, [*(s.topic for s in session.spec.state), *(c.topic for c in session.spec.command)])
    except (DataError, OSError):
        return []
    return times.of_bag(recording, session.spec)


def tell_times(session: Session) -> None:
    """How regularly samples come, and how the clocks that stamp them differ."""
    topics = [t for file in session.files if file.suffix.lower() != ".csv" for t in _clocks(session, file)]
    found = [t.receipt for t in topics] or times.of_runs(session.train)
    session.show(Table("Rhythm", ("samples of", "period, ms", "jitter 68 %, ms", "99 %, ms", "longest, ms", "dropped"),
                       tuple((r.name, _ms(r.period_s), _ms(r.jitter_s), _ms(r.late_s), _ms(r.longest_s), str(r.dropped)) for r in found)))
    clocks = [t.clock for t in topics if t.clock is not None]
    if clocks:
        session.show(Table("Stamps against receipt", ("topic", "offset, ms", "95 %", "drift, ppm", "95 %"),
                           tuple((c.name, _ms(c.offset_s), f"{_ms(c.low_s)} … {_ms(c.high_s)}", f"{c.drift_ppm:.3g}",
                                  f"{c.low_ppm:.3g} … {c.high_ppm:.3g}") for c in clocks)))
    session.notes += [f"{c.name}: {c.problem}" for c in clocks if c.problem]
    session.figures["times"] = {"rhythm": [vars(r) for r in found], "clocks": [vars(c) for c in clocks]}


def find_delays(session: Session) -> np.ndarray:
    """Find the delay of each command.

    Returns:
        [A] those found, none below 0 as intervals may be; where the logs do not determine one, that of the YAML, s.
    """
    found = delay.estimate(session.train, session.spec)
    rows = tuple((a.name, _ms(a.delay_s) if a.determined else "not determined", f"{_ms(a.low_s)} … {_ms(a.high_s)}", a.method)
                 for a in found)
    session.show(Table("Delays", ("command", "delay, ms", "95 % interval", "by"), rows))
    session.notes += [f"delay of '{a.name}': {a.reason}" for a in found if not a.determined]
    figures: dict[str, Any] = {a.name: {"value": a.delay_s, "low": a.low_s, "high": a.high_s, "determined": a.determined,
                                        "reason": a.reason, "method": a.method} for a in found}
    session.figures["delay_s"] = figures
    return np.array([max(0.0, a.delay_s) if a.determined else before for a, before in zip(found, session.spec.delays, strict=True)])
