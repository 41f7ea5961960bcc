"""What is wrong with logs: each fault put into a sound log is found, told with its place, and a sound log has none."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from bag_tools import real
from synthetic import multisine, simulate

from mbrl_calibration import checks, runs
from mbrl_calibration.findings import quantum, smoothness, stretches
from mbrl_calibration.runs import Run
from mbrl_control import robot, strict_yaml

PERIOD = 0.005


@functools.cache
def sound(seed=0, count=2000, measured=True):
    """A log of a double pendulum with encoders, noisy rates, and sensors of its torques."""
    spec, rng = robot.load("double_pendulum_c1"), np.random.default_rng(seed)
    command = multisine(PERIOD * np.arange(count), 2, 2.0, rng)
    run = simulate(spec, {}, command, PERIOD, np.array([0.01, 0.01]), rng, noise=(0.0, 0.02))
    state = run.state.copy()
    state[:, :2] = np.round(state[:, :2] / 4e-4) * 4e-4
    sensor = np.roll(command, 2, axis=0) * 0.95 + 0.03 * rng.standard_normal(command.shape)
    return spec, Run("run", run.time, state, command, sensor if measured else run.measured)


def changed(run, **arrays):
    return Run(run.name, arrays.get("time", run.time), arrays.get("state", run.state), arrays.get("command", run.command),
               arrays.get("measured", run.measured))


def state_with(run, column, values):
    state = run.state.copy()
    state[:, column] = values
    return changed(run, state=state)


def found(run, spec):
    return {f.code: f for f in checks.look([run], spec)}


def test_a_sound_log_has_no_faults():
    for seed in range(5):
        spec, run = sound(seed)
        assert checks.look([run], spec) == []


def test_no_logs_have_no_faults():
    assert checks.look([], robot.load("double_pendulum_c1")) == []


def test_commands_that_do_not_change():
    spec, run = sound()
    both = found(changed(run, command=np.full_like(run.command, 0.5)), spec)["no_excitation"]
    assert both.severity == "refuse"
    assert "'tau1'" in both.sentence or "'tau2'" in both.sentence
    one = run.command.copy()
    one[:, 1] = 0.5
    quiet = found(changed(run, command=one), spec)["no_excitation"]
    assert quiet.severity == "warn"
    assert "'tau2'" in quiet.sentence


def test_a_robot_that_does_not_answer():
    spec, run = sound()
    still = 0.02 * np.random.default_rng(0).standard_normal(run.state.shape)
    fault = found(changed(run, state=still), spec)["no_motion"]
    assert fault.severity == "refuse"
    assert "drives on" in fault.sentence


def test_gaps_are_told_with_place_and_refused_when_much_is_missing():
    spec, run = sound()
    keep = np.ones(2000, bool)
    keep[1000:1020] = False
    little = Run("run", run.time[keep], run.state[keep], run.command[keep], run.measured[keep])
    fault = found(little, spec)["gaps"]
    assert fault.severity == "warn"
    assert "lasts 0.105 s from 5 s after the start" in fault.sentence
    for begin in range(100, 1900, 100):
        keep[begin:begin + 30] = False
    much = Run("run", run.time[keep], run.state[keep], run.command[keep], run.measured[keep])
    assert found(much, spec)["gaps"].severity == "refuse"


@pytest.mark.parametrize(("factor", "unit"), [(1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds")])
def test_time_in_other_units(factor, unit):
    spec, run = sound()
    fault = found(changed(run, time=run.time * factor), spec)["time_units"]
    assert fault.severity == "refuse"
    assert unit in fault.sentence


@pytest.mark.parametrize(("column", "factor", "says"), [(0, 180 / np.pi, "degrees"), (2, 180 / np.pi, "degrees per second"),
                                                        (3, 30 / np.pi, "revolutions per minute"),
                                                        (3, 1 / (2 * np.pi), "revolutions per second"), (1, 1 / (2 * np.pi), "revolutions"),
                                                        (2, 1000.0, "thousandths")])
def test_wrong_units_by_the_factor_between_position_and_rate(column, factor, says):
    spec, run = sound()
    fault = found(state_with(run, column, run.state[:, column] * factor), spec)["units"]
    assert fault.severity == "refuse"
    assert says in fault.sentence
    assert f"'{spec.state_names[column]}'" in fault.sentence


def test_degrees_that_were_unwrapped_as_radians():
    spec, run = sound()
    degrees = (run.state[:, 1] * 180 / np.pi + 180) % 360 - 180
    fault = found(state_with(run, 1, np.unwrap(degrees)), spec)["units"]
    assert fault.severity == "refuse"
    assert "degrees" in fault.sentence


def test_angles_and_rates_both_in_degrees_are_suspected():
    spec, run = sound()
    assert found(changed(run, state=run.state * 180 / np.pi), spec)["fast"].severity == "warn"


def test_a_rate_of_the_other_sign_and_one_of_another_scale():
    spec, run = sound()
    assert found(state_with(run, 2, -run.state[:, 2]), spec)["sign"].severity == "refuse"
    fault = found(state_with(run, 2, 1.4 * run.state[:, 2]), spec)["scale"]
    assert fault.severity == "warn"
    assert "0.71" in fault.sentence  # 1 / 1.4


def test_swapped_columns():
    spec, run = sound()
    faults = [f for f in checks.look([changed(run, state=run.state[:, [1, 0, 2, 3]])], spec) if f.code == "swapped"]
    assert len(faults) == 2
    assert all(f.severity == "refuse" for f in faults)
    assert "'q1' moves as 'v2' says" in faults[0].sentence


def test_one_column_read_twice():
    spec, run = sound()
    fault = found(state_with(run, 1, run.state[:, 0]), spec)["duplicate"]
    assert "'q1' and 'q2'" in fault.sentence


def test_a_position_that_belongs_to_no_rate():
    spec, run = sound()
    other = np.cumsum(np.random.default_rng(9).standard_normal(2000)) * 0.01
    fault = found(state_with(run, 0, other), spec)["mismatch"]
    assert fault.severity == "refuse"
    assert "'q1'" in fault.sentence


@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_a_sensor_that_is_stuck_for_a_while(column):
    spec, run = sound(1)
    values = run.state[:, column].copy()
    begin = 600 + int(np.argmin(np.abs(values[600:1400] - np.median(values))))  # not at its extreme
    values[begin:begin + 200] = values[begin]
    fault = found(state_with(run, column, values), spec)["stuck"]
    assert fault.severity == "refuse"
    assert f"'{spec.state_names[column]}' keeps to" in fault.sentence
    assert f"from {begin * PERIOD:.3g} s after the start" in fault.sentence


def test_a_sensor_that_is_stuck_throughout():
    spec, run = sound()
    fault = found(state_with(run, 1, np.full(2000, 0.3)), spec)["stuck"]
    assert "'q2'" in fault.sentence


@pytest.mark.parametrize(("column", "share"), [(0, 0.6), (1, 0.6), (2, 0.5), (3, 0.5)])
def test_a_sensor_that_saturates(column, share):
    spec, run = sound()
    top = share * run.state[:, column].max()
    fault = found(state_with(run, column, np.minimum(run.state[:, column], top)), spec)["saturated"]
    assert fault.severity == "refuse"
    assert f"'{spec.state_names[column]}'" in fault.sentence
    assert f"{top:.4g}" in fault.sentence


def test_a_robot_at_rest_is_not_stuck():
    spec, run = sound()
    rng = np.random.default_rng(0)
    rest = np.tile(run.state[-1] * [1, 1, 0, 0], (2000, 1)) + rng.standard_normal((2000, 4)) * [0, 0, 0.005, 0.005] + [0, 0, 0.01, 0.01]
    both = Run("run", PERIOD * np.arange(4000), np.concatenate([run.state, rest]), np.concatenate([run.command, 0 * run.command]),
               np.concatenate([run.measured, 0.03 * rng.standard_normal((2000, 2))]))
    assert not [f for f in checks.look([both], spec) if f.severity == "refuse"]


def test_commands_beyond_their_limits():
    spec, run = sound()
    fault = found(changed(run, command=4 * run.command), spec)["beyond_limits"]
    assert fault.severity == "warn"
    assert "[-6.0, 6.0]" in fault.sentence


def test_sensors_of_the_commands_swapped_of_the_other_sign_in_other_units_and_apart():
    spec, run = sound()
    assert found(changed(run, measured=run.measured[:, ::-1]), spec)["measured_swapped"].severity == "refuse"
    assert found(changed(run, measured=-run.measured), spec)["measured_sign"].severity == "refuse"
    assert "thousandths" in found(changed(run, measured=1000 * run.measured), spec)["measured_units"].sentence
    assert "5.7 times" in found(changed(run, measured=6 * run.measured), spec)["measured_gain"].sentence  # of 0.95
    noise = np.random.default_rng(0).standard_normal(run.measured.shape)
    assert found(changed(run, measured=noise), spec)["mismatch"].severity == "warn"


def test_sensors_of_the_commands_that_clip_or_are_stuck():
    spec, run = sound()
    clipped = run.measured.copy()
    clipped[:, 0] = np.clip(clipped[:, 0], -0.5, 0.5)
    fault = found(changed(run, measured=clipped), spec)["saturated"]
    assert fault.severity == "warn"
    assert "'tau1'" in fault.sentence
    clipped[:, 0] = 0.1
    assert found(changed(run, measured=clipped), spec)["stuck"].severity == "refuse"


def test_a_log_without_sensors_of_commands_is_sound():
    spec, run = sound(measured=False)
    assert checks.look([run], spec) == []


def test_refusals_come_first():
    spec, run = sound()
    made = checks.look([changed(state_with(run, 2, -run.state[:, 2]), command=4 * run.command)], spec)
    assert [f.severity for f in made] == sorted(f.severity for f in made)  # "refuse" before "warn"
    assert len({f.severity for f in made}) == 2


def test_tools():
    assert stretches(np.array([1.0, 1, 1, 2, 3, 3, 3, 3])) == [(0, 3), (4, 8)]
    assert quantum(np.array([0.0, 0.3, 0.3, 0.1])) == pytest.approx(0.2)
    assert quantum(np.ones(4)) == 0
    assert smoothness(np.ones(4)) == 0
    assert smoothness(np.sin(np.linspace(0, 20, 1000))) > 0.99
    assert abs(smoothness(np.random.default_rng(0).standard_normal(10000))) < 0.05


PENDULUM = """
name: simple
rate_hz: 200
state:
  - {name: theta, joint: pivot, field: position, unit: rad, column: %s}
  - {name: theta_dot, joint: pivot, field: velocity, unit: rad/s, rate_of: theta, column: %s}
