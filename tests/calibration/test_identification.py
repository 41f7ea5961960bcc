import casadi as ca
import numpy as np
import pytest
from truths import multisine, pendulum_spec, run_of, simulate

from mbrl_calibration import dynamics, free_run, mechanism, pictures, regression, segments, shooting
from mbrl_calibration.estimate import Estimate
from mbrl_control import robot
from mbrl_control.errors import DataError
from mbrl_control.models import expressions

NOISE = np.array([1e-3, 2e-2])
DELAY = np.array([0.0137])


@pytest.fixture(scope="module")
def pendulum():
    spec = pendulum_spec()
    m = mechanism.build(spec)
    return m, m.start * np.array([1.2, 0.85, 1.5, 2.0, 1.0])


def record(m, truth, seed, delays=DELAY, seconds=6.0, noise=NOISE):
    rng = np.random.default_rng(seed)
    time, command = multisine(seconds, 100.0, [2.0], rng)
    return run_of(m, time, simulate(m, truth, time, command, delays, np.array([np.pi, 0.0])), command, noise, rng)


def test_regression_finds_the_parameters_of_data_without_noise():
    m = mechanism.build(robot.load("double_pendulum_c1"))
    rng, truth = np.random.default_rng(0), m.start * 1.3
    matrix = rng.normal(size=(500, 2, len(truth)))
    found = regression.solve([regression.Rows("r", matrix, matrix @ truth, 0.002)], m)
    np.testing.assert_allclose(found.values, truth, rtol=1e-8)


def test_regression_keeps_what_is_known_and_what_can_be_built():
    m = mechanism.build(robot.load("double_pendulum_c1"))
    rng, truth = np.random.default_rng(0), m.start.copy()
    truth[m.names.index("mu2")] *= 3
    matrix = rng.normal(size=(500, 2, len(truth)))
    rows = [regression.Rows("r", matrix, matrix @ truth, 0.002)]
    found = regression.solve(rows, m)
    assert min(float(c) for c in m.feasible(m.named(found.values))) > -1e-8
    assert float(min(m.feasible(m.named(truth)), key=float)) < 0
    held = regression.solve(rows, m, known=("Ir", "b1"))
    assert held.by_name()["Ir"] == m.start[m.names.index("Ir")]
    assert held.std[m.names.index("b1")] == 0.0


def test_the_sandwich_is_the_textbook_covariance_for_white_residuals():
    m = mechanism.build(robot.load("double_pendulum_c1"))
    rng, truth, sigma = np.random.default_rng(0), m.start + 1.0, 0.3
    matrix = rng.normal(size=(20000, 2, len(truth)))
    target = matrix @ truth + sigma * rng.standard_normal((20000, 2))
    flat = matrix.reshape(-1, len(truth))
    found = regression.solve([regression.Rows("r", matrix, target, 0.05)], m)
    np.testing.assert_allclose(found.std, sigma * np.sqrt(np.diag(np.linalg.inv(flat.T @ flat))), rtol=0.1)


def test_residuals_that_repeat_themselves_count_once():
    m = mechanism.build(robot.load("double_pendulum_c1"))
    rng, truth = np.random.default_rng(0), m.start + 1.0
    matrix = rng.normal(size=(2000, 2, len(truth)))
    target = matrix @ truth + 0.3 * rng.standard_normal((2000, 2))
    once = regression.solve([regression.Rows("r", matrix, target, 0.5)], m)
    ten = regression.solve([regression.Rows("r", np.repeat(matrix, 10, 0), np.repeat(target, 10, 0), 0.05)], m)
    np.testing.assert_allclose(ten.std, once.std, rtol=1e-6)


def test_shooting_finds_parameters_and_a_delay_between_samples(pendulum):
    m, truth = pendulum
    found = dynamics.identify([record(m, truth, 0)], [], m, np.zeros(1), dynamics.Settings(find_delays=True, segments_s=(0.5, 1.0)))
    low, high = found.estimate.interval(0.999)
    assert found.converged
    assert (low[:5] <= truth).all()
    assert (truth <= high[:5]).all()
    np.testing.assert_allclose(found.values[:2], truth[:2], rtol=0.01)
    assert found.delays[0] == pytest.approx(DELAY[0], abs=0.2 * 0.01)


