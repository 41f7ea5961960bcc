import csv
import json

import mujoco
import numpy as np
import pytest
import yaml
from truths import multisine, pendulum_spec, run_of, simulate
from typer.testing import CliRunner

from mbrl_calibration import find_dynamics, mechanism, outputs, runs, twin
from mbrl_calibration.mechanism import effort_function
from mbrl_calibration.runs import Run
from mbrl_calibration.uncertainty import Recalibration
from mbrl_control import robot
from mbrl_control.cli import application
from mbrl_control.errors import DataError, UserError
from mbrl_control.models import equations, mjcf_changes
from mbrl_control.robot import RobotSpec
from mbrl_sim.plant import MujocoPlant


def test_a_twin_that_is_right_already_stays_as_it_is():
    spec = robot.load("cartpole")
    m = mechanism.build(spec)
    found = twin.match(spec, m, m.start, np.random.default_rng(0))
    assert found.error < 1e-6
    assert found.changes == pytest.approx({"mass:cart": 1.0, "mass:pole": 1.0}, rel=1e-6)
    assert found.values["damping:slider"] == pytest.approx(5e-4, rel=1e-4)
    assert found.values["friction:slider"] == 0.0


def test_a_changed_twin_has_the_efforts_of_the_equations():
    spec = robot.load("cartpole")
    m = mechanism.build(spec)
    values = m.start.copy()
    values[:3] = [1.3 + 0.07, 0.07 * 0.5, m.start[2] * 0.7]
    values[m.names.index("b_cart")], values[m.names.index("cf_pole")] = 0.4, 0.01
    found = twin.match(spec, m, values, np.random.default_rng(0))
    assert found.fits
    assert found.changes == pytest.approx({"mass:cart": 1.3, "mass:pole": 0.7}, rel=1e-2)
    data = spec.model_dump(exclude_unset=True)
    changed = RobotSpec.model_validate({**data, "sim": {**data["sim"], "changes": found.changes, "values": found.values}})
    plant = MujocoPlant(changed)
    plant.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONSTRAINT
    effort, rng = effort_function(m), np.random.default_rng(1)
    frictionless = values.copy()
    frictionless[m.names.index("cf_pole")] = 0.0
    for _ in range(10):
        q, v, a = rng.normal(0, 1, (3, 2))
        plant.data.qpos[:], plant.data.qvel[:], plant.data.qacc[:] = q, v, a
        mujoco.mj_inverse(plant.model, plant.data)
        np.testing.assert_allclose(plant.data.qfrc_inverse, np.asarray(effort(q, v, a, frictionless)).ravel(), rtol=0.02, atol=0.02)


def test_a_twin_that_cannot_be_made_so_is_told():
    spec = robot.load("pendulum")
    m = mechanism.build(spec)
    lighter = m.start.copy()
    lighter[m.names.index("I")] *= 0.3  # less inertia than its moment allows the rod of the MJCF to have
    assert not twin.match(spec, m, lighter, np.random.default_rng(0)).fits


def test_a_robot_without_a_twin_has_none():
    spec = robot.load("double_pendulum_c1")
    assert twin.match(spec, mechanism.build(spec), mechanism.build(spec).start, np.random.default_rng(0)) is None


def test_what_is_written_is_what_the_nominal_model_and_the_simulation_read(tmp_path):
    source = robot.load("cartpole").model_dump(exclude_unset=True)
    source["model"] = {"kind": "casadi", "options": {"system": "cartpole", "substeps": 3}}
    source = json.loads(json.dumps(source))
    spec = RobotSpec.model_validate(source)
    match = twin.Twin({"mass:cart": 1.25}, {"damping:slider": 0.3}, 0.0)
    data = outputs.calibrated(spec, source, {"m_cart": 1.25, "b_cart": 0.3}, np.array([0.021]), match)
    made = outputs.write(tmp_path / "new.yaml", data, "why")
    assert made.nominal.parameters == {"m_cart": 1.25, "b_cart": 0.3}
    assert made.delays.tolist() == [0.021]
    assert made.model.options == {"substeps": 3}
    known = equations.of(made, equations.Options(), "test")
    assert (known.parameters["m_cart"], known.parameters["m_pole"]) == (1.25, 0.1)
    plant = MujocoPlant(made)
    assert float(plant.model.body("cart").mass[0]) == pytest.approx(1.25)
    assert float(plant.model.joint("slider").damping[0]) == pytest.approx(0.3)
    assert (tmp_path / "new.yaml").read_text().startswith("# why\n")
    assert made.state_names == spec.state_names
    with pytest.raises(UserError, match="exists already"):
        outputs.write(tmp_path / "new.yaml", data, "why")


