"""Designed motions: spectra and peaks as defined, more information than chance gives, and nobody leaves where the robot may be."""

import math

import numpy as np
import pytest

from mbrl_calibration import excitation, fourier, information, mechanism, multisine, nominal_plant, playing
from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.runtime.course import Course
from mbrl_control.runtime.safety import SafetyFilter
from mbrl_sim.plant import MujocoPlant


def variant(name, **changes):
    """A shipped robot with top-level keys replaced; those of `command` and `state` update every signal."""
    data = robot.load(name).model_dump(exclude_unset=True)
    for key, value in changes.items():
        data[key] = [{**one, **value} for one in data[key]] if key in ("command", "state") else value
    return robot.RobotSpec.model_validate(data)


def designed(spec, seconds=6.0, kind="multisine", seed=0, **options):
    m = mechanism.build(spec) if spec.nominal else None
    return excitation.design(spec, m, seconds, np.random.default_rng(seed), kind, **options)


def test_crest_factors_of_known_waves():
    time = np.arange(1000) / 1000
    assert multisine.crest_factor(np.sin(2 * np.pi * time)) == pytest.approx(math.sqrt(2), rel=1e-4)
    assert multisine.crest_factor(3 + np.sign(np.sin(2 * np.pi * time + 0.001))) == pytest.approx(1, rel=1e-3)
    # K cosines in phase peak at K, with a mean square of K / 2.
    assert multisine.crest_factor(np.cos(2 * np.pi * np.outer(time, np.arange(1, 17))).sum(1)) == pytest.approx(math.sqrt(32), rel=1e-9)


def test_a_multisine_is_flat_in_its_band_and_nothing_outside_it():
    time, frequencies = np.arange(2000) / 100, np.arange(20, 60) / 20
    wave = multisine.multisine(time, frequencies, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(wave))
    here = np.isin(np.arange(len(spectrum)), np.arange(20, 60))
    np.testing.assert_allclose(spectrum[here], spectrum[here][0], rtol=1e-6)
    assert spectrum[~here].max() < 1e-9 * spectrum[here][0]
    assert np.abs(wave).max() == pytest.approx(1)
    # Schroeder's phases come to about 1.7 for a flat spectrum; in phase it would be sqrt(80).
    assert multisine.crest_factor(wave) < 1.9


def test_commands_share_no_line_and_their_effects_can_be_told_apart():
    found = multisine.lines(20.0, (0.2, 5.0), 3)
    together = np.concatenate(found)
    assert len(np.unique(together.round(9))) == len(together)
    assert together.min() >= 0.2
    assert together.max() <= 5.0
    time, rng = np.arange(2000) / 100, np.random.default_rng(1)
    waves = np.stack([multisine.multisine(time, own, rng) for own in found])
    np.testing.assert_allclose(np.corrcoef(waves), np.eye(3), atol=1e-9)
    with pytest.raises(UserError, match=r"hold 2 frequencies for 3 commands"):
        multisine.lines(2.0, (0.5, 1.2), 3)


@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_the_equations_move_as_mujoco_does(name):
    spec = variant(name, command={"delay_s": 0.04})
    m = mechanism.build(spec)
    start = np.array([spec.sim.start.get(n, 0.0) for n in spec.state_names])
    ours, theirs = nominal_plant.NominalPlant(m, spec, start), MujocoPlant(spec, longest_step_s=1e-3)
    theirs.place(start)
    rng = np.random.default_rng(0)
    for _ in range(50):
        command = rng.uniform(spec.action_low, spec.action_high)
        np.testing.assert_allclose(ours.step(command, 0.02), theirs.step(command, 0.02), atol=1e-4)


def test_feedback_makes_a_free_joint_swing_as_asked():
    """An undamped cart held by kp alone would swing at the frequency asked for: kp times the acceleration per command is (2 pi f)^2."""
    spec = robot.load("cartpole")
    plant = MujocoPlant(spec)
    start = np.array([0.0, np.pi, 0.0, 0.0])
    power = excitation.authority(spec, plant, start)
    # With the pole hanging at rest: 10 N over M - mu^2 / I.
    assert power[0] == pytest.approx(10 / (1.1 - 0.05**2 / 0.0344245927672956), rel=0.01)
    gain = excitation.soft_gain(spec, power, 0.5)
    np.testing.assert_allclose(gain[0], [np.pi**2 / power[0], 0, 1.4 * np.pi / power[0], 0], rtol=1e-9)


