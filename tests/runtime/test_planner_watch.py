"""What is done about the planner's process, on a virtual clock."""

from __future__ import annotations

import pytest

from mbrl_control.runtime.planner_events import EVENT, Event, Order
from mbrl_control.runtime.planner_watch import PREPARE_S, START_S, PlannerWatch
from mbrl_control.runtime.restarts import HELPER, PLANNER, Restarts

PERIOD = 0.02


@pytest.fixture
def watch():
    """Its worker is ready since 10 s."""
    made = PlannerWatch(PERIOD)
    assert made.order(0.0) == Order.START
    assert made.order(0.0) is None  # once
    for kind, number, when in ((Event.STARTED, 77, 4.0), (Event.RUNNING, 0, 5.0), (Event.PREPARING, 0, 9.0), (Event.READY, 0, 10.0)):
        made.event(kind, number, when)
    return made


def run(watch, begin, end, answers):
    """Requests at each period; gives when an order was given and which."""
    orders = []
    for k in range(round((end - begin) / PERIOD)):
        now = begin + k * PERIOD
        watch.sent(now)
        if answers:
            watch.answered()
        if (order := watch.order(now)) is not None:
            orders.append((now, order))
    return orders


def test_a_worker_that_answers_is_left_alone(watch):
    assert run(watch, 10.0, 60.0, answers=True) == []
    assert (watch.pid, watch.starts) == (77, 1)


def test_one_that_no_longer_answers_is_killed_once_after_two_seconds(watch):
    run(watch, 10.0, 30.0, answers=True)
    [(when, order)] = run(watch, 30.0, 60.0, answers=False)
    assert order == Order.KILL
    assert 2.0 <= when - 30.0 <= 2.0 + 2 * PERIOD


def test_a_slow_planner_is_given_twenty_periods():
    watch = PlannerWatch(1.0)
    for event in (Event.STARTED, Event.READY):
        watch.event(event, 1, 0.0)
    for second in range(1, 21):
        watch.sent(float(second))
        assert watch.order(second + 0.5) is None, second
    watch.sent(21.0)
    assert watch.order(21.1) == Order.KILL


def test_nobody_hangs_while_nothing_is_asked(watch):
    """After deactivation the last answer is never taken from the mailbox."""
    watch.sent(10.0)
    assert watch.order(100.0) is None
    watch.answered()
    assert run(watch, 100.0, 110.0, answers=True) == []


def test_requests_from_before_it_was_ready_do_not_count(watch):
    fresh = PlannerWatch(PERIOD)
    fresh.event(Event.STARTED, 1, 0.0)
    fresh.event(Event.RUNNING, 0, 1.0)
    assert run(fresh, 0.0, 300.0, answers=False) == []  # no model yet: nothing is expected
    fresh.event(Event.PREPARING, 0, 300.0)
    fresh.event(Event.READY, 0, 310.0)
    [(when, _)] = run(fresh, 310.0, 320.0, answers=False)
    assert when == pytest.approx(312.0, abs=2 * PERIOD)


@pytest.mark.parametrize(("event", "most"), [(Event.STARTED, START_S), (Event.PREPARING, PREPARE_S)])
def test_one_that_hangs_at_its_start_is_killed_too(event, most):
    watch = PlannerWatch(PERIOD)
    watch.event(event, 1, 0.0)
    assert watch.order(most - 0.1) is None
    assert watch.order(most + 0.1) == Order.KILL


def test_it_is_started_again_with_growing_pauses_and_three_ends_in_ten_seconds_are_a_fault(watch):
    now, pauses, faults = 20.0, [], []
    for _ in range(5):
        watch.event(Event.ENDED, -9, now)
        assert watch.pid == 0
        faults.append(set(watch.faults(now)))
        ended = now
        while watch.order(now) != Order.START:
            now += 0.01
        pauses.append(now - ended)
        watch.event(Event.STARTED, 5, now)
    assert pauses == pytest.approx(PLANNER.pauses_s[:5], abs=0.011)
    assert faults == [set(), set(), {"planner_failing"}, {"planner_failing"}, {"planner_failing"}]
    assert set(watch.faults(now + 10.0)) == set()


def test_the_third_end_counts_only_within_ten_seconds(watch):
    for when in (20.0, 25.0, 30.1):
        watch.event(Event.ENDED, -9, when)
        watch.event(Event.STARTED, 5, when + 0.1)
    assert watch.faults(30.1) == set()
    watch.event(Event.ENDED, -9, 30.2)
    assert watch.faults(30.2) == {"planner_failing"}


def test_a_helper_that_ends_now_and_then_is_started_soon_each_time():
    restarts = Restarts(HELPER)
    for k in range(10):
        restarts.ended(1000.0 * k)
        assert not restarts.due(1000.0 * k + 0.4)
        assert restarts.due(1000.0 * k + 0.5)
        assert not restarts.tripped(1000.0 * k)
    restarts = Restarts(HELPER)
    for k in range(4):
        restarts.ended(100.0 * k)
    assert not restarts.tripped(300.0)
    restarts.ended(400.0)
    assert restarts.tripped(400.0)


def test_an_event_fits_into_one_write_that_no_other_can_come_between():
    assert EVENT.size <= 512  # what POSIX warrants of PIPE_BUF
