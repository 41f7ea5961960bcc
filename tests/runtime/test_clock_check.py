"""Simulated and real time that do not fit: row 35 of the fault table."""

from __future__ import annotations

import pytest

from mbrl_control.runtime.clock_check import ClockWatch, clock_fault
from mbrl_control.runtime.faults import FAULTS, Mode


@pytest.mark.fault(row=35)
@pytest.mark.parametrize(("use_sim_time", "real", "age", "factor", "named"), [
    (False, True, 99.0, 0.1, None),
    (False, False, 99.0, None, None),
    (True, False, 0.0, None, None),
    (True, False, 0.5, 0.9, None),
    (True, True, 0.0, 1.0, "the robot is a real one"),
    (True, False, 0.51, 1.0, "silent for 0.51 s"),
    (True, False, 0.0, 0.89, "passes at 0.89 of real time"),
])
def test_what_fits_and_what_does_not(use_sim_time, real, age, factor, named):
    sentence = clock_fault(use_sim_time, real, age, factor)
    assert sentence is None if named is None else named in sentence


def first_fault(sim_time, hz=100.0, seconds=6.0):
    """When `clock_wrong` first is there, at ticks of 20 ms; `sim_time` gives /clock by real time, None for silence."""
    watch, heard = ClockWatch(True, False, 0.0), 0
    for k in range(round(seconds * 50)):
        now = 0.02 * k
        while heard / hz <= now:
            at = heard / hz
            if (sim := sim_time(at)) is not None:
                watch.heard(sim, at)
            heard += 1
        if watch.faults(now):
            assert watch.faults(now) == {"clock_wrong"}
            return now
    return None


@pytest.mark.fault(row=35)
@pytest.mark.parametrize(("what", "sim_time", "least", "most"), [
    ("speed 0.5", lambda t: 0.5 * t, 1.0, 1.04),
    ("speed 0.5 from 3 s on", lambda t: t if t < 3 else 3 + 0.5 * (t - 3), 3.2, 3.24),
    ("pause at 3 s", lambda t: t if t < 3 else None, 3.49, 3.54),
    ("no /clock at all", lambda t: None, 0.5, 0.54),
    ("standing still, still sent", lambda t: min(t, 3.0), 3.1, 3.14),
])
def test_a_slow_or_silent_clock_brakes(what, sim_time, least, most, record_property):
    found = first_fault(sim_time)
    assert least <= found <= most
    assert FAULTS["clock_wrong"].mode == Mode.BRAKE
    record_property("measured", f"{what}: clock_wrong, which brakes, at {found:.2f} s")


@pytest.mark.parametrize("sim_time", [lambda t: t, lambda t: 0.91 * t, lambda t: 2.0 * t, lambda t: t % 2.5])
def test_a_clock_in_time_faster_or_set_back_is_no_fault(sim_time):
    assert first_fault(sim_time) is None


def test_a_slow_clock_that_recovers_is_forgiven_after_a_second():
    watch = ClockWatch(True, False, 0.0)
    sim = 0.0
    for k in range(400):
        now = 0.01 * k
        sim += 0.005 if k < 200 else 0.01
        watch.heard(sim, now)
        assert bool(watch.faults(now)) == (1.0 <= now + 1e-9 < 2.785), now
