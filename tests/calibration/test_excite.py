"""`mbrl excite`: what it records is what was commanded, and what it says is true."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mbrl_calibration import excite, excite_bag, excite_live, playing, runs
from mbrl_control import robot
from mbrl_control.errors import UserError


def run(*arguments):
    app = typer.Typer()
    app.callback()(lambda: None)
    excite.add(app)
    result = CliRunner().invoke(app, ["excite", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_a_bag_holds_what_was_commanded(tmp_path, name):
    result = run(name, "--seconds", 3, "--seed", 1, "-o", tmp_path / "run", "--json", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    spec = robot.load(name)
    (found,) = runs.load([tmp_path / "run"], spec)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(found.time) == figures["ticks"] == 3 * spec.rate_hz
    np.testing.assert_allclose(np.diff(found.time), spec.tick_s, atol=1e-9)
    assert found.state.std(axis=0).min() > 1e-3
    np.testing.assert_array_equal(found.command[0], spec.action_zero)
    at_most = (1 - np.array(list(figures["command_margin"].values()))) * spec.action_high
    np.testing.assert_allclose(np.abs(found.command).max(axis=0), at_most, rtol=1e-9)
    assert figures["stopped"] is None
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"bag", "robot.yaml", "excitation.json", "picture.png", "course.safetensors"}
    assert json.loads((tmp_path / "run" / "excitation.json").read_text())["seed"] == 1


def test_a_bag_plays_again_as_it_was(tmp_path):
    """The recorded commands, played from the recorded start on the same robot, bring the recorded states."""
    from mbrl_sim.plant import MujocoPlant

    run("pendulum", "--seconds", 3, "-o", tmp_path / "run")
    spec = robot.load("pendulum")
    (found,) = runs.load([tmp_path / "run"], spec)
    plant = MujocoPlant(spec)
    plant.place(found.state[0])
    states = np.array([found.state[0], *[plant.step(command, spec.tick_s) for command in found.command[:-1]]])
    np.testing.assert_allclose(np.angle(np.exp(1j * (states[:, 0] - found.state[:, 0]))), 0, atol=1e-6)
    np.testing.assert_allclose(states[:, 1], found.state[:, 1], atol=1e-6)


def test_a_robot_that_differs_from_its_model_is_stopped(tmp_path):
    """A pendulum whose motor is four times as strong goes faster than it may; what came before, and how it was stopped, is recorded."""
    text = robot.shipped()["pendulum"].read_text().replace("bounds: [-50, 50]", "bounds: [-50, 50], range: [-3, 3]")
    (tmp_path / "robot.yaml").write_text(text)
    result = run(tmp_path / "robot.yaml", "--seconds", 10, "--change", "gear:motor*4", "-o", tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "excitation.json").read_text())
    assert result.exit_code == 1
    assert "'theta_dot' =" in figures["stopped"]
    assert "outside [-3, 3]" in figures["stopped"]
    (found,) = runs.load([tmp_path / "run"], robot.load("pendulum"))
    outside = np.abs(found.state[:, 1]) > 3
    at = int(np.argmax(outside))
    assert len(found.time) == figures["ticks"] == at + 50 < 500
    assert found.command[:at].any()
    np.testing.assert_array_equal(found.command[at:], 0)


def test_sensors_of_commands_are_recorded():
    """What the motors of the double pendulum measure is what was commanded 12 ms, 6 ticks, before."""
    from mbrl_calibration import mechanism

    spec = robot.load("double_pendulum_c1")
    command = np.random.default_rng(0).normal(size=(20, 2))
    played = playing.Played(np.arange(20) / 500, np.zeros((20, 4)), command, command, 0, None)
    told = excite_bag.efforts(spec, mechanism.build(spec), played)
    np.testing.assert_allclose(told[6:], command[:-6])
    np.testing.assert_array_equal(told[:6], 0)


def test_a_robot_without_mjcf_is_simulated_by_its_equations(tmp_path):
    result = run("double_pendulum_c1", "--seconds", 2, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    (found,) = runs.load([tmp_path / "run"], robot.load("double_pendulum_c1"))
    np.testing.assert_allclose(found.measured[6:], found.command[:-6], atol=1e-12)


@pytest.mark.parametrize(("arguments", "said"), [
    (["pendulum", "--kind", "sweep"], r"--kind 'sweep' is not known; nearest"),
    (["pendulum", "--band", "3"], r"write two frequencies in Hz"),
    (["pendulum", "--band", "3,1"], r"must be above 0 and below the second"),
    (["pendulum", "--change", "mass:rod"], r"write it as WHAT\*FACTOR"),
    (["double_pendulum_c1", "--change", "mass:link1*2"], r"has no `sim`"),
    (["arm7", "--kind", "fourier"], r"give `nominal`, or use a multisine"),
])
def test_wrong_orders_are_told_and_leave_nothing(tmp_path, arguments, said):
    with pytest.raises(UserError, match=said):
        run(*arguments, "--seconds", 2, "-o", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_robot_that_nothing_is_known_of_is_not_moved(tmp_path):
    text = robot.shipped()["rc_car"].read_text().replace("nominal: {system: car}", "")
    (tmp_path / "car.yaml").write_text(text)
    with pytest.raises(UserError, match=r"'rc_car' cannot be simulated, so that nothing can be tried before: give it 'sim"):
        run(tmp_path / "car.yaml", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recordings_are_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="exists already"):
        run("pendulum", "-o", tmp_path / "run")


def test_a_robot_is_not_moved_as_its_simulation_could_not_be(tmp_path):
    with pytest.raises(UserError, match=r"not played on the robot.*stopped at 1 s"):
        excite._require_trial({"stopped": "stopped at 1 s"})
    excite._require_trial({"stopped": None})
    with pytest.raises(UserError, match="--change changes the robot in simulation only"):
        run("cartpole", "--on", "robot", "--change", "mass:pole*2", "-o", tmp_path / "run")
    with pytest.raises(UserError, match=r"--on 'twins' is not known.*twin"):
        run("cartpole", "--on", "twins", "-o", tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_why_a_live_course_was_broken_off():
    fault = {"count": 3, "action": ""}
    over = {**fault, "code": "course_over", "first_s": 3.0}
    assert excite_live._stopped({"faults": [{**fault, "code": "BRAKE", "first_s": 3.0}, over]}) is None
    left = {**fault, "code": "course_left", "first_s": 1.25}
    assert "broken off at 1.25 s: the robot left" in excite_live._stopped({"faults": [left]})
    stale = {**fault, "code": "state_stale", "first_s": 0.5}
    assert excite_live._stopped({"faults": [over, stale]}) == "broken off at 0.50 s: the state is too old to act on (state_stale)"
    told = {**fault, "code": "recorder_stopped", "first_s": 0.1}
    assert excite_live._stopped({"faults": [told, over]}) is None
    assert excite_live._stopped({"faults": [told]}) == "ended before the course was over"
