"""The filter on the true plant: adversaries never get the cart beyond its limits with it, and do without."""

from __future__ import annotations

import math
import timeit

import numpy as np
import pytest
from guarded import guarded
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_control import robot
from mbrl_control.runtime.faults import FAULTS
from mbrl_control.runtime.safety import SafetyFilter, safe_action, safe_command
from mbrl_sim.plant import MujocoPlant

RAIL = 1.6


def adversaries(rng):
    """What an adversary asks for, of the tick's number and the state [x, theta, x_dot, theta_dot]."""
    kept = np.ones(1)

    def long(k, state):
        if k % 37 == 0:
            kept[0] = rng.choice([-1.0, 1.0])
        return kept

    return {
        "noise": lambda k, s: rng.uniform(-1, 1, 1),
        "full": lambda k, s: rng.choice([-1.0, 1.0], 1),
        "long": long,
        "outwards": lambda k, s: np.array([math.copysign(1.0, s[0])]),
        "faster": lambda k, s: np.array([math.copysign(1.0, s[2])]),
        "spin the pole": lambda k, s: np.array([-math.copysign(1.0, s[3] * math.cos(s[1]))]),
    }


def drive(spec, kind, ticks, filtered=True, seed=0):
    """Largest |x| on the true plant, and the share of ticks with a fault."""
    rng = np.random.default_rng(seed)
    safety, plant, ask = SafetyFilter(spec), MujocoPlant(spec), adversaries(rng)[kind]
    state, last, furthest, faults = plant.reset(rng), spec.action_zero, 0.0, 0
    for k in range(ticks):
        command = ask(k, state)
        if filtered:
            out = safety.apply(command, last, state, spec.tick_s)
            command = out.command
            faults += out.faults == {"command_unsafe"}
        state, last = plant.step(command, spec.tick_s), command
        furthest = max(furthest, abs(float(state[0])))
    return furthest, faults / ticks


