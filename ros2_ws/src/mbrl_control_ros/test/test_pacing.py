"""Deadlines: absolute, counted when missed, never made up for."""

import math
import time

import pytest
from mbrl_control_ros import pacing
from mbrl_control_ros.pacing import Pacer, Window


class Machine:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(pacing.time, "monotonic", self.tell)
        monkeypatch.setattr(pacing.time, "sleep", self.pass_by)

    def tell(self):
        self.now += 1e-7
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


def test_deadlines_do_not_drift_with_the_work_done(monkeypatch):
    machine = Machine(monkeypatch)
    pacer = Pacer(0.01, machine.pass_by, late_s=1e-3)
    start = pacer.passed
    for k in range(1, 101):
        assert pacer.wait() == 1
        assert pacer.passed == pytest.approx(start + 0.01 * k, abs=1e-9)
        machine.pass_by(0.003)
    assert (pacer.late, pacer.missed) == (0, 0)


def test_a_long_callback_is_counted_and_not_made_up_for(monkeypatch):
    machine = Machine(monkeypatch)
    pacer = Pacer(0.01, machine.pass_by, late_s=1e-3)
    start = pacer.passed
    machine.pass_by(0.0455)
    assert pacer.wait() == 4
    assert (pacer.late, pacer.missed) == (1, 3)
    assert pacer.passed == pytest.approx(start + 0.04, abs=1e-9)
    assert pacer.wait() == 1
    assert pacer.passed == pytest.approx(start + 0.05, abs=1e-9)
    assert pacer.lateness.summary()[2] == pytest.approx(0.0355, abs=1e-6)


def test_callbacks_are_served_until_shortly_before_the_deadline(monkeypatch):
    machine = Machine(monkeypatch)
    asked = []

    def serve(seconds):
        asked.append(seconds)
        machine.pass_by(min(seconds, 0.004))

    pacer = Pacer(0.01, serve, late_s=1e-3)
    pacer.wait()
    assert len(asked) == 3
    assert asked[0] == pytest.approx(0.01 - pacing.SERVE_UNTIL_S, abs=1e-6)
    assert asked[2] == pytest.approx(0.002 - pacing.SERVE_UNTIL_S, abs=1e-6)


def test_on_this_machine_most_periods_are_served_within_a_fifth_of_a_millisecond():
    pacer = Pacer(0.005, time.sleep, late_s=1e-3)
    for _ in range(100):
        pacer.wait()
    assert pacer.lateness.summary()[0] < 2e-4


def test_window_percentiles():
    window = Window(size=100)
    assert all(math.isnan(v) for v in window.summary())
    for value in range(1000):
        window.add(float(value))
    p50, p99, worst = window.summary()
    assert worst == 999.0
    assert p50 == pytest.approx(949.5)
    assert p99 == pytest.approx(998.01)
