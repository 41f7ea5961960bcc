"""When messages come and what their stamps say, on a virtual clock: rows 1 to 4 and 9 of the fault table, from message to mode."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from input_rig import BOUNDED, NORMAL, TICK, cart_spec, injector, joint_state, motion, ros_ns, states, watch

from mbrl_control.runtime.faults import FAULTS, Mode
from mbrl_control.runtime.injection import through
from mbrl_control.runtime.inputs import InputWatch, Share
from mbrl_control.runtime.state_input import StateInput

HOUR = 3600.0
TWO_TOPICS = BOUNDED.replace("{name: v, joint: slider", "{name: v, topic: speeds, joint: slider")


# Row 1


@pytest.mark.fault(row=1)
@pytest.mark.parametrize(("lost", "worst"), [(1, NORMAL), (2, NORMAL), (3, Mode.DEGRADED), (5, Mode.DEGRADED), (6, Mode.BRAKE),
                                             (50, Mode.LATCHED), (10**6, Mode.LATCHED)])
def test_a_silent_topic_degrades_brakes_and_latches_at_its_age(lost, worst, record_property):
    end = 1.0 + (lost - 0.5) * TICK
    seen = watch(through(injector("drop", end_s=end), states(4.0)), 4.0)
    assert seen.worst() == worst
    assert seen.codes[49] == set()
    for k in range(50, len(seen.age)):
        gone = min(k - 49, lost)
        if k - 49 <= lost:
            assert seen.age[k] == pytest.approx(gone * TICK)
            expected = Mode.LATCHED if gone > 25 else Mode.BRAKE if gone > 5 else Mode.DEGRADED if gone > 2 else NORMAL
            assert max((FAULTS[c].mode for c in seen.codes[k]), default=NORMAL) == expected, k
    if lost > 25:
        record_property("measured", f"DEGRADED at {1e3 * (seen.first(Mode.DEGRADED) - 0.98):.0f} ms, BRAKE at "
                                    f"{1e3 * (seen.first(Mode.BRAKE) - 0.98):.0f} ms, LATCHED at "
                                    f"{1e3 * (seen.first(Mode.LATCHED) - 0.98):.0f} ms of silence (T = 20 ms)")


# Row 2


@pytest.mark.fault(row=2)
@pytest.mark.parametrize(("lag", "codes"), [(0.0, []), (0.03, []), (0.06, ["state_old"]), (0.12, ["state_stale"]),
                                            (0.6, ["state_lost", "state_stale"])])
def test_an_old_stamp_counts_however_fresh_the_arrival(lag, codes, record_property):
    seen = watch(states(2.0, lag_s=lag), 2.0)
    assert seen.age[1:] == pytest.approx([lag] * 99)
    assert set().union(*seen.codes[1:]) == set(codes)
    record_property("measured", f"stamps {1e3 * lag:.0f} ms old: {codes[0] if codes else 'no fault'}")


@pytest.mark.fault(row=2)
def test_a_state_sent_again_and_again_with_its_old_stamp_gets_old(record_property):
    def repeated():
        for at, message in states(3.0):
            yield at, message if at < 1.0 else joint_state(ros_ns(0.98), *motion(0.98))

    seen = watch(repeated(), 3.0)
    assert seen.first(Mode.BRAKE) == pytest.approx(1.1, abs=TICK / 2 + 1e-9)
    assert seen.worst() == Mode.LATCHED
    assert set(seen.refusals) == {"stamp_duplicate"}
    record_property("measured", f"one state sent on at 50 Hz: BRAKE {1e3 * (seen.first(Mode.BRAKE) - 0.98):.0f} ms after it was measured")


@pytest.mark.fault(row=2)
@pytest.mark.parametrize(("delay", "worst"), [(0.03, NORMAL), (0.08, Mode.DEGRADED)])
def test_a_delay_counts_as_age(delay, worst):
    seen = watch(through(injector("delay", delay), states(3.0)), 3.0)
    old = seen.age[60:140]
    assert min(old) >= delay - 1e-9
    assert max(old) <= delay + TICK + 1e-9
    assert seen.worst() == worst


def test_without_stamps_the_arrival_counts():
    seen = watch(((at, joint_state(0, *motion(at))) for at, _ in states(1.0, lag_s=0.3)), 1.0)
    assert max(seen.age) < 1e-9
    unstamped = watch(states(1.0, lag_s=0.3), 1.0, source=StateInput(cart_spec(), use_stamps=False))
    assert max(unstamped.age) < 1e-9


# Row 3


@pytest.mark.fault(row=3)
@pytest.mark.parametrize(("word", "amount", "degraded"), [("reorder", 0.03, False), ("reorder", 0.4, True), ("duplicate", 1, True),
                                                          ("duplicate", 3, True), ("flood", 50, True)])
def test_disorder_is_dropped_counted_and_degrades_when_there_is_much(word, amount, degraded, record_property):
    source = StateInput(cart_spec())
    seen = watch(through(injector(word, amount), states(8.0, hz=100.0)), 8.0, source=source)
    assert all(b >= a for a, b in itertools.pairwise(seen.measured))
    assert max(seen.age) <= 2 * TICK
    assert any("stamps_disordered" in c for c in seen.codes) == degraded
    assert seen.worst() == (Mode.DEGRADED if degraded else NORMAL)
    dropped = source.watch.counts["stamp_duplicate"] + source.watch.counts["stamp_disordered"]
    assert dropped == len(seen.refusals) > 0
    if word != "reorder":
        assert dropped == amount * 699  # from 1 s to the last tick at 7.98 s
    record_property("measured", f"{word} {amount}: {'DEGRADED' if degraded else 'no fault'}, state never older than "
                                f"{1e3 * max(seen.age):.0f} ms, time never steps back")


@pytest.mark.fault(row=3)
def test_the_disorder_ends_a_second_after_its_last_message():
    seen = watch(through(injector("duplicate", 1, end_s=2.0), states(5.0)), 5.0)
    last = max(k for k, codes in enumerate(seen.codes) if codes) * TICK
    assert 2.0 <= last <= 3.0


def test_one_duplicate_of_a_slow_topic_is_no_disorder():
    seen = watch(through(injector("duplicate", 1, begin_s=1.0, end_s=1.1), states(4.0, hz=5.0)), 4.0, cart_spec(state_timeout_s=0.5))
    assert seen.refusals == ["stamp_duplicate"]
    assert not any("stamps_disordered" in c for c in seen.codes)


@pytest.mark.parametrize("hz", [10.0, 500.0])
def test_a_source_slower_or_faster_than_the_tick_is_no_fault(hz):
    seen = watch(states(3.0, hz=hz), 3.0, cart_spec(state_timeout_s=0.25))
    assert seen.refusals == []
    assert set().union(*seen.codes) <= {"state_old"}


def test_order_is_that_of_a_topic_and_the_older_topic_is_the_state():
    spec = cart_spec(TWO_TOPICS)
    watched = InputWatch(spec)
    assert watched.age(0.0) == math.inf
    for k in range(100):
        now = k * TICK
        watched.clock(ros_ns(now), now)
        assert watched.took("joint_states", ros_ns(now), now, np.array([0.1])) is None
        # Always older than what came on the other topic, and each in its own order.
        assert watched.took("speeds", ros_ns(now - 0.03), now, np.array([0.0])) is None
        assert watched.age(now) == pytest.approx(0.03)
        assert watched.faults(now) == frozenset()
    for k in range(100, 110):
        watched.refused("speeds", "not_finite", k * TICK)
        assert watched.took("joint_states", ros_ns(k * TICK), k * TICK, np.array([0.1])) is None
    assert watched.faults(109 * TICK) == {"state_refused"}  # the good topic does not excuse the bad one
    assert watched.age(109 * TICK) == pytest.approx(10 * TICK + 0.03)


def test_shares_of_the_last_second():
    share = Share()
    for k in range(1000):
        share.add(1e5 + 0.01 * k, k % 8 == 0)
    assert share.above(1e5 + 9.99, 0.1, 2)
    assert not share.above(1e5 + 9.99, 0.15, 2)
    assert not share.above(1e5 + 11.1, 0.0, 1)


# Row 4


@pytest.mark.fault(row=4)
@pytest.mark.parametrize(("ahead", "refused"), [(0.01, False), (0.02, False), (0.021, True), (1.0, True), (HOUR, True)])
def test_stamps_of_the_future(ahead, refused, record_property):
    seen = watch(states(2.0, stamp=lambda at: ros_ns(at + (ahead if 1.0 <= at < 1.5 else 0.0))), 3.0 - 1.0)
    # Those within a tick move the order on: what comes next must lie behind them.
    assert (seen.refusals.count("stamp_future") > 0) == refused
    if not refused:
        assert seen.worst() <= NORMAL
        return
    assert seen.refusals == ["stamp_future"] * 25
    assert [k for k, c in enumerate(seen.codes) if "stamps_future" in c] == list(range(54, 75))
    assert seen.worst() >= Mode.BRAKE
    record_property("measured", f"{ahead:g} s ahead: refused, BRAKE with the 5th, over with the first good one")


# Row 9


@pytest.mark.fault(row=9)
@pytest.mark.parametrize("jump", [HOUR, -HOUR, 0.5, -0.5, 0.03, -0.03])
@pytest.mark.parametrize("same_machine", [True, False])
@pytest.mark.parametrize("look_in_tick", [True, False])
def test_setting_the_clock_makes_no_state_stale(jump, same_machine, look_in_tick, record_property):
    def clock(at):
        return ros_ns(at + (jump if at >= 1.0 else 0.0))

    # Measured 4 ms before they arrive: one is under way when the clock is set.
    stream = ((at + 0.004, m) for at, m in states(6.0, hz=100.0, stamp=clock if same_machine else ros_ns))
    source = StateInput(cart_spec())
    seen = watch(stream, 6.0, now_ns=clock, source=source, look_in_tick=look_in_tick)
    assert source.watch.clock_steps == 1
    assert seen.refusals == []
    assert max(seen.age[1:]) <= TICK
    assert seen.worst() == NORMAL
    record_property("measured", f"{jump:+g} s: no message lost, state never older than {1e3 * max(seen.age[1:]):.0f} ms")


@pytest.mark.fault(row=9)
def test_the_clock_may_be_set_again_and_again():
    rng = np.random.default_rng(1)
    steps = np.cumsum(rng.uniform(-HOUR, HOUR, 40))

    def clock(at):
        return ros_ns(at + steps[min(int(at / 0.3), 39)])

    seen = watch(((at + 0.004, m) for at, m in states(10.0, hz=100.0, stamp=clock)), 10.0, now_ns=clock)
    assert seen.refusals == []
    assert max(seen.age[1:]) <= TICK


def test_a_clock_that_drifts_or_is_read_late_is_not_one_that_was_set():
    rng = np.random.default_rng(2)

    def clock(at):
        return ros_ns(at * (1 + 5e-4) + 0.002 * rng.random())

    source = StateInput(cart_spec())
    seen = watch(states(60.0, stamp=lambda at: ros_ns(at * (1 + 5e-4))), 60.0, now_ns=clock, source=source)
    assert source.watch.clock_steps == 0
    assert seen.refusals == []
    assert max(seen.age) <= 0.003


def test_a_pause_of_the_process_between_the_two_clocks_costs_nothing():
    """What looks like a step of 15 ms there and back is none, and no message is lost by it."""
    def clock(at):
        return ros_ns(at + (0.015 if round(at / TICK) % 7 == 0 else 0.0))

    assert watch(states(5.0, hz=50.0), 5.0, now_ns=clock, look_in_tick=False).refusals == []


def test_real_staleness_during_a_step_is_still_seen():
    def clock(at):
        return ros_ns(at + (HOUR if at >= 1.0 else 0.0))

    silent = through(injector("drop"), states(3.0, stamp=clock))
    seen = watch(silent, 3.0, now_ns=clock)
    assert seen.first(Mode.BRAKE) == pytest.approx(0.98 + 0.12)


def test_simulated_time_goes_on_in_steps():
    """State and clock of one simulation step come in either order: the state's stamp is then a step ahead of the clock."""
    text = BOUNDED + "sim: {mjcf: cartpole.xml, actuators: [slide], state_hz: 25}\n"

    def clock(at):
        return ros_ns(math.floor(at / 0.04 + 1e-6) * 0.04 - 0.04)

    for sim_time, refused in ((True, False), (False, True)):
        seen = watch(states(4.0, hz=25.0), 4.0, cart_spec(text), now_ns=clock, source=StateInput(cart_spec(text), sim_time))
        assert bool(seen.refusals) == refused
        if sim_time:
            assert max(seen.age) <= 0.02 + 1e-9


def test_the_inputs_of_the_tick_bring_nothing_heavy():
    code = ("import sys\nfrom mbrl_control.runtime import clock_check, response, state_input\n"
            "sys.exit(any(m in sys.modules for m in ('torch', 'rclpy', 'mujoco', 'scipy')))")
    subprocess.run([sys.executable, "-c", code], check=True)