def test_a_twin_that_does_not_fit_is_not_written():
    source = json.loads(json.dumps(robot.load("cartpole").model_dump(exclude_unset=True)))
    data = outputs.calibrated(RobotSpec.model_validate(source), source, {}, None, twin.Twin({"mass:cart": 2.0}, {}, 0.5))
    assert data == source


def test_a_file_that_would_be_no_robot_is_not_left_behind(tmp_path):
    with pytest.raises(UserError):
        outputs.write(tmp_path / "bad.yaml", {"name": "x"}, "why")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sim", "said"), [
    ({"values": {"dampng:slider": 1.0}}, "cannot set 'dampng'; nearest: 'damping'"),
    ({"values": {"damping:slidr": 1.0}}, "has no joint 'slidr'; nearest: 'slider'"),
    ({"changes": {"mass:cat": 1.0}}, "has no body 'cat'; nearest: 'cart'"),
    ({"changes": {"colour:cart": 1.0}}, "cannot change 'colour'"),
])
def test_changes_of_what_is_not_there_are_told(sim, said):
    data = robot.load("cartpole").model_dump(exclude_unset=True)
    with pytest.raises(UserError, match=said):
        MujocoPlant(RobotSpec.model_validate({**data, "sim": {**data["sim"], **sim}}))


def test_dry_friction_of_a_joint_holds_it():
    data = robot.load("cartpole").model_dump(exclude_unset=True)
    plant = MujocoPlant(RobotSpec.model_validate({**data, "sim": {**data["sim"], "values": {"friction:slider": 4.0}}}))
    plant.place(np.array([0.0, np.pi, 0.0, 0.0]))
    assert abs(plant.step(np.array([0.3]), 0.5)[0]) < 0.01  # 3 N against 4 N
    mjcf_changes.put(plant.model, "friction:slider", 0.0)
    assert abs(plant.step(np.array([0.3]), 0.5)[0]) > 0.1


def test_what_lies_outside_the_range_is_left_out():
    spec = robot.load("cartpole")
    time = np.arange(500) / 100.0
    state = np.zeros((500, 4))
    state[200:300, 0] = 2.0
    run = Run("r", time, state, np.zeros((500, 1)), np.full((500, 1), np.nan))
    assert [len(p.time) for p in runs.within_range(run, spec)] == [200, 200]


def log(path, m, truth, seed, names, seconds=8.0):
    rng = np.random.default_rng(seed)
    time, command = multisine(seconds, 100.0, [2.0], rng)
    states = simulate(m, truth, time, command, np.array([0.02]), np.array([np.pi, 0.0]))
    run = run_of(m, time, states, command, np.array([1e-3, 2e-2]), rng)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["time", *names])
        out.writerows(np.column_stack([run.time, run.state, run.command]).tolist())


@pytest.fixture
def logs(tmp_path):
    spec = pendulum_spec()
    m = mechanism.build(spec)
    data = json.loads(json.dumps(spec.model_dump(exclude_unset=True)))
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(data))
    for seed in (0, 1):
        log(tmp_path / f"log{seed}.csv", m, m.start * np.array([1.1, 1.1, 2.0, 1.0, 1.0]), seed, [*spec.state_names, *spec.command_names])
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(application(), ["calibrate", *map(str, arguments)])


