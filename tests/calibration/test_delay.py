"""Delays against known ones: mechanisms, a robot of which nothing is known, sensors and rates; and refusals where logs do not tell."""

from __future__ import annotations

import numpy as np
import pytest
from bag_tools import real
from synthetic import multisine, simulate

from mbrl_calibration import delay, runs, sensor_delay
from mbrl_calibration.profile import Piece, averaged, held, joined, profile, summed
from mbrl_calibration.runs import Run
from mbrl_calibration.whitening import covariance, memory_of, whiten
from mbrl_control import robot, strict_yaml
from mbrl_control.errors import DataError, UserError
from mbrl_control.robot import RobotSpec

SERVO = """
name: servo
rate_hz: 100
state:
  - {name: q, joint: j, field: position, unit: rad}
  - {name: v, joint: j, field: velocity, unit: rad/s, rate_of: q}
command:
  - {name: u, joint: j, unit: %s, limits: [-5, 5]}
cost: {kind: quadratic}
"""


def servo(unit: str) -> RobotSpec:
    return robot.validate(strict_yaml.parse(SERVO % f'"{unit}"', "servo.yaml"))


def without_physics(spec: RobotSpec) -> RobotSpec:
    return RobotSpec.model_validate(spec.model_dump(exclude_unset=True, exclude={"nominal"}))


def linear(u, period, late, rng, noise=0.01, spring=20.0, damper=3.0, gain=4.0, name="run"):
    """q'' = gain u(t - late) - spring q - damper q', integrated at a twentieth of the period."""
    fine, count = period / 20, len(u)
    integral = held(period * np.arange(count), u)
    at = fine * np.arange(20 * count + 1)
    force = np.where(at[1:] <= late, u[0], np.diff(integral(np.maximum(at - late, 0.0))) / fine)
    x = np.zeros((20 * count + 1, 2))
    for k, f in enumerate(force):
        v = x[k, 1] + fine * (gain * f - spring * x[k, 0] - damper * x[k, 1])
        x[k + 1] = x[k, 0] + fine * v, v
    state = x[:-1:20] + noise * rng.standard_normal((count, 2)) * [0.01, 1.0]
    return Run(name, period * np.arange(count), state, u[:, None], np.full((count, 1), np.nan))


