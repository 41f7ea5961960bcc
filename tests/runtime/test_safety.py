"""The last stage before a command leaves, the safe action, and the excitation: within limits and rates, always."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import spec_with
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mbrl_control import robot
from mbrl_control.runtime.excitation import excitation
from mbrl_control.runtime.safety import safe_action, safe_command

ARM = robot.load("arm7")
CAR = robot.load("rc_car")
anything = st.floats(width=64)


@settings(max_examples=400, deadline=None)
@given(st.lists(anything, min_size=2, max_size=2), st.lists(st.floats(0, 1), min_size=2, max_size=2), st.floats(-1, 10))
@example([math.nan, math.inf], [0.0, 1.0], 0.0)
def test_any_numbers_in_limited_numbers_out(wanted, share, dt):
    last = CAR.action_low + np.array(share) * (CAR.action_high - CAR.action_low)
    out, limited = safe_command(CAR, np.array(wanted), last, dt)
    assert np.isfinite(out).all()
    assert ((CAR.action_low <= out) & (out <= CAR.action_high)).all()
    assert (np.abs(out - last) <= CAR.action_max_rate * max(dt, 0) + 1e-12).all()
    assert limited is not np.array_equal(out, wanted)


@settings(max_examples=200, deadline=None)
@given(st.lists(anything, min_size=7, max_size=7), st.floats(-1, 1))
@example([1.0] * 7, 0.0)
def test_without_a_rate_limit_only_the_limits_act_whatever_the_time(wanted, dt):
    out, _ = safe_command(ARM, np.array(wanted), ARM.action_zero, dt)
    finite = np.isfinite(wanted)
    assert np.array_equal(out[finite], np.clip(np.array(wanted)[finite], ARM.action_low[finite], ARM.action_high[finite]))
    assert not out[~finite].any()


def test_an_axis_that_is_not_finite_keeps_its_last_value_and_the_others_move():
    out, limited = safe_command(CAR, np.array([math.nan, 0.01]), np.array([1.0, 0.0]), 0.05)
    assert out == pytest.approx([1.0, 0.01])
    assert limited


def test_a_command_that_is_fine_is_not_touched():
    wanted = np.array([1.05, 0.02])
    out, limited = safe_command(CAR, wanted, np.array([1.0, 0.0]), 0.05)
    assert np.array_equal(out, wanted)
    assert not limited


def test_safe_actions():
    last = np.array([0.4])
    state = np.array([0.0, 1.0, 2.0, 0.3])  # the pairs' first rate is x_dot
    assert safe_action(spec_with(safe_action="zero", command={"zero": 0.1}), state, last) == pytest.approx([0.1])
    held = safe_action(spec_with(safe_action="hold"), state, last)
    assert held == pytest.approx([0.4])
    assert held is not last
    brake = spec_with(safe_action="brake", brake_gain=0.2)
    assert safe_action(brake, state, last) == pytest.approx([-0.4])
    assert safe_action(brake, 100 * state, last) == pytest.approx([-1.0])
    assert safe_action(brake, None, last) == pytest.approx([0.0])


@pytest.mark.parametrize("name", robot.shipped())
def test_excitation_stays_within_limits_and_rates_and_is_seeded(name):
    spec = robot.load(name)
    noise = excitation(spec, 2000, np.random.default_rng(3))
    assert noise.shape == (2000, spec.action_dim)
    assert ((spec.action_low <= noise) & (noise <= spec.action_high)).all()
    steps = np.diff(noise, axis=0, prepend=spec.action_zero[None])
    assert (np.abs(steps) <= spec.action_max_rate * spec.tick_s + 1e-12).all()
    assert np.array_equal(noise, excitation(spec, 2000, np.random.default_rng(3)))
    assert not np.array_equal(noise, excitation(spec, 2000, np.random.default_rng(4)))


def test_excitation_uses_the_share_and_the_time_constant_asked_for():
    quiet = excitation(spec_with(trainer={"explore_scale": 0.3}), 20_000, np.random.default_rng(0))[:, 0]
    assert 0.28 < np.abs(quiet).max() <= 0.3
    assert abs(quiet.mean()) < 0.05
    slow = spec_with(trainer={"explore_smoothness_s": 0.5})
    noise = np.arctanh(np.clip(excitation(slow, 100_000, np.random.default_rng(0))[:, 0], -0.9999, 0.9999))
    lag = round(0.5 * slow.rate_hz)
    assert np.corrcoef(noise[:-lag], noise[lag:])[0, 1] == pytest.approx(math.exp(-1), abs=0.06)
