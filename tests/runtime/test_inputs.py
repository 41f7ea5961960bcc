"""The inputs on a virtual clock: rows 1 to 9 of the fault table, from the message to the mode."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from types import SimpleNamespace

import carts
import numpy as np
import pytest
from input_rig import BOUNDED, NORMAL, TICK, cart_spec, joint_state, motion, ros_ns, states, watch

from mbrl_control.runtime.faults import FAULTS, Mode
from mbrl_control.runtime.injection import MESSAGE_WORDS, Injector, through
from mbrl_control.runtime.inputs import InputWatch, Share
from mbrl_control.runtime.message_editor import MessageEditor
from mbrl_control.runtime.state_input import StateInput

HOUR = 3600.0
TWO_TOPICS = BOUNDED.replace("{name: v, joint: slider", "{name: v, topic: speeds, joint: slider")


def injector(word, amount=None, begin_s=1.0, end_s=math.inf, seed=0):
    return Injector(word, np.random.default_rng(seed), MessageEditor(list(cart_spec().state)), amount, begin_s, end_s)


def run_of(mode, modes):
    """How many ticks were in a mode."""
    return sum(m == mode for m in modes)


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


# Row 5


@pytest.mark.fault(row=5)
@pytest.mark.parametrize("field", ["position", "velocity"])
@pytest.mark.parametrize(("value", "code"), [(math.nan, "not_finite"), (math.inf, "not_finite"), (-math.inf, "not_finite"),
                                             (1e308, "out_of_bounds"), (-1e308, "out_of_bounds")])
def test_what_is_not_finite_is_refused_at_once(field, value, code, record_property):
    def bad():
        for at, message in states(2.0):
            if 1.0 <= at < 1.0 + 2.5 * TICK:
                setattr(message, field, [value])
            yield at, message

    seen = watch(bad(), 2.0)
    assert seen.refusals == [code] * 3
    assert np.isfinite(seen.x).all()
    assert seen.x[50:53] == [seen.x[49]] * 3
    assert [k for k, c in enumerate(seen.codes) if "state_refused" in c] == [52]
    assert seen.age[52] == pytest.approx(3 * TICK)
    record_property("measured", "refused in its tick, ages as a dropout, BRAKE with the 3rd in a row")


@pytest.mark.fault(row=5)
def test_unused_fields_may_hold_anything_and_the_smallest_numbers_are_numbers():
    def odd():
        for at, message in states(1.0):
            message.name, message.effort = ["gripper", "slider"], [math.inf, math.nan]
            message.position, message.velocity = [math.nan, message.position[0]], [math.inf, 5e-324]
            yield at, message

    seen = watch(odd(), 1.0)
    assert seen.refusals == []
    assert seen.worst() == NORMAL


def test_a_signal_without_bounds_is_not_believed_beyond_all_measure():
    source = StateInput(cart_spec(carts.CART))
    assert source.take("joint_states", joint_state(ros_ns(0), 1e308, 0.0), ros_ns(0), 0.0).code == "out_of_bounds"
    assert source.take("joint_states", joint_state(ros_ns(0.1), 1e6, 0.0), ros_ns(0.1), 0.1) is None


# Row 6


@pytest.mark.fault(row=6)
def test_a_spike_is_refused_and_forgotten(record_property):
    seen = watch(through(injector("wrong", 2.0, end_s=1.0 + TICK / 2), states(2.0)), 2.0)
    assert seen.refusals == ["jump"]
    assert seen.worst() == NORMAL
    assert max(abs(x) for x in seen.x) <= 0.5
    record_property("measured", "a spike of 2 m in 20 ms is refused, nothing else happens")


@pytest.mark.fault(row=6)
def test_a_robot_that_was_carried_is_believed_after_three_that_agree(record_property):
    seen = watch(through(injector("wrong", 2.0), states(4.0)), 4.0)
    # 5 m/s in 20, 40, 60 ms allow 0.3, 0.6, 0.9 m; the fourth message is the first that three before it agree with.
    assert seen.refusals == ["jump"] * 3
    assert [k for k, c in enumerate(seen.codes) if "state_refused" in c] == [52]
    assert seen.x[53:] == pytest.approx([2.0 + motion(k * TICK)[0] for k in range(53, 200)])
    assert seen.first(Mode.BRAKE) == pytest.approx(52 * TICK)
    assert seen.mode[52 + 51] == NORMAL
    record_property("measured", "a step of 2 m: BRAKE with the 3rd message, believed with the 4th, control goes on 1 s later")


@pytest.mark.fault(row=6)
def test_two_places_in_turn_are_not_both_believed():
    def in_turn():
        for k, (at, message) in enumerate(states(3.0, hz=100.0)):
            message.position = [message.position[0] + (2.0 if k % 2 and at > 1.0 else 0.0)]
            yield at, message

    seen = watch(in_turn(), 3.0)
    assert max(abs(x) for x in seen.x) <= 0.5
    assert set(seen.refusals) == {"jump"}


@pytest.mark.fault(row=6)
@pytest.mark.parametrize("word", ["garbage", "wrong"])
def test_a_sensor_that_lies_brakes(word, record_property):
    source = StateInput(cart_spec())
    seen = watch(through(injector(word, 5.0 if word == "wrong" else 1.0), states(3.0)), 3.0, source=source)
    assert seen.worst() >= Mode.BRAKE
    assert seen.first(Mode.DEGRADED) <= 1.0 + 3 * TICK
    assert np.isfinite(seen.x).all()
    assert max(abs(x) for x in seen.x) <= 3.0
    record_property("measured", f"{word}: at least DEGRADED after {1e3 * (seen.first(Mode.DEGRADED) - 1.0) + 20:.0f} ms, BRAKE after "
                                f"{1e3 * (seen.first(Mode.BRAKE) - 1.0) + 20:.0f} ms")


@pytest.mark.fault(row=6)
def test_a_position_that_sticks_while_the_rate_is_high_is_refused(record_property):
    def sticking():
        for at, message in states(2.0):
            yield at, message if at < 0.5 else joint_state(ros_ns(at), motion(0.5)[0], 0.6)

    seen = watch(sticking(), 2.0)
    first = next(k for k, c in enumerate(seen.codes) if "state_refused" in c)
    assert set(seen.refusals) == {"stuck"}
    # Ticks 25 on hold the position of 0.5 s; the tenth of them is refused, and the two after it.
    assert first == 25 + 9 + 2
    record_property("measured", f"refused from the 10th equal position on while the rate is 12 % of its bound, BRAKE after "
                                f"{1e3 * (first * TICK - 0.5):.0f} ms")


def test_a_stuck_sensor_that_moves_again_is_believed_at_once():
    def sticking():
        for at, message in states(2.0):
            yield at, message if not 0.5 <= at < 0.8 else joint_state(ros_ns(at), motion(0.5)[0], 0.6)

    seen = watch(sticking(), 2.0)
    assert seen.refusals == ["stuck"] * 6
    assert seen.codes[-1] == set()


def test_a_robot_at_rest_is_not_stuck(record_property):
    """Bit-identical positions with a rate that is zero, noise, a small offset, or as large as it can be with changing sign."""
    rng = np.random.default_rng(0)
    for rates in (np.zeros(500), 0.05 * rng.standard_normal(500), np.full(500, 0.2), 5.0 * (-1.0) ** np.arange(500)):
        seen = watch(((k * TICK, joint_state(ros_ns(k * TICK), 0.25, v)) for k, v in enumerate(rates)), 10.0)
        assert seen.refusals == []


def test_frozen_numbers_while_moving_are_found_by_the_injected_word():
    seen = watch(through(injector("stuck", begin_s=0.2), states(1.0)), 1.0)
    assert set(seen.refusals) == {"stuck"}
    assert seen.first(Mode.BRAKE) == pytest.approx((10 + 9 + 2) * TICK)


def test_an_angle_may_pass_its_seam():
    text = BOUNDED.replace("unit: m,", "unit: rad, wraps: true,").replace("unit: m/s", "unit: rad/s").replace("[-3, 3]", "[-4, 4]")
    turning = [(k * TICK, joint_state(ros_ns(k * TICK), (3.0 + 0.06 * k + math.pi) % (2 * math.pi) - math.pi, 3.0)) for k in range(200)]
    assert watch(turning, 4.0, cart_spec(text)).refusals == []
    assert "jump" in watch(turning, 4.0, cart_spec(text.replace(", wraps: true", ""))).refusals


def test_messages_without_stamps_may_come_in_bursts():
    burst = [(0.04 * (k // 4 + 1), joint_state(0, *motion(k * 0.01))) for k in range(200)]
    assert watch(burst, 2.0).refusals == []


# Row 7


@pytest.mark.fault(row=7)
@pytest.mark.parametrize("names", [("slider", "a", "b"), ("b", "slider", "a"), ("a", "b", "slider")])
def test_joints_are_found_in_any_order_and_others_ignored(names):
    seen = watch(((at, joint_state(ros_ns(at), *motion(at), names[k % 3:] + names[:k % 3])) for k, (at, _) in enumerate(states(1.0))), 1.0)
    assert seen.refusals == []
    assert seen.x == pytest.approx([motion(k * TICK)[0] for k in range(50)])


TWO_JOINTS = BOUNDED.replace("state:", "state:\n  - {name: y, joint: lift, unit: m, bounds: [-3, 3]}")


@pytest.mark.fault(row=7)
@pytest.mark.parametrize(("names", "code"), [(("slider",), "joint_missing"), (("lift",), "joint_missing"), ((), "joint_missing"),
                                             (("slider", "lift", "slider"), "joint_twice"), (("lift", "slider", "lift"), "joint_twice")])
@pytest.mark.parametrize(("count", "worst"), [(1, Mode.DEGRADED), (5, Mode.BRAKE), (30, Mode.LATCHED)])
def test_a_used_joint_that_is_missing_or_twice(names, code, count, worst, record_property):
    end = 1.0 + (count - 0.5) * TICK
    messages = ((at, joint_state(ros_ns(at), *motion(at), names if 1.0 <= at < end else ("slider", "lift"))) for at, _ in states(3.0))
    seen = watch(messages, 3.0, cart_spec(TWO_JOINTS))
    assert seen.refusals == [code] * count
    assert [k for k, c in enumerate(seen.codes) if "joints_wrong" in c] == list(range(50, 50 + count))
    assert seen.worst() == (worst if worst != Mode.BRAKE else Mode.DEGRADED)
    if worst == Mode.LATCHED:
        assert seen.first(Mode.LATCHED) == pytest.approx(1.1)
        record_property("measured", "refused and DEGRADED in its tick, LATCHED after 100 ms")


@pytest.mark.fault(row=7)
def test_one_wrong_message_of_a_slow_topic_does_not_latch():
    def once():
        for at, _ in states(3.0, hz=5.0):
            yield at, joint_state(ros_ns(at), *motion(at), ("slider",) if at == 1.0 else ("slider", "lift"))

    seen = watch(once(), 3.0, cart_spec(TWO_JOINTS, state_timeout_s=0.5))
    assert seen.refusals == ["joint_missing"]
    assert seen.worst() == Mode.DEGRADED


@pytest.mark.fault(row=7)
def test_messages_of_another_device_on_the_topic_are_no_fault(record_property):
    def both():
        for at, message in states(2.0):
            yield at, message
            yield at, joint_state(ros_ns(at), 0.0, 0.0, ("left_finger", "right_finger"))

    source = StateInput(cart_spec())
    seen = watch(both(), 2.0, source=source)
    assert set(seen.refusals) == {"joint_foreign"}
    assert seen.worst() == NORMAL
    assert source.watch.counts["joint_foreign"] == 100
    record_property("measured", "messages that name other joints only are ignored")


# Row 8


@pytest.mark.fault(row=8)
@pytest.mark.parametrize("field", ["position", "velocity"])
@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.2, 0.3]])
def test_arrays_of_the_wrong_length(field, values, record_property):
    def wrong():
        for at, _ in states(2.0):
            message = joint_state(ros_ns(at), *motion(at), ("slider", "lift"))
            if at >= 1.0:
                setattr(message, field, values)
            yield at, message

    seen = watch(wrong(), 2.0)
    assert set(seen.refusals) == {"length"}
    assert seen.codes[50] == {"joints_wrong"}
    assert seen.worst() == Mode.LATCHED
    record_property("measured", "refused and DEGRADED in its tick, LATCHED after 100 ms; nothing is raised")


@pytest.mark.fault(row=8)
@pytest.mark.parametrize("message", [SimpleNamespace(), SimpleNamespace(name=None, position=None), SimpleNamespace(name=3, position=3),
                                     SimpleNamespace(name=["slider"], position=["x"], velocity=[1]),
                                     SimpleNamespace(name=["slider"], position=[10**400], velocity=[1])])
def test_what_is_no_message_at_all_is_refused(message):
    assert StateInput(cart_spec()).take("joint_states", message, 0, 0.0).code == "malformed"


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


# Everything at once


@pytest.mark.fault(row=5)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_injected_nothing_is_raised_and_the_state_stays_sound(seed, record_property):
    rng = np.random.default_rng(seed)
    stream = states(20.0, hz=100.0)
    for word in MESSAGE_WORDS:
        if word != "flood":
            amount = {"drop": 0.1, "delay": 0.01, "duplicate": 1.0, "wrong": 1.0}.get(word, 0.3)
            begin = rng.uniform(0, 18)
            stream = through(injector(word, amount, begin, begin + 4.0, seed), stream)
    source = StateInput(cart_spec())
    seen = watch(stream, 20.0, source=source)
    assert len(seen.refusals) > 100
    assert np.isfinite(seen.x[1:]).all()
    assert max(map(abs, seen.x[1:])) <= 3.0
    assert all(b >= a for a, b in itertools.pairwise(seen.measured))
    assert sum(source.watch.counts.values()) == len(seen.refusals)
    record_property("measured", "messages disturbed in seven ways at once: nothing raised, state finite and in bounds")


def test_the_inputs_of_the_tick_bring_nothing_heavy():
    code = ("import sys\nfrom mbrl_control.runtime import clock_check, response, state_input\n"
            "sys.exit(any(m in sys.modules for m in ('torch', 'rclpy', 'mujoco', 'scipy')))")
    subprocess.run([sys.executable, "-c", code], check=True)