def random_steps(count, hold, rng, size=2.0):
    return np.repeat(rng.uniform(-size, size, count // hold + 1), hold)[:count]


def test_the_integral_of_held_and_of_joined_values():
    time, values = np.array([0.0, 1.0, 3.0]), np.array([2.0, 4.0, 8.0])
    assert held(time, values)(np.array([0.5, 1.0, 2.0, 4.0])) == pytest.approx([1.0, 2.0, 6.0, 18.0])
    assert joined(time, values)(np.array([0.5, 1.0, 3.0])) == pytest.approx([1.25, 3.0, 15.0])  # trapezia
    assert summed(time, np.array([[2.0], [4.0]]))[:, 0] == pytest.approx([0.0, 2.0, 10.0])
    assert averaged(np.arange(7.0), 3) == pytest.approx([1.0, 4.0])


def test_the_memory_of_an_autoregressive_residual_and_its_whitening():
    rng = np.random.default_rng(0)
    e, r = rng.standard_normal(20000), np.zeros(20000)
    for k in range(2, len(r)):
        r[k] = 1.2 * r[k - 1] - 0.5 * r[k - 2] + e[k]
    memory = memory_of([r], order=3)
    assert memory == pytest.approx([1.2, -0.5, 0.0], abs=0.02)
    assert whiten(r, memory) == pytest.approx(e[3:], abs=0.2)


def test_the_covariance_is_that_of_least_squares_for_white_residuals_and_wider_for_others():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((6000, 2))
    white = rng.standard_normal(6000)
    by_hand = np.linalg.inv(x.T @ x) * (white @ white) / (6000 - 2)
    made = np.sqrt(np.diag(covariance(x, white)))
    assert (made >= np.sqrt(np.diag(by_hand)) - 1e-12).all()
    assert made == pytest.approx(np.sqrt(np.diag(by_hand)), rel=0.6)  # never narrower, and by the scatter of 12 blocks wider
    slow = np.repeat(rng.standard_normal(60), 100)  # both keep their value for 100 samples: 60 samples in truth
    assert covariance(slow[:, None], np.repeat(rng.standard_normal(60), 100))[0, 0] > 30 * 1 / 6000


def test_the_interval_of_a_profile_holds_the_truth_as_often_as_it_says():
    period, inside = 0.01, 0
    time = period * np.arange(600)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        true = rng.uniform(0.0, 0.05)
        u = multisine(time, 1, 1.0, rng, high_hz=6.0)[:, 0]
        drift = np.cumsum(0.02 * rng.standard_normal(600))  # a random walk: residuals with memory
        source = held(time, u)
        clean = summed(time, (np.diff(source(time - true)) / period)[:, None])[:, 0]
        piece = Piece(3.0 * clean + 0.005 * rng.standard_normal(600) + drift / 20, np.empty((600, 0)),
                      lambda d, s=source: summed(time, (np.diff(s(time - d)) / period)[:, None]))
        made = profile([piece], np.arange(-0.03, 0.2, 0.01))
        inside += made.low_s <= true <= made.high_s
        assert abs(made.delay_s - true) < 0.03
    assert inside >= 90


@pytest.mark.parametrize("samples", [0.0, 1.0, 2.37, 4.81])
def test_delay_of_a_robot_of_which_nothing_is_known(samples):
    rng = np.random.default_rng(7)
    (found,) = delay.estimate([linear(random_steps(1500, 7, rng), 0.01, 0.01 * samples, rng)], servo("N*m"))
    assert found.determined, found.reason
    assert found.delay_s == pytest.approx(0.01 * samples, abs=0.002)  # 0.2 samples
    assert found.low_s <= 0.01 * samples <= found.high_s
    assert found.method == "regression"


@pytest.mark.parametrize(("unit", "gains"), [("rad", {"spring": 80.0, "damper": 12.0, "gain": 80.0}),
                                             ("rad/s", {"spring": 0.0, "damper": 8.0, "gain": 8.0})])
def test_delay_of_position_and_speed_commands_apart_from_the_lag_of_the_servo(unit, gains):
    rng = np.random.default_rng(11)
    (found,) = delay.estimate([linear(random_steps(1500, 9, rng, 1.0), 0.01, 0.0263, rng, **gains)], servo(unit))
    assert found.determined, found.reason
    assert found.delay_s == pytest.approx(0.0263, abs=0.002)


def test_delays_of_both_axes_of_double_pendulums_within_a_fifth_of_a_sample():
    spec, period = robot.load("double_pendulum_c1"), 0.005
    time, inside, worst = period * np.arange(1000), 0, 0.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        true = period * rng.uniform(0, 5, 2)
        values = {"J": rng.uniform(0.05, 0.08), "mu2": rng.uniform(0.1, 0.16), "b1": 0.01, "cf1": rng.uniform(0, 0.1), "cf2": 0.05}
        found = delay.estimate([simulate(spec, values, multisine(time, 2, 2.0, rng), period, true, rng)], spec, longest_s=0.1)
        assert [f.method for f in found] == ["physics", "physics"]
        worst = max(worst, *(abs(f.delay_s - t) / period for f, t in zip(found, true, strict=True)))
        inside += sum(f.low_s <= t <= f.high_s for f, t in zip(found, true, strict=True))
    assert worst < 0.2
    assert inside >= 8  # of 10: fewer have one chance in 90 where 95 % hold


def test_delay_of_a_double_pendulum_without_its_equations():
    spec, rng, period = robot.load("double_pendulum_c1"), np.random.default_rng(2), 0.005
    time, true = period * np.arange(2000), np.array([0.0121, 0.0043])
    log = simulate(spec, {}, multisine(time, 2, 2.0, rng), period, true, rng)
    found = delay.estimate([log], without_physics(spec))
    for f, t in zip(found, true, strict=True):
        assert f.method == "regression"
        assert f.determined, f.reason
        assert f.delay_s == pytest.approx(t, abs=0.5 * period)


def test_delay_of_a_cart_pole_from_two_runs():
    spec, rng, period = robot.load("cartpole"), np.random.default_rng(4), 0.02
    time, true = period * np.arange(400), np.array([0.0333])
    logs = [simulate(spec, {}, multisine(time, 1, 1.0, rng), period, true, rng, x0=np.array([0.0, np.pi, 0.0, 0.0]), name=f"run{i}")
            for i in range(2)]
    (found,) = delay.estimate(logs, spec)
    assert found.determined, found.reason
    assert found.delay_s == pytest.approx(0.0333, abs=0.2 * period)
    assert found.low_s <= 0.0333 <= found.high_s


def test_a_command_that_does_not_change_tells_nothing():
    rng = np.random.default_rng(0)
    (found,) = delay.estimate([linear(np.full(600, 1.0), 0.01, 0.03, rng)], servo("N*m"))
    assert not found.determined
    assert np.isnan(found.delay_s)
    assert "'u' hardly changes" in found.reason
    assert "record with" in found.reason


def test_a_sine_in_steady_state_tells_no_delay():
    rng = np.random.default_rng(0)
    sine = 2.0 * np.sin(2 * np.pi * 0.8 * 0.01 * np.arange(1500))
    (found,) = delay.estimate([linear(sine, 0.01, 0.03, rng)], servo("N*m"))
    assert not found.determined
    assert found.low_s <= 0.03 <= found.high_s
    assert "'u'" in found.reason


def test_a_command_that_does_not_reach_its_mechanism_is_refused():
    spec, rng, period = robot.load("double_pendulum_c1"), np.random.default_rng(3), 0.005
    time = period * np.arange(1000)
    moved = simulate(spec, {}, multisine(time, 2, 2.0, rng), period, np.zeros(2), rng)
    other = Run("other", time, moved.state, multisine(time, 2, 2.0, np.random.default_rng(99)), moved.measured)
    for found in delay.estimate([other], spec, longest_s=0.1):
        assert not found.determined, found


def test_a_command_without_effect_is_refused():
    rng = np.random.default_rng(0)
    run = linear(random_steps(1000, 7, rng), 0.01, 0.03, rng, gain=0.0)
    (found,) = delay.estimate([run], servo("N*m"))
    assert not found.determined
    assert "chance" in found.reason


def test_an_effect_before_its_command_is_refused():
    rng = np.random.default_rng(0)
    run = linear(random_steps(1000, 7, rng), 0.01, 0.0, rng)
    early = Run("early", run.time[:-2], run.state[2:], run.command[:-2], run.measured[:-2])
    (found,) = delay.estimate([early], servo("N*m"))
    assert not found.determined
    assert "before the command" in found.reason


def test_a_delay_beyond_the_search_is_refused():
    rng = np.random.default_rng(0)
    (found,) = delay.estimate([linear(random_steps(1500, 7, rng), 0.01, 0.3, rng)], servo("N*m"), longest_s=0.2)
    assert not found.determined


def test_a_robot_without_rates_is_told_so():
    spec = robot.validate(strict_yaml.parse(SERVO.replace("  - {name: v, joint: j, field: velocity, unit: rad/s, rate_of: q}\n", "")
                                            % '"N*m"', "servo.yaml"))
    rng = np.random.default_rng(0)
    run = linear(random_steps(600, 7, rng), 0.01, 0.0, rng)
    (found,) = delay.estimate([Run("run", run.time, run.state[:, :1], run.command, run.measured)], spec)
    assert "rate_of" in found.reason


def test_bad_arguments_are_told():
    with pytest.raises(DataError, match="no runs"):
        delay.estimate([], servo("N*m"))
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="longest_s"):
        delay.estimate([linear(np.zeros(100), 0.01, 0.0, rng)], servo("N*m"), longest_s=0.0)


def test_a_log_that_is_too_short_is_refused_with_what_is_missing():
    rng = np.random.default_rng(0)
    (found,) = delay.estimate([linear(random_steps(60, 7, rng), 0.01, 0.02, rng)], servo("N*m"))
    assert not found.determined
    assert "too few" in found.reason


def test_delay_from_command_to_its_sensor():
    rng, period, inside = np.random.default_rng(0), 0.002, 0
    time = period * np.arange(2000)
    for true in period * rng.uniform(0, 10, 20):
        u = multisine(time, 1, 2.0, rng)[:, 0]
        late = np.interp(time - true, time + 0.5 * period, u)  # what is held for a period lags half of one behind the curve
        noisy = Run("run", time, np.zeros((2000, 2)), u[:, None], (0.9 * late + 0.05 + 0.02 * rng.standard_normal(len(time)))[:, None])
        (found,) = sensor_delay.of_sensors([noisy], servo("N*m"))
        assert found.determined, found.reason
        assert found.delay_s == pytest.approx(true, abs=0.4 * period)
        inside += found.low_s <= true <= found.high_s
    assert inside >= 17


def test_a_robot_without_sensors_of_its_commands_has_no_such_delay():
    rng = np.random.default_rng(0)
    assert sensor_delay.of_sensors([linear(random_steps(600, 7, rng), 0.01, 0.0, rng)], servo("N*m")) == []


@pytest.mark.parametrize("lag", [-0.004, 0.0, 0.0087])
def test_lag_of_a_measured_rate_behind_its_position(lag):
    rng, time = np.random.default_rng(0), 0.005 * np.arange(2000)
    phase = 2 * np.pi * rng.uniform(0.2, 3.0, 6)[:, None]
    q = np.sin(phase * time).sum(axis=0)
    v = (phase * np.cos(phase * (time - lag))).sum(axis=0)
    state = np.column_stack([q + 1e-4 * rng.standard_normal(2000), v + 0.05 * rng.standard_normal(2000)])
    (found,) = sensor_delay.of_rates([Run("run", time, state, np.zeros((2000, 1)), np.full((2000, 1), np.nan))], servo("N*m"))
    assert found.determined, found.reason
    assert found.delay_s == pytest.approx(lag, abs=0.0005)
    assert found.low_s <= lag <= found.high_s


def test_a_rate_by_backward_differences_lags_half_a_sample():
    rng, time = np.random.default_rng(1), 0.01 * np.arange(1500)
    q = multisine(time, 1, 1.0, rng)[:, 0]
    state = np.column_stack([q, np.append(0.0, np.diff(q) / 0.01)])
    (found,) = sensor_delay.of_rates([Run("run", time, state, np.zeros((1500, 1)), np.full((1500, 1), np.nan))], servo("N*m"))
    assert found.delay_s == pytest.approx(0.005, abs=1e-4)


PENDULUM = """
name: simple
rate_hz: 200
state:
  - {name: theta, joint: pivot, field: position, unit: rad, column: position}
  - {name: theta_dot, joint: pivot, field: velocity, unit: rad/s, rate_of: theta, column: velocity}
command:
  - {name: torque, unit: N*m, joint: pivot, limits: [-20, 20]}
cost: {kind: quadratic}
nominal: {system: pendulum, parameters: {l: -0.5, m: 0.5, I: 0.13}}
"""


@pytest.mark.data
def test_a_desired_trajectory_has_torques_at_instants_half_a_sample_before_what_holding_them_would_mean():
    spec = robot.validate(strict_yaml.parse(PENDULUM, "simple.yaml"))
    log = runs.load([real("dfki_simple_pendulum") / "sysid" / "data_desired.csv"], spec)
    (found,) = delay.estimate(log, spec, 0.15)
    assert found.delay_s == pytest.approx(-0.5 * log[0].period, abs=0.05 * log[0].period)


@pytest.mark.data
def test_rates_of_the_real_double_pendulum_are_backward_differences():
    spec = robot.load("double_pendulum_c1")
    log = runs.load([real("dfki_double_pendulum_C1") / "sys_id_20230629_143339" / "trajectory.csv"], spec)
    for found in sensor_delay.of_rates(log, spec):
        assert found.delay_s == pytest.approx(0.001, abs=1e-5)
