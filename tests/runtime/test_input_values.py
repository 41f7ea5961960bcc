"""What the messages hold, on a virtual clock: rows 5 to 8 of the fault table, from the message to the mode."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import carts
import numpy as np
import pytest
from input_rig import BOUNDED, NORMAL, TICK, cart_spec, injector, joint_state, motion, ros_ns, states, watch

from mbrl_control.runtime.faults import Mode
from mbrl_control.runtime.injection import MESSAGE_WORDS, through
from mbrl_control.runtime.state_input import StateInput

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
