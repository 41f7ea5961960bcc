"""Braking distance: hand-computed speeds, and exact ticks that never pass a limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from carts import CART
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_control import robot, strict_yaml
from mbrl_control.runtime.braking import BrakingLimits, fastest
from mbrl_control.runtime.safety import SafetyFilter

TICK = 0.02


def cart(unit, limits="[-1, 1]", command="", **keys):
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    text = CART.replace("joint: slider, unit: m}", f"joint: slider, unit: m, limits: {limits}{more}}}")
    text = text.replace("{name: u, unit: N, limits: [-1, 1]}", f"{{name: u, joint: slider, unit: {unit}, limits: [-3, 3]{command}}}")
    return robot.validate(strict_yaml.parse("name: cart\n" + text, "cart.yaml"))


@pytest.mark.parametrize(("distance", "deceleration", "reaction", "speed"), [
    (0.5, 1.0, 0.01, 0.99),  # sqrt(2 * 0.5) - 0.01
    (2.0, 4.0, 0.01, 3.96),  # sqrt(16) - 0.04
    (0.5, 1.0, 0.11, 0.89),  # a tenth of a second of dead time more costs 0.1 m/s
    (0.0, 1.0, 0.01, 0.0),
    (-1.0, 1.0, 0.0, 0.0),
    (1e-5, 1.0, 0.01, 0.0),  # less than half a tick's braking
    (math.inf, 1.0, 0.01, math.inf),
])
def test_speeds_from_which_braking_ends_in_time(distance, deceleration, reaction, speed):
    assert fastest(distance, deceleration, reaction) == pytest.approx(speed)


def test_bounds_of_a_speed_look_both_ways_and_take_the_margin_off():
    bounds = BrakingLimits(cart("m/s", max_deceleration=2.0, margin=0.1))
    low, high = bounds.bounds(np.array([0.5, 0.0]), np.zeros(1))
    assert high == pytest.approx([math.sqrt(2 * 2 * 0.4) - 0.02])
    assert low == pytest.approx([-(math.sqrt(2 * 2 * 1.4) - 0.02)])
    low, high = bounds.bounds(np.array([1.5, 0.0]), np.zeros(1))  # outside: it may come back and stand still
    assert high == pytest.approx([0.0])
    assert low == pytest.approx([-(math.sqrt(2 * 2 * 2.4) - 0.02)])
    assert [float(b[0]) for b in bounds.bounds(None, np.ones(1))] == [0.0, 0.0]


def test_a_speed_brakes_no_harder_than_its_own_rate_limit_lets_it():
    _, high = BrakingLimits(cart("m/s", max_deceleration=2.0, command=", max_rate: 0.5")).bounds(np.zeros(2), np.zeros(1))
    assert high == pytest.approx([1.0 - 0.5 * 0.01])


def test_robots_without_limits_and_forces_have_no_bounds():
    for name in robot.shipped():
        assert not BrakingLimits(robot.load(name))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 20), st.integers(0, 4), st.floats(-0.99, 0.99), st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_a_cart_that_obeys_speeds_never_passes_its_limits(deceleration, late, start, wishes):
    """Exact: x' = v, speeds held for a tick, `late` ticks of dead time. The command never has to fall faster than the deceleration."""
    spec = cart("m/s", max_deceleration=deceleration, command=f", delay_s: {late * TICK}, max_rate: 1000")
    safety, x, last, line = SafetyFilter(spec), start, np.zeros(1), [0.0] * late
    for k in range(200):
        wanted = np.array([wishes[k // 10 % len(wishes)]])
        sent = safety.apply(wanted, last, np.array([x, 0.0]), TICK).command
        if last[0] * wanted[0] > 0 and abs(wanted[0]) >= abs(last[0]):  # only the limit asks for less
            assert sent[0] * np.sign(last[0]) >= max(0.0, abs(last[0]) - deceleration * TICK) - 1e-9
        line.append(float(sent[0]))
        x += line.pop(0) * TICK
        last = sent
        assert -1 - 1e-9 <= x <= 1 + 1e-9


def test_without_the_limit_the_same_cart_leaves():
    spec, x = cart("m/s", limits="[-9, 9]", max_deceleration=1.0), 0.0
    for _ in range(100):
        x += float(SafetyFilter(spec).apply(np.ones(1), np.ones(1), np.array([x, 0.0]), TICK).command[0]) * TICK
    assert x == pytest.approx(2.0)


def test_a_position_is_cut_to_the_limits_less_the_margin():
    safety = SafetyFilter(cart("m", margin=0.1))
    assert safety.apply(np.array([2.0]), np.zeros(1), np.zeros(2), TICK).command == pytest.approx([0.9])
    assert safety.apply(np.array([-2.0]), np.zeros(1), None, TICK).command == pytest.approx([-0.9])
    out = safety.apply(np.array([0.5]), np.zeros(1), np.zeros(2), TICK)
    assert (out.command.tolist(), out.limited, out.faults) == ([0.5], False, frozenset())


def test_a_position_comes_to_its_limit_braking():
    safety, at, steps = SafetyFilter(cart("m", max_deceleration=2.0)), np.zeros(1), []
    assert safety.apply(np.array([3.0]), at, np.zeros(2), TICK).command == pytest.approx([TICK * (math.sqrt(2 * 2 * 1) - 2 * 0.01)])
    for _ in range(200):
        new = safety.apply(np.array([3.0]), at, np.zeros(2), TICK).command
        steps.append(float(new[0] - at[0]) / TICK)
        at = new
    assert 1 - 2 * TICK**2 / 8 - 1e-9 <= at[0] <= 1.0  # what is left is less than half a tick's braking
    assert -np.diff(steps).min() <= 2.0 * TICK + 1e-9
    assert safety.apply(np.array([-3.0]), np.array([3.0]), np.zeros(2), TICK).command[0] <= 1.0  # from beyond it comes back at once


def test_rates_hold_where_a_limit_is_met_too_late():
    safety = SafetyFilter(cart("m/s", max_deceleration=5.0, command=", max_rate: 5"))
    out = safety.apply(np.array([2.0]), np.array([2.0]), np.array([0.99, 2.0]), TICK)
    assert out.command == pytest.approx([1.9])
    assert out.limited