@pytest.mark.parametrize("name", ["pendulum", "cartpole", "arm7", "acrobot"])
def test_a_multisine_keeps_all_limits_with_the_real_filter(name):
    spec = robot.load(name)
    plant = MujocoPlant(spec)
    found = designed(spec, plant=plant)
    plant.place(found.start)
    played = playing.play(spec, plant, found.course, SafetyFilter(spec), playing.region(spec, plant))
    assert played.stop is None
    np.testing.assert_array_equal(played.state, found.predicted.state)
    where = playing.region(spec, plant)
    assert where.used(played.state).max() <= 0.9 + 1e-9
    assert (played.command >= spec.action_low).all()
    assert (played.command <= spec.action_high).all()
    ends = np.isfinite(where.low)
    np.testing.assert_allclose(found.figures.state_margin[ends], 1 - where.used(played.state).max(axis=0)[ends])
    assert len(played.time) == 6 * spec.rate_hz
    np.testing.assert_array_equal(found.course.command[0], spec.action_zero)


def test_a_cart_is_held_on_its_rail_where_commands_alone_run_off():
    spec = robot.load("cartpole")
    plant, stops = MujocoPlant(spec), []
    for seed in range(4):
        found = designed(spec, 20.0, seed=seed, plant=plant)
        assert found.course.closed
        assert found.predicted.stop is None
        open_loop = Course(found.course.command, found.course.reference, 0 * found.course.gain)
        plant.place(found.start)
        alone = playing.play(spec, plant, open_loop, SafetyFilter(spec), playing.region(spec))
        stops.append(alone.stop and alone.stop.signal)
    assert stops.count("x") >= 2


def test_rates_of_commands_are_kept():
    spec = variant("pendulum", command={"max_rate": 3.0})
    found = designed(spec, plant=MujocoPlant(spec))
    sent = found.predicted.command
    assert np.abs(np.diff(sent, axis=0)).max() <= 3.0 * spec.tick_s + 1e-9
    assert found.figures.limited == 0


def test_playing_stops_at_once_where_the_robot_may_not_be():
    spec = robot.load("cartpole")
    plant = MujocoPlant(spec)
    full = np.ones((200, 1))
    course = Course(full, np.zeros((200, 4)), np.zeros((1, 4)))
    plant.place(np.array([0.0, np.pi, 0, 0]))
    played = playing.play(spec, plant, course, SafetyFilter(spec), playing.region(spec))
    at = round(played.stop.time * spec.rate_hz)
    assert np.abs(played.state[:at, 0]).max() <= 1.5
    assert played.state[at, 0] > 1.5
    assert played.stop.value == played.state[at, 0]
    assert (played.command[:at] == 1).all()
    assert (played.command[at:] == 0).all()  # its safe action
    assert len(played.time) == at + spec.rate_hz


@pytest.mark.parametrize("kind", ["multisine", "fourier"])
def test_designs_repeat_by_seed(kind):
    spec = robot.load("pendulum")
    one, two, other = (designed(spec, 4.0, kind, seed, rounds=2) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.course.command, two.course.command)
    assert not np.array_equal(one.course.command, other.course.command)


def test_log_det_and_condition_are_those_of_the_regressor():
    """A pendulum's regressor is [a, -g sin q, v, atan(100 v), 1]: told by hand."""
    spec = robot.load("pendulum")
    gauge = information.Gauge(spec, mechanism.build(spec))
    q, v, a = np.random.default_rng(0).normal(size=(3, 200, 1))
    by_hand = np.hstack([a, -10 * np.sin(q), v, np.arctan(100 * v), np.ones_like(q)]) / (0.01 * 2)
    np.testing.assert_allclose(gauge.rows(q, v, a), by_hand, atol=1e-9)
    told = information.of_rows(by_hand, gauge.names)
    assert told.log_det == pytest.approx(np.linalg.slogdet(by_hand.T @ by_hand)[1], abs=1e-6)
    assert told.condition == pytest.approx(np.linalg.cond(by_hand / np.linalg.norm(by_hand, axis=0)), rel=1e-9)
    still = information.of_rows(by_hand * [1, 1, 0, 1, 1], gauge.names)
    assert (still.condition, still.weakest) == (math.inf, "b")


