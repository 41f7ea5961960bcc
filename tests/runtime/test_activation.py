"""Where control begins, at each activation: with what the robot obeys already, whatever was before and whatever is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeLink, spec_with
from test_controller import TICK, constant, drive, ready

from mbrl_control.runtime.controller import Controller
from mbrl_control.runtime.faults import Mode


@pytest.mark.fault(row=25)
def test_an_effort_that_is_held_goes_on_from_where_it_was_left():
    link = FakeLink()
    controller = ready(link, safe_action="hold", command={"max_rate": 1.0})
    link.answer = constant(controller.spec, 0.9)
    left = drive(controller, 60)[-1].command
    assert left[0] > 0.8
    for begin in (100, 200):  # the first of them ends without a state, and so without a command
        controller.begin()
        again = drive(controller, 10, begin=begin, states=begin == 200)
        assert abs(float(again[0].command[0] - left[0])) <= 1.0 * TICK + 1e-9
    assert np.abs(np.diff([float(d.command[0]) for d in again])).max() <= 1.0 * TICK + 1e-9


@pytest.mark.parametrize(("fault", "mode"), [("second_publisher", Mode.HOLD), ("estop", Mode.LATCHED)])
def test_what_is_wrong_before_the_first_state_does_not_move_the_robot_when_it_comes(fault, mode):
    axis = {"joint": "hinge", "unit": "rad", "limits": (-4.0, 4.0), "max_rate": 1.0, "zero": 0.25}
    controller = Controller(spec_with(command=axis, safe_action="hold"), FakeLink(), seed=0)
    controller.outside = frozenset({fault})
    for begin, left, place in ((0, 0.25, 3.0), (100, 3.0, -2.0)):  # and again, carried to another place meanwhile
        before = drive(controller, 60, begin, states=False)
        assert before[-1].mode == mode
        assert {float(d.command[0]) for d in before} == {left}
        first = drive(controller, 10, begin + 60, np.array([0.0, place, 0.0, 0.0]))
        assert {d.mode for d in first} == {mode}
        assert {float(d.command[0]) for d in first} == {place}
        controller.begin()
