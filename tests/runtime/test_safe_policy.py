"""The safe action by what an axis sets, where control begins, and where a robot is held: numbers from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from carts import CART
from fakes import spec_with
from test_braking import cart

from mbrl_control import robot, strict_yaml
from mbrl_control.runtime.safe_policy import SafePolicy, hold_command, start_command
from mbrl_control.runtime.safety import safe_action, safe_command
from mbrl_control.runtime.wind_down import wind_down

STATE = np.array([0.4, 1.5])


def mixed():
    """A position, a speed and a force on the joint of one cart, in this order."""
    text = CART.replace("  - {name: u, unit: N, limits: [-1, 1]}", """\
  - {name: p, joint: slider, unit: m, limits: [-0.3, 0.3], zero: 0.1}
  - {name: s, joint: slider, unit: m/s, limits: [-2, 2]}
  - {name: f, joint: slider, unit: N, limits: [-5, 5]}""")
    return robot.validate(strict_yaml.parse("name: cart\nsafe_action: brake\nbrake_gain: 2\n" + text, "cart.yaml"))


def with_action(spec, action):
    return spec.model_copy(update={"safe_action": action})


LAST = np.array([0.2, 1.0, -4.0])


@pytest.mark.parametrize(("action", "state", "expected"), [
    ("zero", STATE, [0.1, 0.0, 0.0]),
    ("hold", STATE, [0.2, 1.0, -4.0]),
    ("brake", STATE, [0.2, 0.0, -3.0]),  # stay, stop, -2 * 1.5
    ("brake", 10 * STATE, [0.2, 0.0, -5.0]),
    ("brake", np.array([0.4, 0.0]), [0.2, 0.0, 0.0]),  # at rest it does not push
    ("brake", None, [0.2, 0.0, 0.0]),
    ("brake", np.array([0.4, np.nan]), [0.2, 0.0, 0.0]),
    ("ramp", STATE, [0.192, 0.96, -3.9]),  # 0.4, 2 and 5 in a second: 0.02 of that in a tick
    ("ramp", None, [0.192, 0.96, -3.9]),
])
def test_safe_actions_by_what_an_axis_sets(action, state, expected):
    assert safe_action(with_action(mixed(), action), state, LAST) == pytest.approx(expected)


def test_axes_may_differ():
    spec = mixed()
    commands = [c.model_copy(update={"safe_action": a}) for c, a in zip(spec.command, ("hold", None, "zero"), strict=True)]
    assert safe_action(spec.model_copy(update={"command": commands}), STATE, LAST) == pytest.approx([0.2, 0.0, 0.0])


def test_a_ramp_takes_the_time_asked_for_and_ends_at_zero():
    spec = with_action(spec_with(ramp_s=0.5), "ramp")
    last, seen = np.ones(1), []
    for _ in range(30):
        last = safe_action(spec, None, last)
        seen.append(float(last[0]))
    assert seen[:25] == pytest.approx(1 - 0.04 * np.arange(1, 26), abs=1e-12)  # 0.5 s are 25 ticks
    assert seen[25:] == [0.0] * 5
    assert np.array(list(wind_down(spec, np.ones(1))))[:, 0] == pytest.approx([*seen[:24], 0.0])


def test_brake_opposes_the_rates_of_the_real_double_pendulum_as_it_always_did():
    spec, rng = robot.load("double_pendulum_c1"), np.random.default_rng(0)
    for _ in range(100):
        state = rng.normal(0, 60, 4)
        expected = np.clip(-spec.brake_gain * state[2:], spec.action_low, spec.action_high)
        assert np.array_equal(safe_action(spec, state, np.zeros(2)), expected)


def test_control_begins_with_what_the_robot_obeys_already():
    zero = mixed().action_zero
    assert start_command(mixed(), STATE, zero) == pytest.approx([0.3, 1.5, 0.0])  # the position is beyond its limit
    assert start_command(mixed(), -STATE, zero) == pytest.approx([-0.3, -1.5, 0.0])
    assert start_command(mixed(), None, zero) == pytest.approx([0.1, 0.0, 0.0])
    assert start_command(mixed(), np.array([np.nan, np.inf]), zero) == pytest.approx([0.1, 0.0, 0.0])
    arm = robot.load("arm7")  # torques on top of its own gravity compensation
    assert np.array_equal(start_command(arm, np.arange(14.0), arm.action_zero), np.zeros(7))


def test_what_nothing_measures_begins_with_the_last_command():
    assert start_command(mixed(), STATE, LAST) == pytest.approx([0.3, 1.5, -4.0])
    assert start_command(mixed(), None, LAST) == pytest.approx([0.2, 1.0, -4.0])
    assert start_command(mixed(), STATE, 10 * LAST) == pytest.approx([0.3, 1.5, -5.0])


def test_the_first_commands_do_not_bump():
    spec = cart("m", limits="[-3, 3]", command=", max_rate: 1")
    last = start_command(spec, np.array([0.7, 0.0]), spec.action_zero)
    for k in range(1, 11):
        last, _ = safe_command(spec, np.array([-3.0]), last, 0.02)
        assert last == pytest.approx([0.7 - 0.02 * k])


def test_where_a_robot_is_held_after_braking():
    assert hold_command(mixed(), STATE, LAST) == pytest.approx([0.3, 0.0, 0.0])
    assert hold_command(mixed(), None, LAST) == pytest.approx([0.2, 0.0, 0.0])
    assert hold_command(with_action(mixed(), "hold"), STATE, LAST) == pytest.approx([0.3, 1.0, -4.0])
    assert hold_command(with_action(mixed(), "zero"), None, LAST) == pytest.approx([0.1, 0.0, 0.0])


def test_winding_down_leaves_positions_that_brake_where_they_are():
    assert np.array_equal(list(wind_down(mixed(), LAST)), [[0.2, 0.0, 0.0]])


def test_the_policy_stays_within_limits_for_any_numbers():
    spec, rng = mixed(), np.random.default_rng(1)
    for action in ("zero", "hold", "brake", "ramp"):
        policy = SafePolicy.of(with_action(spec, action))
        for _ in range(200):
            out = policy.command(rng.normal(0, 10.0 ** rng.integers(-3, 100), 2), rng.uniform(spec.action_low, spec.action_high), 0.02)
            assert ((out >= spec.action_low) & (out <= spec.action_high)).all()