def test_errors_of_shooting_are_as_large_as_it_says(pendulum):
    m, truth = pendulum
    setting = segments.Settings(0.5, 1, 0.01, 2)
    scores = []
    for seed in range(12):
        shot = shooting.fit(segments.cut([record(m, truth, seed)], m, DELAY, False, setting), m, truth, setting)
        scores.append((shot.estimate.values - truth) / shot.estimate.std)
    spread = np.sqrt(np.mean(np.square(scores), axis=0))
    # 12 draws: a root mean square of normal scores lies within 0.5 and 1.6 with a probability of 0.999.
    assert (spread[:2] > 0.5).all()
    assert (spread[:2] < 1.6).all()


def test_segments_in_nodes_that_meet_give_the_same_as_segments_in_one(pendulum):
    m, truth = pendulum
    run = record(m, truth, 1, noise=np.array([1e-4, 1e-3]))
    found = []
    for nodes in (1, 5):
        setting = segments.Settings(1.0, nodes, 0.01, 2)
        found.append(shooting.fit(segments.cut([run], m, DELAY, False, setting), m, m.start, setting).estimate)
    np.testing.assert_allclose(found[1].values[:3], found[0].values[:3], rtol=5e-3)


def test_free_runs_of_the_truth_stay_on_it_and_others_do_not(pendulum):
    m, truth = pendulum
    run = record(m, truth, 2, noise=np.zeros(2))
    own = free_run.free_run([run], m, truth, DELAY, False, 1.0)
    other = free_run.free_run([run], m, m.start, DELAY, False, 1.0)
    assert own.rmse < 2e-3
    assert other.rmse > 20 * own.rmse
    assert own.starts > 30


def test_scores_on_other_runs_tell_the_calibrated_from_the_rest(pendulum):
    m, truth = pendulum
    setting = dynamics.Settings(segments_s=(0.5,), horizons_s=(0.5,))
    found = dynamics.identify([record(m, truth, 3)], [record(m, truth, 4)], m, DELAY, setting)
    test = found.scores["test"]
    assert test["shooting"].free_run_rmse[0.5] < 0.2 * test["nominal"].free_run_rmse[0.5]
    assert test["shooting"].torque_rmse < test["nominal"].torque_rmse


def test_a_run_that_is_too_short_for_a_segment_is_told(pendulum):
    m, truth = pendulum
    short = record(m, truth, 0).cut(0.0, 1.9)
    with pytest.raises(DataError, match=r"the longest run has 1\.9 s; at least 4 s are needed"):
        dynamics.identify([short], [], m, DELAY, dynamics.Settings(segments_s=(2.0,)))


def test_what_is_not_determined_is_told():
    e = Estimate(("a", "b", "c"), np.array([1.0, 2.0, 0.1]), np.array([[0.01, 0.0199, 0], [0.0199, 0.04, 0], [0, 0, 0.01]]), ())
    assert e.vague() == ["c"]
    assert [(a, b) for a, b, _ in e.tied()] == [("a", "b")]
    low, high = e.interval()
    assert low[0] == pytest.approx(1 - 1.959964 * 0.1)
    assert high[0] == pytest.approx(1 + 1.959964 * 0.1)


def test_a_pendulum_that_never_turns_does_not_tell_its_friction_from_its_weight(pendulum):
    m, _ = pendulum
    rng = np.random.default_rng(0)
    time = np.arange(600) / 100.0
    still = run_of(m, time, np.tile([np.pi, 0.0], (600, 1)), np.zeros((600, 1)), NOISE, rng)
    found = dynamics.identify([still], [], m, DELAY, dynamics.Settings(segments_s=(0.5,), horizons_s=()))
    assert {"I", "mu"} & set(found.estimate.vague()) or found.estimate.tied()


def test_the_smooth_law_of_dry_friction_tends_to_half_pi():
    assert float(expressions.smooth_sign(ca.DM(10.0))) == pytest.approx(np.pi / 2, rel=1e-3)
    assert float(expressions.smooth_sign(ca.DM(0.0))) == 0.0


def test_a_picture_of_free_runs_spans_what_it_shows(pendulum):
    m, truth = pendulum
    run = record(m, truth, 5, seconds=14.0)
    run.state[run.time - run.time[0] > pictures.SHOWN_S, m.positions[0]] += 300.0
    found = dynamics.identify([run.cut(0.0, 6.0)], [], m, DELAY, dynamics.Settings(segments_s=(0.5,), horizons_s=(0.5,)))
    low, high = pictures.free_runs(run, found, ("theta", "theta_dot")).axes[0].get_ylim()
    assert high - low < 30.0
