"""The look ahead is the closed loop of nominal model and safe action: beside the loop written out, and both models beside each other."""

from __future__ import annotations

import json
import subprocess
import sys

import mujoco
import numpy as np
import pytest
from guarded import guarded

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.models import equations
from mbrl_control.models.expressions import SYSTEMS
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import look_ahead
from mbrl_control.runtime.safety import safe_action, safe_command

NONE = np.zeros((0, 1))


def written_out(spec, state, command, sent, delay=0):
    """States after the tick and each step of 0.02 s, one Runge-Kutta step each."""
    step = equations.integrator(SYSTEMS["cartpole"], SYSTEMS["cartpole"].parameters, 0.02, 1)
    line, out = [*sent, command], []
    for k in range(1 + round(spec.safety.horizon_s / 0.02)):
        if k:
            line.append(safe_command(spec, safe_action(spec, state, line[-1]), line[-1], 0.02)[0])
        state = step(state, line[-1 - delay]).full()[:, 0]
        out.append(state)
    return np.array(out)


@pytest.mark.parametrize("action", ["brake", "zero", "hold", "ramp"])
@pytest.mark.parametrize("rate", [None, 5.0])
def test_casadi_follows_the_safe_action_within_the_rates(action, rate):
    spec = guarded(top={"safe_action": action}, command={"max_rate": rate}, horizon_s=0.4)
    ahead, rng = look_ahead.build(spec), np.random.default_rng(0)
    for _ in range(5):
        state, command = rng.normal(0, 2, 4), rng.uniform(-1, 1, 1)
        assert ahead(state, command, NONE) == pytest.approx(written_out(spec, state, command, []), abs=1e-9)


def test_what_is_under_way_acts_first():
    spec = guarded(command={"delay_s": 0.05}, horizon_s=0.4)  # three ticks
    ahead, rng = look_ahead.build(spec), np.random.default_rng(1)
    state, command, sent = rng.normal(0, 1, 4), rng.uniform(-1, 1, 1), rng.uniform(-1, 1, (3, 1))
    assert ahead(state, command, sent) == pytest.approx(written_out(spec, state, command, list(sent), 3), abs=1e-9)


@pytest.mark.parametrize("delay", [0.0, 0.03])
def test_the_mjcf_and_the_equations_agree(delay):
    spec = guarded(command={"delay_s": delay, "max_rate": 20.0}, step_s=0.02, horizon_s=0.6)
    twin = guarded(command={"delay_s": delay, "max_rate": 20.0}, step_s=0.02, horizon_s=0.6, model="mujoco", options={})
    one, other, rng = look_ahead.build(spec), look_ahead.build(twin), np.random.default_rng(2)
    reach = int(np.ceil(delay * 50))
    for _ in range(5):
        state, command, sent = rng.normal(0, 0.3, 4), rng.uniform(-1, 1, 1), rng.uniform(-1, 1, (reach, 1))
        assert other(state, command, sent) == pytest.approx(one(state, command, sent), abs=1e-6)


def test_steps_are_as_many_as_fit_the_tick_or_as_asked_for():
    count = {name: len(look_ahead.build(guarded(**how))(np.zeros(4), np.zeros(1), NONE)) - 1 for name, how in {
        "casadi": {}, "mujoco": {"model": "mujoco", "options": {}}, "long": {"horizon_s": 5.0}, "asked": {"step_s": 0.1}}.items()}
    assert count == {"casadi": 50, "mujoco": 20, "long": 50, "asked": 10}


def test_a_simulation_that_fails_is_not_taken_for_the_start():
    ahead = look_ahead.build(guarded(model="mujoco", options={}))
    states = ahead(np.array([0.0, 0.0, 1e200, 1e200]), np.zeros(1), NONE)
    assert not np.isfinite(states).all() or np.abs(states).max() > 1e100
    assert np.isfinite(ahead(np.zeros(4), np.zeros(1), NONE)).all()  # and is forgotten


def test_an_unstable_simulation_writes_nothing_anywhere(tmp_path):
    """MuJoCo's own way of warning is a line in a file of the working directory and one on the terminal: in each tick."""
    spec = guarded(model="mujoco", options={})
    code = ("import numpy as np\nfrom mbrl_control.robot import RobotSpec\nfrom mbrl_control.runtime import look_ahead\n"
            f"ahead = look_ahead.build(RobotSpec.model_validate_json({spec.model_dump_json()!r}))\n"
            "for speed in (1e4, 1e5, 1e6, 1e8, 1e200):\n"
            "    states = ahead(np.array([0.0, 0.0, speed, speed]), np.zeros(1), np.zeros((0, 1)))\n"
            "    assert not (np.abs(states) <= 100).all()\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("speed", [2e6, -1e200, np.inf, np.nan])
def test_a_state_that_no_robot_has_is_not_simulated(speed, monkeypatch):
    ahead = look_ahead.build(guarded(model="mujoco", options={}))
    monkeypatch.setattr(mujoco, "mj_step", None)
    assert np.isnan(ahead(np.array([0.0, 0.0, speed, 0.0]), np.zeros(1), NONE)).all()


def test_an_mjcf_whose_joints_are_not_all_measured_is_refused():
    data = guarded(model="mujoco", options={}).model_dump()
    data["state"] = [data["state"][0], data["state"][2]]
    data |= {"model": {}, "cost": {"kind": "quadratic"}, "success": None}
    data["sim"]["start"] = {}
    with pytest.raises(UserError, match="does not measure position and velocity of joint hinge"):
        look_ahead.build(RobotSpec.model_validate(data))


def test_a_folder_for_the_mjcf_may_be_given(tmp_path):
    data = guarded(model="mujoco", options={}).model_dump()
    data["sim"]["mjcf"] = "mine.xml"
    spec = RobotSpec.model_validate(data)
    with pytest.raises(UserError, match=r"mine\.xml"):
        look_ahead.build(spec)
    from mbrl_control.models import mjcf

    (tmp_path / "mine.xml").write_text(mjcf.locate("cartpole.xml").read_text())
    assert look_ahead.build(spec, tmp_path)(np.zeros(4), np.zeros(1), NONE).shape == (21, 4)


@pytest.mark.parametrize(("model", "brought"), [("casadi", ["casadi"]), ("mujoco", ["mujoco"]), (None, [])])
def test_the_filter_brings_along_no_more_than_its_model(model, brought):
    spec = robot.load("cartpole") if model is None else guarded(model=model, **({"options": {}} if model == "mujoco" else {}))
    code = ("import json, sys\nfrom mbrl_control.robot import RobotSpec\nfrom mbrl_control.runtime.safety import SafetyFilter\n"
            f"SafetyFilter(RobotSpec.model_validate_json({spec.model_dump_json()!r}))\n"
            "print(json.dumps([m for m in ('torch', 'mujoco', 'casadi', 'matplotlib', 'scipy') if m in sys.modules]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == brought
