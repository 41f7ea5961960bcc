from dataclasses import replace

import numpy as np
import pytest
from truths import multisine, pendulum_spec, run_of, simulate

from mbrl_calibration import dynamics, effort_sensors, mechanism, regression

GAIN, OFFSET, READ = 0.77, 0.02, 0.03
NOISE, NOW = np.array([1e-4, 1e-3]), np.zeros(1)


@pytest.fixture(scope="module")
def recorded():
    """Pendulums whose sensor of effort shows 0.77 of the command, 0.02 N m more, with noise."""
    m = mechanism.build(pendulum_spec())
    runs = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        time, command = multisine(6.0, 100.0, [2.0], rng)
        run = run_of(m, time, simulate(m, m.start, time, command, NOW, np.array([np.pi, 0.0])), command, NOISE, rng)
        runs.append(replace(run, measured=GAIN * command + OFFSET + READ * rng.standard_normal(command.shape)))
    return m, runs


def test_a_sensor_that_shows_a_share_of_the_command_is_found_out(recorded):
    m, runs = recorded
    (sensor,) = effort_sensors.relate(runs, m, NOW)
    assert sensor.axis == 0
    assert sensor.low < GAIN < sensor.high < sensor.low + 0.02
    assert sensor.offset == pytest.approx(OFFSET, abs=3e-3)


def test_intervals_of_a_gain_hold_what_they_say(recorded):
    m, runs = recorded
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng([seed, 1])
        read = [replace(r, measured=GAIN * r.command + READ * rng.standard_normal(r.command.shape)) for r in runs]
        (sensor,) = effort_sensors.relate(read, m, NOW)
        inside += sensor.low < GAIN < sensor.high
    assert 86 <= inside <= 100  # 95 of 100 but for chance: beyond four standard deviations of a binomial


def test_a_sensor_that_shows_a_share_is_wrong_by_that_share_of_what_the_equations_are(recorded):
    m, runs = recorded
    exact = [replace(r, measured=GAIN * 0.5 * (r.command + np.vstack((r.command[:1], r.command[:-1])))) for r in runs]
    sensors = effort_sensors.relate(exact[:2], m, NOW)
    values = 1.1 * m.start
    left = regression.rmse([regression.rows(exact[2], m, NOW, False)], values)
    assert effort_sensors.rmse(exact[2:], m, values, NOW, sensors) == pytest.approx(GAIN * left, rel=0.01)
    (off,) = sensors
    there, here = (effort_sensors.rmse(exact[2:], m, m.start, NOW, [replace(off, offset=off.offset + by)]) for by in (0.0, 0.3))
    assert here == pytest.approx(np.hypot(there, 0.3), rel=0.02)


def test_a_sensor_is_not_told_where_nothing_was_commanded_or_nothing_is_measured(recorded):
    m, runs = recorded
    assert effort_sensors.relate([replace(r, command=np.zeros_like(r.command)) for r in runs], m, NOW) == ()
    assert effort_sensors.relate([replace(runs[0], measured=np.full_like(runs[0].measured, np.nan)), *runs[1:]], m, NOW) == ()


@pytest.mark.parametrize("measured", [False, True])
def test_an_identification_tells_the_sensors_and_judges_by_them_what_commands_drove(recorded, measured):
    m, runs = recorded
    setting = dynamics.Settings(measured, segments_s=(0.5,), horizons_s=(0.5,), known=m.names)
    found = dynamics.identify(runs[:2], runs[2:], m, NOW, setting)
    assert found.sensors[0].gain == pytest.approx(GAIN, abs=0.01)
    score = found.scores["test"]["nominal"]
    if measured:
        assert score.sensor_rmse is None
    else:
        assert score.sensor_rmse == effort_sensors.rmse([dynamics.without_spikes(runs[2])], m, m.start, NOW, found.sensors)