def test_the_command_writes_a_robot_a_page_and_figures(logs):
    result = call("dynamics", logs / "robot.yaml", logs / "log0.csv", "--test", logs / "log1.csv", "--find-delays", "-o",
                  logs / "new.yaml", "--json", logs / "f.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((logs / "f.json").read_text())
    assert figures["parameters"]["I"]["low"] < 1.1 / 3 < figures["parameters"]["I"]["high"]
    assert figures["delay_s"]["torque"]["value"] == pytest.approx(0.02, abs=0.002)
    assert figures["free_run_rmse"]["0.5"] < 0.5 * figures["scores"]["test"]["nominal"]["free_run_rmse"]["0.5"]
    assert figures["torque_rmse"] == figures["scores"]["test"]["shooting"]["torque_rmse"]
    made = robot.load(logs / "new.yaml")
    assert made.nominal.parameters["I"] == pytest.approx(1.1 / 3, rel=0.02)
    assert made.delays[0] == pytest.approx(0.02, abs=0.002)
    assert made.sim.changes["mass:rod"] == pytest.approx(1.1, rel=0.02)
    page = (logs / "new.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "95 % interval" in page
    assert all(len(line) <= 100 for line in result.output.splitlines())


def test_the_command_tells_each_runs_zero(logs):
    rows = list(csv.reader((logs / "log1.csv").open()))
    place = rows[0].index(pendulum_spec().state_names[0])
    moved = [rows[0], *([*row[:place], float(row[place]) + 0.04, *row[place + 1:]] for row in rows[1:])]
    with (logs / "log1.csv").open("w", newline="") as file:
        csv.writer(file).writerows(moved)
    result = call("dynamics", logs / "robot.yaml", logs / "log0.csv", logs / "log1.csv", "--find-delays", "--zeros", "0.05", "--json",
                  logs / "f.json")
    assert result.exit_code == 0, result.output
    assert "add to theta" in result.output
    zeros = json.loads((logs / "f.json").read_text())["zeros"]
    found = [row[pendulum_spec().state_names[0]] for row in zeros]
    assert [row["run"] for row in zeros] == ["log0.csv", "log1.csv"]
    assert found[1] - found[0] == pytest.approx(-0.04, abs=0.004)


@pytest.mark.parametrize(("how", "said"), [(["--commands"], "goes by commands"), ([], "goes by the sensors")])
def test_the_command_tells_of_a_sensor_that_shows_less_than_is_commanded(logs, how, said):
    data = yaml.safe_load((logs / "robot.yaml").read_text())
    data["nominal"]["measured"] = [{"name": "shown", "of": "torque", "topic": "/effort", "field": "data", "type": "std_msgs/msg/Float64",
                                    "unit": "N*m", "column": "shown"}]
    data["command"][0]["delay_s"] = 0.02
    (logs / "robot.yaml").write_text(yaml.safe_dump(data))
    rows = list(csv.reader((logs / "log0.csv").open()))
    place = rows[0].index("torque")
    shown = [0.8 * float(row[place]) for row in rows[1:-2]]  # of what was sent two samples before
    with (logs / "log0.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*rows[0], "shown"], *([*row, value] for row, value in zip(rows[3:], shown, strict=True))])
    result = call("dynamics", logs / "robot.yaml", logs / "log0.csv", *how, "--json", logs / "f.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((logs / "f.json").read_text())
    sensor = figures["effort_sensors"]["torque"]
    assert sensor["low"] < 0.8 < sensor["high"] < sensor["low"] + 0.05
    assert any(f"'torque' shows {sensor['gain']:.3g} times what is commanded" in note and said in note for note in figures["notes"])
    assert ("sensors' rmse" in result.output) == (figures["sensor_rmse"] is not None) == bool(how)
    assert figures["parameters"]["I"]["value"] == pytest.approx((1.0 if how else 0.8) * 1.1 / 3, rel=0.05)


@pytest.mark.parametrize("what", ["a car", "a robot of 6 joints"])
def test_zeros_are_refused_where_no_free_run_could_tell_them(what):
    find_dynamics._without_zeros(0.0, what)
    with pytest.raises(UserError, match=f"--zeros 0.05: {what} is calibrated without free runs, which alone tell zeros; leave the option"):
        find_dynamics._without_zeros(0.05, what)


@pytest.mark.parametrize(("nominal", "file", "error", "said"), [
    (None, "log0.csv", UserError, "has no key 'nominal'"),
    ({"system": "pendulum"}, "missing.csv", DataError, "there is no such file"),
])
def test_what_cannot_be_calibrated_is_told(logs, nominal, file, error, said):
    data = yaml.safe_load((logs / "robot.yaml").read_text()) | {"nominal": nominal}
    (logs / "robot.yaml").write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    result = call("dynamics", logs / "robot.yaml", logs / file, "-o", logs / "new.yaml")
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
    assert not (logs / "new.yaml").exists()


def test_known_parameters_have_names(logs):
    data = yaml.safe_load((logs / "robot.yaml").read_text())
    data["nominal"]["known"] = ["mass"]
    (logs / "other.yaml").write_text(yaml.safe_dump(data))
    result = call("dynamics", logs / "other.yaml", logs / "log0.csv")
    assert "'mass' is none of the lumped parameters I, mu, b, cf, offset" in str(result.exception), result.output


def test_intervals_are_recalibrated_on_runs_that_were_not_fitted(logs):
    both = logs / "log0.csv", logs / "log1.csv"
    result = call("uncertainty", logs / "robot.yaml", *both, "--budget", "2", "-o", logs / "r.json", "--json", logs / "f.json")
    assert result.exit_code == 0, result.output
    assert set(json.loads((logs / "f.json").read_text())["coverage"]) == {"before", "after", "off"}
    made = Recalibration.from_json(json.loads((logs / "r.json").read_text()))
    assert made.runs == 2
    assert made.factor(0.8, 1, 0) > made.factor(0.5, 1, 0) > 0
    again = call("uncertainty", logs / "robot.yaml", logs / "log0.csv", "--budget", "2", "-o", logs / "other.json")
    assert "at least two logs" in str(again.exception)


def test_a_robot_with_recalibrated_intervals_is_evaluated_before_and_after(logs):
    """From logs to the YAML to `mbrl evaluate`: what intervals hold of a run not seen, as predicted and recalibrated."""
    both = logs / "log0.csv", logs / "log1.csv"
    result = call("uncertainty", logs / "robot.yaml", *both, "--budget", "2", "-o", logs / "told.yaml")
    assert result.exit_code == 0, result.output
    made = robot.load(logs / "told.yaml")
    assert made.intervals.steps[0] == 1
    assert set(made.intervals.width_95) == set(made.state_names)
    program = application()
    fitted = CliRunner().invoke(program, ["fit", str(both[0]), "--robot", str(logs / "robot.yaml"), "-o", str(logs / "model"),
                                          "--budget", "2"])
    assert fitted.exit_code == 0, fitted.output
    judged = CliRunner().invoke(program, ["evaluate", str(logs / "model"), str(both[1]), "--horizons", "1,2",
                                          "--robot", str(logs / "told.yaml"), "--json", str(logs / "e.json")])
    assert judged.exit_code == 0, judged.output
    assert "recalibrated" in judged.output
    found = json.loads((logs / "e.json").read_text())["intervals"]
    assert set(found) == {"before", "after"}
    assert set(found["after"]["1"]) == set(made.state_names)
    assert all(0 <= share <= 1 for of in found["after"]["1"].values() for share in of.values())
    plain = CliRunner().invoke(program, ["evaluate", str(logs / "model"), str(both[1]), "--horizons", "1", "--json", str(logs / "p.json")])
    assert plain.exit_code == 0, plain.output
    assert "intervals" not in json.loads((logs / "p.json").read_text())
