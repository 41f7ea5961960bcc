"""The way to rest: within the rates, ends exactly at rest, never takes for ever."""

import numpy as np
import pytest

from mbrl_control import robot
from mbrl_control.runtime.wind_down import wind_down


def spec_with(**changes):
    spec = robot.load("cartpole")
    command = spec.command[0].model_copy(update={k: v for k, v in changes.items() if k in ("max_rate", "zero")})
    other = {k: v for k, v in changes.items() if k not in ("max_rate", "zero")}
    return spec.model_copy(update={"command": [command], **other})


def test_without_a_rate_limit_it_is_the_zero_command_alone():
    assert np.array_equal(list(wind_down(spec_with(zero=0.25), np.array([0.9]))), [[0.25]])


def test_with_a_rate_limit_it_is_a_ramp_that_ends_at_rest():
    commands = np.array(list(wind_down(spec_with(max_rate=10.0), np.array([0.9]))))[:, 0]  # 0.2 a tick at 50 Hz
    assert commands == pytest.approx([0.7, 0.5, 0.3, 0.1, 0.0])
    assert commands[-1] == 0.0


def test_hold_stays():
    assert np.array_equal(list(wind_down(spec_with(safe_action="hold"), np.array([0.9]))), [[0.9]])


def test_brake_ends_at_zero_because_a_held_brake_would_drive_the_robot_backwards():
    assert np.array_equal(list(wind_down(spec_with(safe_action="brake"), np.array([0.9]))), [[0.0]])


def test_a_ramp_that_would_take_for_ever_ends_with_a_jump():
    commands = np.array(list(wind_down(spec_with(max_rate=1e-3), np.array([0.9]), most_s=1.0)))[:, 0]
    assert len(commands) == 50
    assert commands[-2] > 0.8
    assert commands[-1] == 0.0
