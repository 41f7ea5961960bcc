"""Widths of intervals as a robot's YAML holds them, and what is surprising by them, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mbrl_control import robot
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SpecError
from mbrl_control.models.base import Gaussian, Step
from mbrl_control.planning import coverage
from mbrl_control.planning.coverage import Widths
from mbrl_control.planning.limits import ERROR_FACTOR, Limits
from mbrl_control.robot import RobotSpec
from mbrl_control.strict_yaml import YamlSource

NAMES = robot.load("cartpole").state_names


def tables(narrow=(1.0, 4.0), wide=(2.0, 8.0)):
    return {"steps": [1, 16], "width_68": {n: list(narrow) for n in NAMES}, "width_95": {n: list(wide) for n in NAMES}}


def with_intervals(section):
    return RobotSpec.model_validate({**robot.load("cartpole").model_dump(exclude_unset=True), "intervals": section})


SPEC = with_intervals(tables())


class Two:
    """Members at -1 and +1 from where they are, each with a deviation of 1: together sqrt(2)."""

    members, dt, version = 2, 0.04, 1

    def step(self, state, action, rng=None):
        return Step(state + torch.tensor([-1.0, 1.0])[:, None, None])

    def predict(self, state, action):
        return Gaussian(self.step(state, action).state, torch.ones_like(state))

    def scale(self):
        return torch.full((4,), 1000.0)


def ends(x, theta=0.0, steps=1):
    """A stretch for each x: from 0 to x, theta turned once around the circle and by `theta`."""
    state = np.zeros((len(x), steps + 1, 4))
    state[:, 1:, 0], state[:, 1:, 1] = np.array(x)[:, None], 2 * math.pi + theta
    return Sequences(state, np.zeros((len(x), steps, 1)), np.arange(float(len(x))))


def test_widths_are_interpolated_in_the_logarithm_of_the_horizon_and_end_with_it():
    found = Widths.of(SPEC)
    assert found.at(1) == pytest.approx(np.array([[1.0] * 4, [2.0] * 4]))
    assert found.at(4) == pytest.approx(np.array([[2.0] * 4, [4.0] * 4]))
    assert found.at(17) is None
    assert Widths.of(robot.load("cartpole")) is None


def test_surprise_is_the_error_in_half_widths_of_95_per_cent():
    found = coverage.surprise(Two(), ends([0.0, 4 * math.sqrt(2)]), SPEC, Widths.of(SPEC))
    assert found == pytest.approx([0.0, math.sqrt((2**2) / 4)], abs=1e-5)
    beside = coverage.surprise(Two(), ends([0.0], theta=2 * math.sqrt(2)), SPEC, Widths.of(SPEC))
    assert beside == pytest.approx([0.5], abs=1e-5)
    assert coverage.surprise(Two(), ends([math.nan]), SPEC, Widths.of(SPEC)) == [math.inf]


def test_what_was_held_is_told_before_and_after():
    errors = np.array([0.5, -1.5, 3.0, 9.0])[:, None, None] * np.ones((1, 20, 4))
    before = coverage.held(errors, NAMES, [1, 20], None)
    assert before["1"]["x"] == before["20"]["theta"] == {"0.68": 0.25, "0.95": 0.5}
    after = coverage.held(errors, NAMES, [1, 16, 20], Widths.of(SPEC))
    assert after == {"1": {n: {"0.68": 0.25, "0.95": 0.5} for n in NAMES}, "16": {n: {"0.68": 0.75, "0.95": 0.75} for n in NAMES}}


def test_a_model_is_wrong_where_it_says_itself_that_it_cannot_be_so_far_off():
    """An error of a thousandth of a typical change, ten times what 95 % of errors keep within: told by the variances alone."""
    held, far = ends([0.0] * 5), ends([40 * math.sqrt(2)])
    limits = Limits.measure(Two(), held, held, SPEC)
    assert limits.surprise == ERROR_FACTOR, "calm held-out data does not make it less than what unseen runs were"
    assert limits.exceeded_by(Two(), far, SPEC)
    assert not limits.exceeded_by(Two(), ends([10 * math.sqrt(2)]), SPEC)
    plain = robot.load("cartpole")
    unknown = Limits.measure(Two(), held, held, plain)
    assert unknown.surprise == math.inf
    assert not unknown.exceeded_by(Two(), far, plain)
    assert replace(unknown, error=0.01).exceeded_by(Two(), far, plain)


def test_the_surprise_of_held_out_data_widens_the_limit():
    held = ends([8 * math.sqrt(2)] * 5)
    assert Limits.measure(Two(), held, held, SPEC).surprise == pytest.approx(ERROR_FACTOR * 2.0, rel=1e-5)


def test_intervals_are_no_part_of_what_a_model_depends_on():
    assert with_intervals(tables()).hash == robot.load("cartpole").hash


@pytest.mark.parametrize(("section", "said"), [
    ({**tables(), "steps": [2, 16]}, "they must begin with 1 and rise"),
    ({**tables(), "steps": [1, 1]}, "they must begin with 1 and rise"),
    ({**tables(), "steps": [1]}, "has 2 widths for 1 steps"),
    (tables(wide=(0.5, 8.0)), "95 % cannot be narrower"),
    (tables(narrow=(0.0, 4.0)), "greater than 0"),
    ({**tables(), "width_95": {"x": [2.0, 8.0]}}, "it has no widths for 'theta'"),
    ({**tables(), "width_68": {**tables()["width_68"], "thetta": [1.0, 2.0]}}, "this is no signal that can stand here; nearest: 'theta'"),
])
def test_sections_that_make_no_sense_are_refused(section, said):
    data = {**robot.load("cartpole").model_dump(exclude_unset=True, mode="json"), "intervals": section}
    with pytest.raises(SpecError, match=said):
        robot.validate(YamlSource("robot.yaml", data, {}))