KINDS = sorted(adversaries(np.random.default_rng(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cart_stays_within_its_limits_and_does_not_without_the_filter(kind):
    furthest, faults = drive(guarded(), kind, 1500)
    assert furthest < RAIL
    assert faults > 0
    assert drive(guarded(), kind, 1500, filtered=False)[0] > RAIL


@pytest.mark.parametrize("kind", ["long", "faster"])
@pytest.mark.parametrize("changes", [{"model": "mujoco", "options": {}}, {"command": {"max_rate": 20.0}}, {"command": {"delay_s": 0.04}}],
                         ids=["mjcf", "rate", "delay"])
def test_other_models_rates_and_dead_times(kind, changes):
    assert drive(guarded(**changes), kind, 500)[0] < RAIL


@pytest.mark.slow
def test_a_hundred_thousand_ticks_of_adversaries():
    for seed, kind in enumerate(KINDS):
        assert drive(guarded(), kind, 100_000 // len(KINDS) + 1, seed=seed)[0] < RAIL, kind


@pytest.mark.parametrize("options", [{"parameters": {"m_cart": 1.1}}, {"parameters": {"gear": 9.0}}, {"parameters": {"m_pole": 0.15}}])
def test_a_nominal_model_that_is_a_little_wrong_is_good_enough(options):
    spec = guarded(options={"system": "cartpole"} | options)
    assert drive(spec, "long", 1500)[0] < RAIL


def test_what_would_have_been_sent_is_not_touched_where_all_is_well():
    spec = guarded()
    safety, wanted = SafetyFilter(spec), np.array([0.7])
    out = safety.apply(wanted, np.zeros(1), np.array([0.0, 3.1, 0.1, 0.0]), 0.02)
    assert np.array_equal(out.command, wanted)
    assert (out.limited, out.faults) == (False, frozenset())


def test_what_fails_is_replaced_by_the_brake_and_told():
    spec = guarded()
    state = np.array([1.3, 3.1, 1.5, 0.0])  # 1.5 m/s at 9.1 m/s^2 take 0.12 m, and 0.25 m are left; a tick at full force takes 0.03 m
    safety = SafetyFilter(spec)
    assert safety.apply(np.array([-0.5]), np.zeros(1), state, 0.02).faults == frozenset()
    near = np.array([1.42, 3.1, 1.5, 0.0])
    out = safety.apply(np.array([1.0]), np.zeros(1), near, 0.02)
    assert out.command == pytest.approx(safe_action(spec, near, np.zeros(1)))
    assert out.command == pytest.approx([-1.0])
    assert out.limited
    assert out.faults == {"command_unsafe"}
    assert out.faults <= set(FAULTS)


def test_who_is_outside_may_come_back_but_not_go_further():
    safety = SafetyFilter(guarded())
    outside = np.array([1.58, 3.14159, 0.0, 0.0])
    assert safety.apply(np.array([0.5]), np.zeros(1), outside, 0.02).faults
    assert not safety.apply(np.array([-0.5]), np.zeros(1), outside, 0.02).faults


def test_without_a_state_nothing_passes_but_the_safe_action():
    safety = SafetyFilter(guarded())
    for state in (None, np.array([0.0, math.nan, 0.0, 0.0])):
        out = safety.apply(np.array([0.7]), np.array([0.3]), state, 0.02)
        assert (out.command.tolist(), out.limited, out.faults) == ([0.0], True, frozenset())
    assert not safety.apply(np.zeros(1), np.array([0.3]), None, 0.02).limited


def test_a_safe_action_that_does_not_brake_lets_nothing_pass():
    assert SafetyFilter(guarded(top={"safe_action": "zero"})).apply(np.zeros(1), np.zeros(1), np.array([0.0, 3.1, 3.0, 0.0]), 0.02).faults


def test_what_is_under_way_counts():
    """Full force for 0.1 s, on its way already, would add 0.9 m/s that nothing takes back before the end."""
    spec = guarded(command={"delay_s": 0.1}, top={"brake_gain": 1.0})
    state, zero = np.array([1.35, 3.14159, 0.5, 0.0]), np.zeros(1)
    assert not SafetyFilter(spec).apply(zero, zero, state, 0.02).faults
    pushed = SafetyFilter(spec)
    pushed.begin(np.ones(1))
    assert pushed.apply(zero, np.ones(1), state, 0.02).faults
    for _ in range(5):
        pushed.apply(zero, zero, np.array([0.0, 3.14159, 0.0, 0.0]), 0.02)
    assert not pushed.apply(zero, zero, state, 0.02).faults


anything = st.floats(width=64)
PLAIN = {name: SafetyFilter(robot.load(name)) for name in robot.shipped()}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(PLAIN)), st.data())
def test_without_the_new_keys_the_filter_is_the_limits_bit_for_bit(name, data):
    spec = PLAIN[name].spec
    wanted = np.array(data.draw(st.lists(anything, min_size=spec.action_dim, max_size=spec.action_dim)))
    share = np.array(data.draw(st.lists(st.floats(0, 1), min_size=spec.action_dim, max_size=spec.action_dim)))
    last = spec.action_low + share * (spec.action_high - spec.action_low)
    dt = data.draw(st.floats(-1, 1))
    expected, limited = safe_command(spec, wanted, last, dt)
    out = PLAIN[name].apply(wanted, last, None, dt)
    assert out.command.tobytes() == expected.tobytes()
    assert (out.limited, out.faults) == (limited, frozenset())


GUARDED = SafetyFilter(guarded(command={"max_rate": 20.0}))


@settings(max_examples=300, deadline=None)
@given(anything, anything, st.lists(anything, min_size=4, max_size=4), anything)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_numbers_in_limited_numbers_out(wanted, last, state, dt):
    out = GUARDED.apply(np.array([wanted]), np.array([last]), np.array(state), dt)
    assert np.isfinite(out.command).all()
    assert abs(out.command[0]) <= 1.0
    if abs(last) <= 1.0:
        assert abs(out.command[0] - last) <= 20.0 * max(1e-12, dt) + 1e-9


def test_it_fits_into_the_tick():
    """Best of many, so that a busy machine does not matter."""
    spec, safety = guarded(), GUARDED
    state, wanted, last = np.array([0.3, 1.0, 0.2, 0.4]), np.array([0.3]), np.array([0.1])
    times = timeit.repeat(lambda: safety.apply(wanted, last, state, spec.tick_s), number=20, repeat=25)
    assert min(times) / 20 < 0.3e-3
    plain, arm = PLAIN["arm7"], np.zeros(7)
    assert min(timeit.repeat(lambda: plain.apply(arm, arm, np.zeros(14), 0.02), number=20, repeat=25)) / 20 < 0.1e-3
