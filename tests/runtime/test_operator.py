"""The emergency stop and the heartbeat on a virtual clock."""

from __future__ import annotations

import pytest

from mbrl_control.runtime.faults import FAULTS, Mode
from mbrl_control.runtime.operator import OperatorWatch

TICK = 0.02


def test_the_stop_counts_while_it_is_pressed():
    watch = OperatorWatch()
    assert watch.faults(0.0) == frozenset()
    watch.stop(True)
    assert watch.faults(TICK) == {"estop"}
    watch.stop(False)
    assert watch.faults(1e6) == frozenset()


@pytest.mark.fault(row=34)
def test_a_stop_that_is_released_before_the_tick_counts_in_it():
    watch = OperatorWatch()
    watch.stop(True)
    watch.stop(False)
    assert [watch.faults(k * TICK) for k in range(2)] == [{"estop"}, frozenset()]
    watch.stop(True)
    assert [watch.faults(k * TICK) for k in range(2, 5)] == 3 * [{"estop"}]


def test_control_begins_with_the_position_of_the_stop_then():
    watch = OperatorWatch()
    watch.stop(True)
    watch.stop(False)
    watch.begin()
    assert watch.faults(0.0) == frozenset()
    watch.stop(True)
    watch.begin()
    assert watch.faults(TICK) == {"estop"}


@pytest.mark.fault(row=34)
def test_a_heartbeat_may_be_away_for_three_ticks_and_no_longer():
    watch = OperatorWatch(3 * TICK)
    found = []
    for k in range(20):
        if k < 10:
            watch.beat(k * TICK)
        found.append(bool(watch.faults(k * TICK)))
    assert found == 13 * [False] + 7 * [True]  # the last beat came in tick 9


def test_one_that_never_comes_is_waited_for_from_the_first_tick():
    watch = OperatorWatch(0.06)
    assert [watch.faults(100.0 + k * TICK) for k in range(5)] == 4 * [frozenset()] + [{"heartbeat_lost"}]


@pytest.mark.fault(row=34)
def test_both_latch():
    assert {FAULTS[code].mode for code in ("estop", "heartbeat_lost")} == {Mode.LATCHED}
