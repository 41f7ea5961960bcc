"""The tick on a virtual clock: one sound command each period whatever planner, states and clock do."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from fakes import FakeLink, plan_of, spec_with

from mbrl_control.planning.plan import Plan, Verdict
from mbrl_control.runtime.controller import Controller
from mbrl_control.runtime.faults import Mode

START = np.array([0.0, 3.1, 0.0, 0.0])
TICK = 0.02


def drive(controller, ticks, begin=0, state=START, states=True):
    """Decisions of `ticks` ticks with a fresh state each (or those for which `states(k)` holds)."""
    out = []
    for k in range(begin, begin + ticks):
        now = k * TICK
        if states is True or (callable(states) and states(k)):
            controller.on_state(now, state)
        out.append(controller.tick(now))
    return out


def ready(link, **changes):
    """A controller that explores no longer than until the first plan."""
    return Controller(spec_with(trainer={"explore_s": 0.0}, **changes), link, seed=0, lead_s=0.01)


def constant(spec, value=0.5, cells=25):
    return lambda request: plan_of(spec, np.full((cells, 1), value), request.apply_time, request.seq)


def test_before_any_state_the_zero_command_is_sent_and_nothing_is_asked():
    link = FakeLink()
    controller = Controller(spec_with(command={"zero": 0.25}), link, seed=0)
    decisions = drive(controller, 10, states=False)
    assert {d.mode for d in decisions} == {Mode.STANDBY}
    assert {float(d.command[0]) for d in decisions} == {0.25}
    assert link.requests == []
    assert controller.experience_s == 0.0


def test_it_explores_until_there_is_a_plan_and_then_follows_it():
    link = FakeLink()
    controller = ready(link)
    link.answer = constant(controller.spec)
    decisions = drive(controller, 5)
    assert [d.mode for d in decisions] == [Mode.EXPLORE] + 4 * [Mode.ACTIVE]
    assert decisions[1].command == pytest.approx([0.5])
    assert (decisions[1].plan_seq, decisions[1].model_version, decisions[1].plan_age) == (0, 3, pytest.approx(0.0))


def test_it_explores_for_as_long_as_asked_even_with_a_plan():
    link = FakeLink()
    controller = Controller(spec_with(trainer={"explore_s": 0.2}), link, seed=0)
    link.answer = constant(controller.spec)
    modes = [d.mode for d in drive(controller, 15)]
    assert modes == 10 * [Mode.EXPLORE] + 5 * [Mode.ACTIVE]


def test_one_plan_is_asked_for_every_plan_period():
    link = FakeLink()
    controller = ready(link)
    drive(controller, 100)
    assert len(link.requests) == 50  # 25 Hz at 50 Hz
    assert [r.seq for r in link.requests] == list(range(50))


@pytest.mark.fault(row=1)
def test_a_state_that_ages_degrades_after_two_ticks_brakes_after_its_time_out_and_latches_after_five():
    link = FakeLink()
    controller = ready(link, command={"max_rate": None}, safe_action="zero")
    link.answer = constant(controller.spec)
    drive(controller, 10)
    asked = len(link.requests)
    decisions = drive(controller, 30, begin=10, states=False)  # newest state at 0.18 s, time-out 0.1 s
    expected = 2 * [Mode.ACTIVE] + 3 * [Mode.DEGRADED] + 20 * [Mode.BRAKE] + 5 * [Mode.LATCHED]
    ages = [round(d.time - 0.18, 6) for d in decisions]
    assert expected == [Mode.ACTIVE if a <= 0.04 else Mode.DEGRADED if a <= 0.1 else Mode.BRAKE if a <= 0.5 else Mode.LATCHED for a in ages]
    assert [d.mode for d in decisions] == expected
    assert {float(d.command[0]) for d in decisions[5:]} == {0.0}
    assert len(link.requests) - asked <= 1  # nothing is planned from a state older than two ticks
    assert [d.reasons[0] for d in decisions[2:26:23]] == ["state_old", "state_lost"]


@pytest.mark.fault(row=1)
def test_after_a_gap_it_goes_on_after_a_second_of_fresh_states():
    link = FakeLink()
    controller = ready(link, safe_action="zero")
    link.answer = constant(controller.spec)
    drive(controller, 10)
    assert drive(controller, 8, begin=10, states=False)[-1].mode == Mode.BRAKE
    decisions = drive(controller, 60, begin=18)  # the last stale tick was at 0.34 s
    assert min(d.mode for d in decisions[:49]) >= Mode.BRAKE
    assert {float(d.command[0]) for d in decisions[:49]} == {0.0}
    assert {d.mode for d in decisions[49:]} == {Mode.ACTIVE}
    assert decisions[-1].command == pytest.approx([0.5])


def test_after_it_latched_an_operator_releases_it_and_a_second_later_it_goes_on():
    link = FakeLink()
    controller = ready(link)
    link.answer = constant(controller.spec)
    drive(controller, 10)
    drive(controller, 40, begin=10, states=False)
    assert {d.mode for d in drive(controller, 100, begin=50)} == {Mode.LATCHED}
    controller.release()
    modes = [d.mode for d in drive(controller, 60, begin=150)]
    assert modes == 50 * [Mode.BRAKE] + 10 * [Mode.ACTIVE]


def test_what_is_found_outside_of_the_tick_counts_in_the_next_one():
    link = FakeLink()
    controller = ready(link, safe_action="zero", command={"max_rate": None})
    link.answer = constant(controller.spec)
    drive(controller, 10)
    controller.outside = frozenset({"estop"})
    decision = drive(controller, 1, begin=10)[0]
    assert (decision.mode, decision.reasons, decision.command.tolist()) == (Mode.LATCHED, ("estop",), [0.0])
    controller.release()  # while the button is still pressed
    assert drive(controller, 1, begin=11)[0].mode == Mode.LATCHED
    controller.outside = frozenset()
    assert drive(controller, 100, begin=12)[-1].mode == Mode.LATCHED
    controller.begin()
    assert drive(controller, 1, begin=112)[0].mode == Mode.EXPLORE


def test_states_that_are_not_finite_or_older_are_dropped():
    controller = ready(FakeLink())
    controller.on_state(1.0, START)
    for bad in (np.array([0, math.nan, 0, 0]), np.array([math.inf, 0, 0, 0])):
        controller.on_state(1.02, bad)
        assert controller.state is START
    controller.on_state(0.98, START + 1)
    assert controller.state is START
    for time in (math.nan, math.inf, -math.inf):
        controller.on_state(time, START + 1)
        assert controller.state_time == 1.0
    controller.on_state(1.0, START + 2)  # same stamp, later part of the state
    assert controller.state[0] == 2.0


def test_a_state_far_in_the_future_is_not_taken_for_fresh():
    controller = ready(FakeLink())
    controller.on_state(100.0, START)
    assert controller.tick(0.0).mode == Mode.BRAKE
    controller.on_state(0.02, START)  # and it does not keep sound ones out
    assert controller.tick(0.02).state_age == 0.0


@pytest.mark.fault(row=25)
def test_control_of_positions_begins_where_the_robot_is():
    """No bump at activation, whatever excitation, plans and the zero command say."""
    axis = {"joint": "hinge", "unit": "rad", "limits": (-4.0, 4.0), "max_rate": 1.0, "zero": 0.0}
    controller = Controller(spec_with(command=axis, trainer={"explore_s": 0.0}), FakeLink(), seed=0)
    first = drive(controller, 5, state=np.array([0.0, 3.0, 0.0, 0.0]))
    values = [3.0, *(float(d.command[0]) for d in first)]
    assert np.abs(np.diff(values)).max() <= 1.0 * TICK + 1e-9
    controller.begin()
    again = drive(controller, 5, begin=100, state=np.array([0.0, -2.0, 0.0, 0.0]))
    assert abs(float(again[0].command[0]) + 2.0) <= 1.0 * TICK + 1e-9


def test_nan_states_count_as_none():
    controller = ready(FakeLink())
    decisions = drive(controller, 20, state=np.full(4, math.nan))
    assert {d.mode for d in decisions} == {Mode.STANDBY}


@pytest.mark.fault(row=10)
def test_a_late_planner_is_told_and_its_last_plan_is_used_to_the_end_then_the_safe_action():
    link = FakeLink()
    controller = ready(link, safe_action="zero")
    link.answer = lambda r: plan_of(controller.spec, np.linspace(0.1, 0.9, 25)[:, None], r.apply_time) if r.seq == 0 else None
    decisions = drive(controller, 60)
    start, dt = TICK, controller.spec.model_dt
    for k, d in enumerate(decisions[1:], 1):
        at = k * TICK
        if at < start + 25 * dt - 1e-9:
            expected = np.linspace(0.1, 0.9, 25)[int((at - start) / dt + 1e-6)]
            assert d.command == pytest.approx([expected]), k
            late = at - start > 3 * 2 * TICK + 0.01
            assert d.mode == (Mode.DEGRADED if late else Mode.ACTIVE), k
        else:
            assert d.mode == Mode.BRAKE
            assert d.command == pytest.approx([0.0])
    assert decisions[-1].mode == Mode.BRAKE


def test_plan_periods_without_a_new_plan_are_counted_while_the_last_is_used_on():
    link = FakeLink(latency_s=0.01)
    controller = ready(link)
    link.answer = constant(controller.spec)
    drive(controller, 20)  # ten periods, each with its plan; in the first there was nothing to use
    assert controller.reused == 0
    link.answer = None
    drive(controller, 10, begin=20)  # the plan asked for at tick 18 came before tick 20; periods end at ticks 20, 22, …, 28
    assert controller.reused == 4
    controller.new_episode()
    assert controller.reused == 4
    drive(controller, 10, begin=30)  # without a plan it is excitation, and nothing is used on
    assert controller.reused == 4
    drive(controller, 10, begin=40, states=False)
    assert controller.reused == 4
    controller.reset()
    assert controller.reused == 0


def test_plans_that_take_two_periods_leave_every_second_one_without():
    link = FakeLink()
    controller = ready(link)
    busy = [False]

    def every_second(request):
        busy[0] = not busy[0]
        return constant(controller.spec)(request) if busy[0] else None

    link.answer = every_second
    drive(controller, 41)  # asked at ticks 0, 2, …, 40; answered but for 2, 6, …, 38, whose periods end at 4, 8, …, 40
    assert controller.reused == 10


def test_a_plan_is_not_used_before_its_start():
    link = FakeLink()
    controller = ready(link)
    plans = {0: plan_of(controller.spec, np.full((25, 1), 0.2), 0.02, 0), 1: plan_of(controller.spec, np.full((25, 1), 0.8), 0.12, 1)}
    link.answer = lambda r: plans.get(r.seq)
    decisions = drive(controller, 10)
    assert [float(d.command[0]) for d in decisions[1:6]] == [0.2] * 5
    assert [float(d.command[0]) for d in decisions[6:]] == [0.8] * 4


def test_the_first_plan_is_not_used_before_its_start():
    link = FakeLink()
    controller = ready(link)
    link.answer = lambda r: plan_of(controller.spec, np.full((25, 1), 0.8), 0.1) if r.seq == 0 else None
    assert [d.mode for d in drive(controller, 7)] == 5 * [Mode.EXPLORE] + 2 * [Mode.ACTIVE]


def test_plans_that_wait_for_their_start_are_not_pushed_out_by_newer_ones():
    """After one slow plan the next ones are asked for far ahead; each must still be played in its turn."""
    link = FakeLink(latency_s=0.01)
    controller = ready(link)
    first = [True]

    def answer(request):
        slow, first[0] = first[0], False
        return plan_of(controller.spec, np.full((25, 1), 0.3), request.apply_time, request.seq, latency_s=0.3 if slow else 0.01)

    link.answer = answer
    decisions = drive(controller, 100)
    assert max(r.apply_time - i * 2 * TICK for i, r in enumerate(link.requests)) > 0.25
    seqs = [d.plan_seq for d in decisions]
    assert Mode.DEGRADED not in [d.mode for d in decisions[40:]]
    assert all(b - a <= 8 for a, b in itertools.pairwise(seqs[1:]))
    assert seqs[-1] >= 47


def test_of_two_plans_that_come_between_two_ticks_each_is_followed_from_its_start():
    link = FakeLink()
    controller = ready(link)
    plans = [plan_of(controller.spec, np.full((25, 1), value), start, n) for n, (value, start) in enumerate(((0.2, 0.04), (0.8, 0.1)))]
    link.queue = [(0.021, plans[0]), (0.031, plans[1])]
    decisions = drive(controller, 8)
    assert [d.plan_seq for d in decisions] == [-1, -1, 0, 0, 0, 1, 1, 1]
    assert [float(d.command[0]) for d in decisions[2:]] == [0.2] * 3 + [0.8] * 3


def test_one_very_slow_plan_does_not_put_the_next_ones_off_for_ever():
    link = FakeLink()
    controller = ready(link)
    link.answer = lambda r: plan_of(controller.spec, np.full((25, 1), 0.3), r.apply_time, r.seq, latency_s=60.0 if r.seq == 3 else 0.01)
    drive(controller, 200)
    ahead = [r.apply_time - i * 2 * TICK for i, r in enumerate(link.requests)]
    assert max(ahead) <= 0.5 * 25 * controller.spec.model_dt + 2 * TICK
    assert ahead[-1] < 0.05


def test_requests_tell_the_commands_that_will_have_been_sent_by_their_start():
    """The history in a request, looked at afterwards, is what was really sent (for a planner that keeps up with its requests)."""
    for latency, rate, delay in ((0.004, None, 0.0), (0.03, None, 0.0), (0.035, 2.0, 0.0), (0.03, None, 0.1)):
        link = FakeLink(latency_s=latency)
        controller = ready(link, command={"max_rate": rate, "delay_s": delay})
        rng = np.random.default_rng(0)

        def answer(request, c=controller, late=latency, rng=rng):
            return plan_of(c.spec, rng.uniform(-1, 1, (25, 1)), request.apply_time, request.seq, latency_s=late)

        link.answer = answer
        sent = {round(d.time / TICK): d.command for d in drive(controller, 150)}
        steady = [r for r in link.requests if 40 < r.seq < 70]
        assert steady
        for request in steady:
            times = np.round(np.asarray(request.sent_time) / TICK).astype(int)
            assert request.apply_time >= request.state_time + latency
            assert times[-1] == round(request.apply_time / TICK) - 1  # up to the tick before the plan begins
            assert np.array_equal(np.diff(times), np.ones(len(times) - 1))
            assert request.sent_time[0] <= request.state_time - delay  # far enough back for what is still under way
            for at, command in zip(times, request.sent, strict=True):
                assert command == pytest.approx(sent[at], abs=1e-9), (latency, request.seq, at)


def test_requests_carry_state_times_and_experience():
    link = FakeLink()
    controller = ready(link)
    drive(controller, 11)
    last = link.requests[-1]
    assert last.state_time == pytest.approx(0.2)
    assert last.state == pytest.approx(START)
    assert last.experience_s == pytest.approx(0.22)
    assert last.apply_time == pytest.approx(0.22)


def test_a_new_episode_forgets_plans_and_states_but_does_not_jump():
    link = FakeLink()
    controller = ready(link, command={"max_rate": 1.0})
    link.answer = constant(controller.spec, 0.9)
    before = drive(controller, 60)[-1]
    assert before.command[0] > 0.8
    controller.new_episode()
    link.queue.clear()
    after = drive(controller, 30, begin=60)
    assert after[0].mode == Mode.EXPLORE
    assert after[0].plan_seq == -1
    steps = np.abs(np.diff([before.command[0], *(d.command[0] for d in after)]))
    assert steps.max() <= 1.0 * TICK + 1e-9
    assert controller.experience_s == pytest.approx(90 * TICK)
    assert [r.seq for r in link.requests] == list(range(45))


def test_an_answer_to_a_request_from_before_the_episode_is_not_followed():
    link = FakeLink()
    controller = ready(link)
    link.answer = constant(controller.spec)
    drive(controller, 10)
    assert link.queue or link.requests
    controller.new_episode()
    link.queue = [(0.0, plan_of(controller.spec, np.full((25, 1), 0.9), 0.2, seq=2))]
    link.answer = None
    assert drive(controller, 1, begin=10)[0].mode == Mode.EXPLORE


@pytest.mark.parametrize("bad", [
    {"start": math.nan}, {"start": math.inf}, {"actions": np.full((25, 1), math.nan)}, {"actions": np.full((25, 2), 0.1)},
    {"latency_s": math.nan}, {"dt": 0.0}, {"dt": math.nan}, {"actions": np.zeros(25)},
])
def test_plans_that_make_no_sense_are_as_if_they_had_not_come(bad):
    link = FakeLink()
    controller = ready(link)
    good = plan_of(controller.spec, np.full((25, 1), 0.3), 0.02)
    link.answer = lambda r: good if r.seq == 0 else Plan(**{**vars(good), "seq": r.seq, **bad})
    decisions = drive(controller, 10)
    assert {float(d.command[0]) for d in decisions[1:]} == {0.3}
    assert decisions[-1].plan_seq == 0


@pytest.mark.parametrize("mode", ["zero", "hold", "brake"])
def test_a_hundred_thousand_ticks_of_everything_wrong(mode):
    """States, plans and times at random: every command is finite, within the limits and within the rates."""
    rng, draw = np.random.default_rng(7), random.Random(7)
    link = FakeLink()
    spec = spec_with(command={"max_rate": 4.0}, safe_action=mode, trainer={"explore_s": 0.5})
    controller = Controller(spec, link, seed=1)
    odd = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.0, 1.0]

    def answer(request):
        actions = rng.uniform(-3, 3, (25, 1)) if draw.random() < 0.7 else np.array(draw.choices(odd, k=25))[:, None]
        start = request.apply_time + draw.gauss(0, 0.1) if draw.random() < 0.9 else draw.choice(odd)
        return plan_of(spec, actions, start, request.seq, draw.choice([0.01, 0.1, 1e9, math.nan]), cost=draw.choice(odd))

    link.answer = answer
    now, wrong = 0.0, 0
    last = controller.last
    modes = set()
    for k in range(34_000):
        if k % 5000 == 4999:
            controller.new_episode()
        now += draw.choice([0.02, 0.02, 0.02, 0.021, 0.0, 0.5]) if k % 50 == 0 else 0.02
        if draw.random() < 0.97 and (k // 100) % 7:
            state = START if draw.random() < 0.9 else np.array(draw.choices(odd, k=4))
            controller.on_state(now - draw.choice([0.0, 0.01, 0.2]), state)
        if draw.random() < 0.01:
            controller.release()
        decision = controller.tick(now)
        modes.add(decision.mode)
        command = decision.command
        wrong += not (abs(command[0]) <= 1 and abs(command[0] - last[0]) <= 4.0 * 2 * TICK + 1e-9)  # a nan is never so
        last = command
    assert wrong == 0
    assert modes == set(Mode) - {Mode.INACTIVE}


def test_nothing_that_the_tick_imports_brings_torch_along():
    pytest.importorskip("rclpy")
    code = ("import json, sys\nimport mbrl_control.runtime.controller\nimport mbrl_control_ros.controller_node\n"
            "print(json.dumps([m for m in ('torch', 'mujoco', 'casadi', 'matplotlib', 'scipy') if m in sys.modules]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_core_imports_without_ros_and_torch():
    code = ("import sys, mbrl_control.runtime.controller, mbrl_control.runtime.process_link\n"
            "sys.exit('torch' in sys.modules or 'rclpy' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_decisions_as_named_numbers():
    link = FakeLink()
    controller = ready(link)
    link.answer = lambda r: plan_of(controller.spec, np.full((25, 1), 0.3), r.apply_time, r.seq, verdict=Verdict.REUSED)
    decision = drive(controller, 4)[-1]
    named = dict(zip(decision.NAMES, decision.numbers(), strict=True))
    assert named["mode"] == Mode.ACTIVE
    assert named["latency_ms"] == pytest.approx(10.0)
    assert named["state_age_s"] == 0.0


def test_a_robot_that_plans_leave_outside_its_range_is_excited_until_it_is_back():
    link = FakeLink()
    controller = ready(link)
    link.answer = constant(controller.spec)
    outside = START + np.array([controller.spec.range_high[0] + 0.2, 0.0, 0.0, 0.0])
    drive(controller, 5)
    lost = drive(controller, 60, begin=5, state=outside)
    assert {d.mode for d in lost[:50]} == {Mode.ACTIVE}
    assert {d.mode for d in lost[52:]} == {Mode.EXPLORE}
    assert len({float(d.command[0]) for d in lost[52:]}) > 5
    assert drive(controller, 2, begin=65)[-1].mode == Mode.ACTIVE
