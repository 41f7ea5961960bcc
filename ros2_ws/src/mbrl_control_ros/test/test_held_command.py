"""Commands in force over time: from arrival, until the timeout."""

import numpy as np
import pytest

from mbrl_control_ros.held_command import HeldCommand

ZERO, ONE, TWO = np.array([0.0]), np.array([1.0]), np.array([2.0])


def values(held, start, steps):
    return [float(c[0]) for c, n in held.pieces(start, steps) for _ in range(n)]


def test_zero_before_the_first_command():
    assert values(HeldCommand(ZERO, 0.1, 0.01), 0.0, 3) == [0, 0, 0]


def test_a_command_acts_from_the_step_nearest_its_arrival():
    held = HeldCommand(ZERO, 10.0, 0.01)
    held.arrive(0.012, ONE)  # nearest step begins at 0.01
    held.arrive(0.038, TWO)  # nearest step begins at 0.04
    assert values(held, 0.0, 6) == [0, 1, 1, 1, 2, 2]


def test_an_arrival_near_the_end_of_a_window_acts_in_the_next():
    held = HeldCommand(ZERO, 10.0, 0.01)
    held.arrive(0.018, ONE)
    assert values(held, 0.0, 2) == [0, 0]
    assert values(held, 0.02, 2) == [1, 1]


def test_it_ends_with_the_timeout_and_comes_back_with_a_new_command():
    held = HeldCommand(ZERO, 0.03, 0.01)
    held.arrive(0.0, ONE)
    assert values(held, 0.0, 5) == [1, 1, 1, 0, 0]
    assert held.timeouts == 1
    held.arrive(0.06, TWO)
    assert values(held, 0.05, 3) == [0, 2, 2]


def test_pieces_cover_the_window_exactly_and_merge_equal_neighbours():
    held = HeldCommand(ZERO, 10.0, 0.002)
    held.arrive(0.005, ONE)
    pieces = held.pieces(0.0, 10)
    assert [n for _, n in pieces] == [2, 8]
    assert held.received == 1


def test_it_tells_how_long_it_heard_nothing():
    held = HeldCommand(ZERO, 0.06, 0.002)
    held.arrive(0.005, ONE)
    held.pieces(0.0, 20)
    assert held.silence_s == 0.0
    held.pieces(0.04, 20)
    assert 0.058 <= held.silence_s <= 0.06 + 1e-9


@pytest.mark.parametrize("arrival", [0.0, 0.0001, 0.0009, 0.0011, 0.0019, 0.002])
def test_no_command_is_in_force_for_longer_than_the_timeout(arrival):
    held = HeldCommand(ZERO, 0.06, 0.002)
    held.arrive(arrival, ONE)
    steps = np.array(values(held, 0.0, 40))
    assert 0.002 * (np.flatnonzero(steps)[-1] + 1) <= arrival + 0.06 + 1e-9
    assert 0.058 - 1e-9 <= held.silence_s <= 0.06 + 1e-9