command:
  - {name: torque, unit: N*m, joint: pivot, limits: [-20, 20]}
cost: {kind: quadratic}
"""


@pytest.mark.data
@pytest.mark.parametrize("name", ["sysid", "gravity_compensation", "energy_shaping", "sac", "pd_swingup_fail", "filter_fft"])
def test_real_logs_of_the_simple_pendulum_are_not_refused(name):
    columns = ("pos", "vel") if name == "filter_fft" else ("position", "velocity")
    spec = robot.validate(strict_yaml.parse(PENDULUM % columns, "simple.yaml"))
    assert [f.sentence for f in checks.look(runs.load([real("dfki_simple_pendulum") / name], spec), spec) if f.severity == "refuse"] == []


@pytest.mark.data
def test_real_logs_of_the_double_pendulum_are_not_refused():
    spec = robot.load("double_pendulum_c1")
    logs = runs.load(sorted(real("dfki_double_pendulum_C1").glob("*/trajectory.csv")), spec)
    assert len(logs) == 5
    assert [f.sentence for f in checks.look(logs, spec) if f.severity == "refuse"] == []


@pytest.mark.data
def test_the_real_car_is_not_refused_and_its_speed_sensor_is_told():
    spec = robot.load("rc_car")
    made = checks.look(runs.load([real("uf_gpsnav_ackermann_ros2_sqlite3") / "bag"], spec), spec)
    assert [f.sentence for f in made if f.severity == "refuse"] == []
    assert {"speed_sensor", "beyond_limits"} <= {f.code for f in made}
