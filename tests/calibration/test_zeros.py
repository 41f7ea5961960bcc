from dataclasses import replace

import numpy as np
import pytest
from truths import multisine, pendulum_spec, run_of, simulate

from mbrl_calibration import dynamics, mechanism, regression, segments, shooting, zeros

NOISE, NOW = np.array([1e-3, 2e-2]), np.zeros(1)
WRONG = (0.05, -0.03)
"""What is added to the positions of the runs, rad."""


@pytest.fixture(scope="module")
def recorded():
    m = mechanism.build(pendulum_spec())
    truth = m.start * np.array([1.2, 0.85, 1.5, 2.0, 1.0])
    runs = []
    for seed, wrong in enumerate(WRONG):
        rng = np.random.default_rng(seed)
        time, command = multisine(6.0, 100.0, [2.0], rng)
        run = run_of(m, time, simulate(m, truth, time, command, NOW, np.array([np.pi, 0.0])), command, NOISE, rng)
        runs.append(zeros.moved(run, m, np.array([wrong])))
    return m, truth, runs


def test_zeros_that_differ_from_run_to_run_are_found_with_the_parameters(recorded):
    m, truth, runs = recorded
    blind, found = (dynamics.identify(runs, [], m, NOW, dynamics.Settings(segments_s=(0.5, 2.0), horizons_s=(0.5,), zero=zero))
                    for zero in (0.0, 0.05))
    np.testing.assert_allclose(found.zeros.ravel(), [-w for w in WRONG], atol=2e-3)
    np.testing.assert_array_equal(blind.zeros, 0.0)
    assert (np.abs(found.values - truth) < 4 * found.estimate.std[: len(truth)] + 1e-12).all()
    assert found.scores["fit"]["shooting"].free_run_rmse[0.5] < 0.3 * blind.scores["fit"]["shooting"].free_run_rmse[0.5]


@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_the_first_seconds_of_a_run_tell_its_zero(recorded, seconds):
    m, truth, runs = recorded
    for run, wrong in zip(runs, WRONG, strict=True):
        by = zeros.find(run.cut(0.0, seconds), m, truth, NOW, False, 0.05)
        np.testing.assert_allclose(by, -wrong, atol=3e-3)
        np.testing.assert_array_equal(zeros.moved(run, m, by).state[:, m.rates], run.state[:, m.rates])


def test_runs_to_judge_by_are_judged_with_zeros_from_their_first_seconds(recorded):
    m, truth, runs = recorded
    known = dynamics.Settings(segments_s=(0.5,), horizons_s=(0.5,), known=m.names)
    right = m.starting(m.named(truth))
    blind, told = (dynamics.identify(runs[:1], runs[1:], right, NOW, replace(known, zero=zero)).scores["test"]["nominal"].free_run_rmse[0.5]
                   for zero in (0.0, 0.05))
    assert told < 0.2 * blind
    short = runs[1].cut(0.0, 3.0)
    assert zeros.settled(short, m, truth, NOW, False, 0.05) is short
    rest = zeros.settled(runs[1], m, truth, NOW, False, 0.05)
    assert rest.duration == pytest.approx(runs[1].duration - zeros.FIRST_S, abs=0.03)


def mean_effort(m, truth, run, by):
    """What efforts the motion of a run calls for in the mean with other zeros, by the equations of motion."""
    did = regression.motion(zeros.moved(run, m, by), m, NOW, False)
    return float(np.array(mechanism.effort_function(m)(did.q.T, did.v.T, did.a.T, truth)).mean())


def test_the_motion_alone_tells_a_zero(recorded):
    m, truth, runs = recorded
    for run, wrong in zip(runs, WRONG, strict=True):
        unknown = replace(run, command=np.full_like(run.command, 7.0), measured=np.full_like(run.measured, -7.0))
        by = zeros.by_motion(unknown, m, truth, 10.0, np.array([1e-3]))
        assert mean_effort(m, truth, run, by) == pytest.approx(0.0, abs=1e-6)
        per_rad = (mean_effort(m, truth, run, by + 0.01) - mean_effort(m, truth, run, by - 0.01)) / 0.02
        off = regression.motion(run, m, NOW, False).u.mean() / per_rad  # the run's true mean effort is not quite zero
        np.testing.assert_allclose(by, -wrong - off, atol=1e-3)
        assert abs(by + wrong) < 0.3 * abs(wrong)


def test_a_mean_effort_that_is_not_known_tells_less(recorded):
    m, truth, runs = recorded
    sure, vague, lost = (zeros.by_motion(runs[0], m, truth, 0.05, np.array([mean]))[0] for mean in (1e-3, 0.1, 100.0))
    assert abs(sure) > abs(vague) > abs(lost)
    assert lost == pytest.approx(0.0, abs=1e-4)


def test_mean_efforts_are_a_root_mean_square_over_runs_but_not_less_than_is_sure(recorded):
    m, truth, runs = recorded
    pushed = [replace(run, command=np.full_like(run.command, u)) for run, u in zip(runs, (0.3, -0.4), strict=True)]
    np.testing.assert_allclose(zeros.mean_efforts(pushed, m, truth, NOW, False), np.sqrt((0.09 + 0.16) / 2), rtol=1e-6)
    wave = replace(runs[0], command=np.sign(np.sin(2 * np.pi * 0.5 * runs[0].time))[:, None])  # whole periods are left: no mean
    np.testing.assert_allclose(zeros.mean_efforts([wave], m, truth, NOW, False), zeros.SURE, rtol=0.2)


def test_efforts_of_a_run_to_judge_by_do_not_tell_its_zeros(recorded):
    m, truth, runs = recorded
    s = dynamics.Settings(horizons_s=(0.5,), zero=0.05)
    right = zeros.moved(runs[1], m, np.array([-WRONG[1]]))
    with_right = dynamics.score([right], m, truth, NOW, s).torque_rmse
    blind = dynamics.score([runs[1]], m, truth, NOW, s).torque_rmse
    seen = dynamics.score_unseen([runs[1]], runs[:1], m, truth, NOW, s)
    assert with_right < seen.torque_rmse < with_right + 0.2 * (blind - with_right)
    untold = dynamics.score_unseen([runs[1]], runs[:1], m, truth, NOW, s, told=False).free_run_rmse[0.5]
    assert untold == dynamics.score([runs[1]], m, truth, NOW, s).free_run_rmse[0.5] > 5 * seen.free_run_rmse[0.5]
    plain = dynamics.score_unseen([runs[1]], runs[:1], m, truth, NOW, replace(s, zero=0.0))
    assert plain.torque_rmse == blind


def test_a_zero_that_nothing_tells_stays_where_it_is_thought_to_be(recorded):
    m, truth, runs = recorded
    floating = truth * (np.array(m.names) != "mu")
    assert (floating == 0).sum() == 1
    by = zeros.find(runs[0].cut(0.0, 2.0), m, floating, NOW, False, 0.05)
    np.testing.assert_allclose(by, 0.0, atol=1e-3)
    np.testing.assert_array_equal(zeros.by_motion(runs[0], m, floating, 0.05, np.array([0.01])), 0.0)


def test_zeros_are_not_looked_for_unless_asked(recorded):
    m, truth, runs = recorded
    setting = segments.Settings(0.5, 1, 0.01, 2)
    shot = shooting.fit(segments.cut(runs, m, NOW, False, setting), m, truth, setting)
    assert shot.zeros.shape == (2, 1)
    assert not shot.zeros.any()
