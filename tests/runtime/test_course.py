"""Courses: what is written is what is read, and the controller plays them once, from their start to their end, or breaks them off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import FakeLink, plan_of, spec_with
from safetensors.numpy import load_file, save_file

from mbrl_control.errors import UserError
from mbrl_control.runtime import course
from mbrl_control.runtime.controller import Controller
from mbrl_control.runtime.course import Course, Player, Region
from mbrl_control.runtime.faults import Mode

T = 0.02


def everywhere(spec):
    return Region(np.full(spec.state_dim, -np.inf), np.full(spec.state_dim, np.inf), spec.wraps)


def a_course(spec, ticks=20, gain=0.0):
    command = 0.5 * np.sin(0.7 * np.arange(ticks))[:, None]
    return Course(command, np.zeros((ticks, spec.state_dim)), np.full((spec.action_dim, spec.state_dim), gain))


def controller_of(spec, where=None, link=None, **options):
    return Controller(spec, link or FakeLink(), 0, player=Player(a_course(spec, **options), where or everywhere(spec)))


def drive(controller, ticks, state=None, begin=0):
    out = []
    for k in range(begin, begin + ticks):
        if state is not None:
            controller.on_state(k * T, np.array(state(k) if callable(state) else state, dtype=float))
        out.append(controller.tick(k * T))
    return out


SPEC = spec_with("cartpole")
STILL = [0.0, math.pi, 0.0, 0.0]


def test_a_course_is_played_command_by_command_and_then_the_robot_is_braked():
    link = FakeLink(lambda request: plan_of(SPEC, np.ones(25), request.apply_time, request.seq))
    controller = controller_of(SPEC, link=link)
    decisions = drive(controller, 30, STILL)
    played = a_course(SPEC).command
    assert np.array([d.command for d in decisions[:20]]) == pytest.approx(played)
    assert {d.mode for d in decisions[:20]} == {Mode.EXPLORE}
    assert {d.mode for d in decisions[20:]} == {Mode.BRAKE}
    assert all(d.reasons == ("course_over",) for d in decisions[20:])
    assert not link.requests, "nothing is asked of a planner"
    controller.begin()
    again = drive(controller, 20, STILL, begin=100)
    assert np.array([d.command for d in again]) == pytest.approx(played), "from the start"


def test_feedback_counts_around_the_circle():
    controller = controller_of(SPEC, gain=0.01)
    state = np.array([0.1, math.tau - 0.2, -0.3, 0.5])
    first = drive(controller, 1, state)[0]
    assert first.command[0] == pytest.approx(0.01 * (-0.1 + 0.2 + 0.3 - 0.5))


def test_a_robot_that_leaves_where_it_may_be_is_braked_for_good():
    low, high = np.full(4, -np.inf), np.full(4, np.inf)
    low[0], high[0] = -0.5, 0.75
    controller = controller_of(SPEC, Region(low, high, SPEC.wraps))
    decisions = drive(controller, 15, lambda k: [0.1 * k, math.pi, 0.0, 0.0])
    assert [d.mode for d in decisions[:8]] == 8 * [Mode.EXPLORE], "0.7 is within"
    assert {d.mode for d in decisions[8:]} == {Mode.BRAKE}
    assert decisions[8].reasons == ("course_left",)
    later = drive(controller, 100, STILL, begin=15)
    assert min(d.mode for d in later) >= Mode.BRAKE, "back within, it does not go on in the middle of a motion"


def test_a_course_does_not_go_on_after_something_else_went_wrong():
    controller = controller_of(SPEC)
    drive(controller, 5, STILL)
    silent = drive(controller, 10, None, begin=5)
    assert silent[-1].mode == Mode.BRAKE
    assert "state_stale" in silent[-1].reasons
    later = drive(controller, 120, STILL, begin=15)
    assert min(d.mode for d in later) >= Mode.BRAKE
    assert later[-1].reasons == ("course_over",)


def test_nothing_is_played_before_the_first_state():
    controller = controller_of(SPEC)
    assert {d.mode for d in drive(controller, 5)} == {Mode.STANDBY}
    assert drive(controller, 20, STILL, begin=5)[-1].command == pytest.approx(a_course(SPEC).command[19])


def test_a_written_course_is_read_again(tmp_path):
    where = Region(np.array([-0.5, -np.inf, -1.0, -2.0]), np.array([0.7, np.inf, 1.0, 2.0]), SPEC.wraps)
    course.write(tmp_path / "c", SPEC, a_course(SPEC, gain=0.3), where)
    found, region = course.read(tmp_path / "c", SPEC)
    for name, array in vars(a_course(SPEC, gain=0.3)).items():
        assert np.array_equal(getattr(found, name), array)
    assert np.array_equal(region.low, where.low)
    assert np.array_equal(region.high, where.high)


def test_a_course_that_is_none_is_refused(tmp_path):
    course.write(tmp_path / "good", SPEC, a_course(SPEC), everywhere(SPEC))
    arrays = load_file(tmp_path / "good")
    nan = arrays["command"].copy()
    nan[3] = np.nan
    wrong = {"nan": {"command": nan}, "short": {"reference": arrays["reference"][1:]}, "endless": {"gain": arrays["gain"] + np.inf},
             "empty": {"command": np.zeros((0, 1)), "reference": np.zeros((0, 4))}}
    for name, changed in wrong.items():
        save_file(arrays | changed, tmp_path / name)
        with pytest.raises(UserError, match="missing, of another shape or not finite"):
            course.read(tmp_path / name, SPEC)
    for spec in (spec_with("pendulum"), spec_with("cartpole", rate_hz=100.0)):
        with pytest.raises(UserError, match="designed for other signals or another rate"):
            course.read(tmp_path / "good", spec)
    (tmp_path / "text").write_text("no course at all, but long enough to be read")
    for name in ("text", "nowhere", "."):
        with pytest.raises(UserError, match="cannot be read as a course"):
            course.read(tmp_path / name, SPEC)
