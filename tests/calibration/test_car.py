"""A car's delay, wheelbase, understeer, end stop and lag against known ones, and the real car's log."""

from __future__ import annotations

import numpy as np
import pytest
from bag_tools import real
from scipy import signal

from mbrl_calibration import car, runs
from mbrl_calibration.profile import held
from mbrl_calibration.runs import Run
from mbrl_control import robot
from mbrl_control.data.bags import read_bag
from mbrl_control.errors import DataError, UserError
from mbrl_control.robot import RobotSpec

PERIOD, FINE = 0.05, 10
UTM = (369_637.648, 3_280_413.731)


def smooth_noise(count, seconds, rng):
    """[T] noise of standard deviation 1 that keeps for about so long."""
    b, a = signal.butter(2, min(0.9, PERIOD / seconds))
    y = signal.lfilter(b, a, rng.standard_normal(count + 400))[400:]
    return y / y.std()


def drive(rng, *, late=0.31, length=0.4, understeer=0.0, offset=0.02, tau=0.4, gear=0.6, stop=0.5, speeds=(1.5, 0.5), steer=0.25,
          count=1600, noise=(0.01, 0.005, 0.01), origin=(0.0, 0.0)):
    """A run of a car at 20 Hz, commands every 0.1 s and both late by `late`; integrated at a tenth of the period."""
    time = PERIOD * np.arange(count)
    target = speeds[0] + speeds[1] * np.repeat(rng.uniform(-1, 1, count // 40 + 1), 40)[:count]
    steering = steer * np.repeat(smooth_noise(count, 0.5, rng)[::2], 2)[:count]
    h, at = PERIOD / FINE, PERIOD / FINE * np.arange(count * FINE + 1)
    shifted = np.maximum(at - late, 0.0)
    want = np.where(at[1:] <= late, target[0], np.diff(held(time, target)(shifted)) / h)
    bend = np.where(at[1:] <= late, np.tan(np.clip(steering[0], -stop, stop) + offset),
                    np.diff(held(time, np.tan(np.clip(steering, -stop, stop) + offset))(shifted)) / h)
    v, decay = np.zeros(len(at)), np.exp(-h / tau)
    v[0] = gear * target[0]
    for k, w in enumerate(want):
        v[k + 1] = gear * w + decay * (v[k] - gear * w)
    middle = 0.5 * (v[1:] + v[:-1])
    yaw = np.concatenate([[0.3], 0.3 + np.cumsum(h * middle * bend / (length + understeer * middle**2))])
    heading = 0.5 * (yaw[1:] + yaw[:-1])
    places = [np.concatenate([[o], o + np.cumsum(h * middle * f(heading))]) for o, f in zip(origin, (np.cos, np.sin), strict=True)]
    state = np.column_stack([*places, yaw, v])[:-1:FINE]
    state = state + rng.standard_normal(state.shape) * [noise[0], noise[0], noise[1], noise[2]]
    return Run("drive", time, state, np.column_stack([target, steering]), np.full((count, 2), np.nan))


def between(estimate, truth):
    return estimate is not None and estimate.low <= truth <= estimate.high


def test_delay_wheelbase_and_understeer_where_speed_varies():
    rng = np.random.default_rng(0)
    made = car.fit([drive(rng, understeer=0.05, speeds=(3.0, 2.0), steer=0.15) for _ in range(2)], robot.load("rc_car"))
    assert made.steering.determined, made.steering.reason
    assert made.steering.delay_s == pytest.approx(0.31, abs=0.2 * PERIOD)
    assert made.get("L").value == pytest.approx(0.4, rel=0.02)
    assert made.get("K").value == pytest.approx(0.05, rel=0.05)
    assert made.get("offset").value == pytest.approx(0.02, abs=0.002)
    assert made.get("L + K v^2") is None
    assert made.get("limit") is None


def test_intervals_hold_the_truth_as_often_as_they_say():
    inside = {"steering": 0, "speed": 0, "tau": 0, "gear": 0}
    spec = robot.load("rc_car")
    for seed in range(20):
        made = car.fit([drive(np.random.default_rng(seed), speeds=(2.5, 1.5), count=600, noise=(0.03, 0.02, 0.05))], spec)
        for name, found in (("steering", made.steering), ("speed", made.speed)):
            inside[name] += found.low_s <= 0.31 <= found.high_s
        inside["tau"] += between(made.get("tau"), 0.4)
        inside["gear"] += between(made.get("gear"), 0.6)
    assert min(inside.values()) >= 17, inside  # 95 % of 20, and no fewer than one draw in 100 would have


def test_at_one_speed_wheelbase_and_understeer_are_told_as_one():
    made = car.fit([drive(np.random.default_rng(1), understeer=0.1, speeds=(1.5, 0.02))], robot.load("rc_car"))
    lumped = made.get("L + K v^2")
    assert made.get("L") is None
    assert made.get("K") is None
    assert between(lumped, 0.4 + 0.1 * 0.9**2)  # gear 0.6 of 1.5 m/s
    assert any("cannot be told apart" in n and "m/s" in n for n in made.notes)


def test_the_end_stop_of_the_steering_is_found_with_the_rest():
    rng = np.random.default_rng(2)
    made = car.fit([drive(rng, steer=0.5, stop=0.35), drive(rng, steer=0.5, stop=0.35)], robot.load("rc_car"))
    assert made.get("limit").value == pytest.approx(0.35, abs=0.01)
    assert made.get("L").value == pytest.approx(0.4, rel=0.03)
    assert made.steering.delay_s == pytest.approx(0.31, abs=0.2 * PERIOD)


def test_lag_and_gain_of_the_speed_apart_from_its_delay():
    made = car.fit([drive(np.random.default_rng(3))], robot.load("rc_car"))
    assert made.speed.determined, made.speed.reason
    assert made.speed.delay_s == pytest.approx(0.31, abs=0.2 * PERIOD)
    assert between(made.get("tau"), 0.4)
    assert between(made.get("gear"), 0.6)
    assert made.get("tau").value == pytest.approx(0.4, rel=0.1)


def test_utm_coordinates_lose_nothing():
    near, far = (car.fit([drive(np.random.default_rng(4), origin=origin)], robot.load("rc_car")) for origin in ((0.0, 0.0), UTM))
    for name in ("speed_scale", "heading"):
        assert far.get(name).value == pytest.approx(near.get(name).value, abs=1e-7)
        assert between(far.get(name), {"speed_scale": 1.0, "heading": 0.0}[name])
    rough = drive(np.random.default_rng(4), origin=UTM)
    single = Run("f", rough.time, rough.state.astype(np.float32).astype(np.float64), rough.command, rough.measured)
    assert abs(car.fit([single], robot.load("rc_car")).get("heading").value - near.get("heading").value) > 1e-5  # what float32 would lose


def test_a_speed_sensor_that_places_contradict_is_not_believed():
    rng = np.random.default_rng(5)
    run = drive(rng, speeds=(1.7, 0.1), count=2000)
    pulses = run.state.copy()
    pulses[:, 3] *= np.arange(2000) % 9 < 4  # one sensor, half of each turn of the wheel
    made = car.fit([Run("pulses", run.time, pulses, run.command, run.measured)], robot.load("rc_car"))
    assert made.get("speed_scale").value == pytest.approx(9 / 4, rel=0.05)
    assert made.get("L + K v^2").value == pytest.approx(0.4, rel=0.15)
    assert made.steering.delay_s == pytest.approx(0.31, abs=0.4 * PERIOD)
    assert not made.speed.determined
    assert any("look at the speed sensor" in n for n in made.notes)


def test_steering_that_never_changes_is_refused():
    run = drive(np.random.default_rng(6))
    command = run.command.copy()
    command[:, 1] = 0.2
    made = car.fit([Run("straight", run.time, run.state, command, run.measured)], robot.load("rc_car"))
    assert not made.steering.determined
    assert "drive curves" in made.steering.reason
    assert made.get("L") is None
    assert made.get("L + K v^2") is None


def test_a_car_that_turns_against_its_steering_is_told():
    run = drive(np.random.default_rng(7))
    made = car.fit([Run("mirror", run.time, run.state, run.command * [1, -1], run.measured)], robot.load("rc_car"))
    assert not made.steering.determined
    assert "sign" in made.steering.reason


def test_speed_commands_that_never_change_tell_no_lag():
    run = drive(np.random.default_rng(8), speeds=(1.5, 0.0))
    made = car.fit([run], robot.load("rc_car"))
    assert not made.speed.determined
    assert made.get("tau") is None
    assert made.steering.determined


def test_other_robots_and_no_runs_are_refused():
    with pytest.raises(UserError, match="car"):
        car.fit([], robot.load("cartpole"))
    with pytest.raises(DataError, match="no runs"):
        car.fit([], robot.load("rc_car"))


@pytest.mark.data
def test_the_real_car():
    spec = robot.load("rc_car")
    fine = RobotSpec.model_validate({**spec.model_dump(exclude_unset=True), "rate_hz": 200})  # when commands came, to 5 ms
    bag = real("uf_gpsnav_ackermann_ros2_sqlite3") / "bag"
    made = car.fit(runs.load([bag], fine), spec)
    length = made.get("L + K v^2")
    assert length.low < 0.37  # a quick fit by others: 0.37 to 0.41 m
    assert length.high > 0.41
    assert made.steering.determined
    assert made.steering.low_s > 0.2  # theirs, to a tenth: 0.3 to 0.4 s
    assert made.steering.high_s < 0.4
    assert made.get("speed_scale").low > 1.5  # its speed sensor pulses


@pytest.mark.data
def test_places_of_the_real_car_are_those_of_the_bag_to_the_last_digit():
    spec = robot.load("rc_car")
    bag = real("uf_gpsnav_ackermann_ros2_sqlite3") / "bag"
    run = runs.load([bag], spec)[0]
    topic = next(t for name, t in read_bag(bag).topics.items() if name.endswith("vehicle_pose"))
    recorded = topic.numbers("pose.position.y")
    kept = np.isin(run.state[:, 1], recorded)
    assert run.state.dtype == np.float64
    assert kept.mean() > 0.9  # the rest lies between two fixes
    assert np.abs(recorded - recorded.astype(np.float32)).max() > 0.01  # which float32 would round by centimetres