def test_a_reference_begins_and_ends_at_rest_and_its_derivatives_are_right():
    spec = robot.load("double_pendulum_c1")
    problem = fourier.Problem(True, spec, mechanism.build(spec), np.arange(3000) / 500, np.zeros(4), (0.3, 3.0), playing.region(spec), 0.9)
    assert fourier.ways(spec, problem.m) == (True,)
    time = np.arange(problem.period) / 500
    q, v, a = problem.motion(np.random.default_rng(0).normal(size=problem.size), time)
    np.testing.assert_allclose([q[0], v[0], a[0]], 0, atol=1e-12)
    np.testing.assert_allclose([q[-1], v[-1]], 0, atol=1e-3)
    np.testing.assert_allclose(np.gradient(q, time, axis=0)[2:-2], v[2:-2], atol=2e-3 * np.abs(v).max())
    np.testing.assert_allclose(np.gradient(v, time, axis=0)[2:-2], a[2:-2], atol=2e-3 * np.abs(a).max())
    u = problem.inverse(q, v, a)
    rate = np.array(problem.forward(np.concatenate((q[700], v[700])), u[700], problem.m.start)).ravel()
    np.testing.assert_allclose(rate[2:], a[700], atol=1e-8)


@pytest.mark.parametrize(("name", "seconds"), [("pendulum", 8.0), ("double_pendulum_c1", 2.0), ("cartpole", 6.0)])
def test_an_optimised_series_tells_more_than_random_ones(name, seconds):
    """D-optimality: more information than the median of six random series of the same frequencies, made as large as is allowed."""
    spec = robot.load(name)
    m = mechanism.build(spec)
    found = designed(spec, seconds, "fourier", rounds=5)
    start = found.start
    plant = nominal_plant.NominalPlant(m, spec, start)
    where, rng = playing.region(spec), np.random.default_rng(9)
    problem = fourier.Problem(False, spec, m, found.time, start, found.figures.band_hz, where, 0.9)
    chance = []
    for _ in range(6):
        shape = fourier.allowed(problem, fourier.spread(problem) * rng.standard_normal(problem.size))
        for scale in excitation.SCALES:
            command, reference = problem.course(scale * shape)
            plant.place(start)
            played = playing.play(spec, plant, Course(command, reference, found.course.gain), SafetyFilter(spec), where)
            if played.stop is None and not played.limited:
                chance.append(information.information(spec, m, played).log_det)
                break
    assert len(chance) >= 3
    assert found.figures.information.log_det > np.median(chance)
    assert found.predicted.stop is None


def test_polishing_finds_more_within_the_limits():
    """A reference of the real double pendulum: more information than where it began, and torques still within their share of 6 N m."""
    spec = robot.load("double_pendulum_c1")
    m, where = mechanism.build(spec), playing.region(spec)
    problem = fourier.Problem(True, spec, m, np.arange(1500) / 500, np.zeros(4), (0.5, 4.0), where, 0.9)
    begun = fourier.allowed(problem, fourier.spread(problem) * np.random.default_rng(0).standard_normal(problem.size))
    found = fourier.polished(problem, begun)
    before, after = (information.log_det(problem.gauge.rows(*problem.motion(c, problem.grid))) for c in (begun, found))
    assert after > before + 5
    q, v, a = problem.motion(found, problem.grid)
    assert np.abs(problem.inverse(q, v, a)).max() <= 0.9 * 6 + 1e-6
    assert where.used(problem.state(q, v)).max() <= 1


def test_where_nobody_can_tell_what_would_happen_it_is_said():
    spec = variant("double_pendulum_c1", nominal=None)
    with pytest.raises(UserError, match=r"neither `sim` nor equations in `nominal`"):
        designed(spec)
    with pytest.raises(UserError, match=r"has no equations that calibration knows"):
        excitation.design(spec, None, 3.0, np.random.default_rng(0), "fourier",
                          plant=nominal_plant.NominalPlant(mechanism.build(robot.load("double_pendulum_c1")), spec, np.zeros(4)))
    spec = variant("cartpole", sim={**robot.load("cartpole").sim.model_dump(exclude_unset=True), "start": {"x": 1.6}})
    with pytest.raises(UserError, match=r"'x' = 1.6; correct `sim.start`"):
        designed(spec)
    with pytest.raises(UserError, match=r"seconds = 0.5 is too short"):
        designed(robot.load("pendulum"), 0.5)
    with pytest.raises(UserError, match="cannot be excited from its start"):
        designed(robot.load("cartpole"), 3.0, start=np.array([0.0, np.pi, 8.0, 0.0]))


def test_commands_whose_zero_lies_at_an_end_swing_about_the_middle():
    spec = variant("pendulum", command={"limits": [0.0, 2.0]})
    around, room = excitation.centre(spec)
    assert (around[0], room[0]) == (1.0, 1.0)
    found = designed(spec, plant=MujocoPlant(spec))
    assert found.course.command.min() >= 0
    assert found.course.command.max() > 1.5
