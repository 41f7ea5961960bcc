"""Recalibrated intervals against distributions whose quantiles are known, and counts of independent outcomes against theory."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from mbrl_calibration import uncertainty
from mbrl_calibration.uncertainty import LEVELS, Coverage, Recalibration, covered, horizons, independent, left_out, of_errors
from mbrl_control import robot
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import DataError, UserError
from mbrl_control.models.base import Gaussian, Step
from mbrl_control.planning import coverage as intervals

SPEC = robot.load("cartpole")
NAMES = ("a", "b")


class Leak:
    """Members x' = leak x + drift_e with noise of a known size, alike for all signals."""

    dt, version = 0.04, 1

    def __init__(self, leak: float, noise: float, drifts: tuple[float, ...] = (0.0,)) -> None:
        self.leak, self.noise, self.drifts, self.members = leak, noise, torch.tensor(drifts)[:, None, None], len(drifts)

    def step(self, state, action, rng=None):
        mean = self.leak * state + self.drifts
        return Step(mean if rng is None else mean + self.noise * torch.randn(mean.shape, generator=rng))

    def predict(self, state, action):
        return Gaussian(self.step(state, action).state, torch.full_like(state, self.noise))


def stretches(state: np.ndarray) -> Sequences:
    return Sequences(state, np.zeros((len(state), state.shape[1] - 1, 1)), np.arange(len(state)) * SPEC.model_dt)


def students(rng: np.random.Generator, count: int, steps: int, freedom: float = 3.0) -> np.ndarray:
    """Errors of heavy tails; signal b has twice those of a, and both grow with the root of k."""
    grow = np.sqrt(np.arange(1, steps + 1))[:, None] * [1.0, 2.0]
    return stats.t.rvs(freedom, size=(count, steps, 2), random_state=rng) * grow


def test_widths_are_the_distributions_quantiles_for_each_signal_and_horizon():
    found = of_errors([students(np.random.default_rng(0), 20_000, 6)], NAMES)
    for level in (0.2, 0.5, 0.68, 0.9, 0.95):
        quantile = stats.t.ppf((1 + level) / 2, 3)
        for k in (1, 2, 6):
            for dim in (0, 1):
                assert found.factor(level, k, dim) == pytest.approx(quantile * math.sqrt(k) * (dim + 1), rel=0.06), (level, k, dim)


def test_one_factor_on_the_deviation_could_not_hold_both_levels():
    """Of Student's t with 3 degrees of freedom, by its tables: 3.182 / 1.189 where a Gaussian has 1.960 / 0.994."""
    rng = np.random.default_rng(1)
    found = of_errors([students(rng, 20_000, 1)], NAMES)
    assert found.factor(0.95, 1, 0) / found.factor(0.68, 1, 0) == pytest.approx(3.182 / 1.189, rel=0.05)
    assert covered([students(rng, 20_000, 1)], NAMES, found, steps=(1,)).off() < 0.01
    assert covered([students(rng, 20_000, 1)], NAMES, steps=(1,)).off() > 0.05


def test_between_fitted_levels_and_horizons_a_gaussian_stays_one():
    rng = np.random.default_rng(2)
    found = of_errors([rng.normal(size=(20_000, 50, 2))], NAMES)
    for level in (0.03, 0.37, 0.63, 0.945):
        for k in (1, 7, 17, 49, 50):
            assert found.factor(level, k, 1) == pytest.approx(float(intervals.normal_width(level)), rel=0.04), (level, k)


def test_widths_never_fall_with_the_level():
    rng = np.random.default_rng(3)
    found = of_errors([students(rng, 40, 20) for _ in range(3)], NAMES)
    assert (np.diff(found.width, axis=0) >= 0).all()
    assert found.width.shape == (len(LEVELS), len(horizons(20)), 2)


def test_runs_that_differ_are_held_on_average_by_what_was_fitted_to_four_others():
    """Runs whose errors differ in size, as a log-normal: over many worlds the share in a fifth run is the level."""
    rng = np.random.default_rng(4)
    held, plain = [], []
    for _ in range(100):
        runs = [rng.normal(size=(100, 1, 2)) * np.exp(0.8 * rng.normal()) for _ in range(5)]
        found = of_errors(runs[:4], NAMES)
        held.append(covered(runs[4:], NAMES, found, steps=(1,)).share)
        plain.append((np.abs(runs[4]) <= np.quantile(np.abs(np.concatenate(runs[:4])), 0.95)).mean())
    assert np.mean(held, (0, 2, 3)) == pytest.approx([0.68, 0.95], abs=0.02)
    assert np.mean(plain) < 0.93, "pooled as one run, the tails are too short"


def test_every_run_counts_alike_however_long_it_is():
    rng = np.random.default_rng(5)
    short, long = rng.normal(size=(500, 1, 2)), 5.0 * rng.normal(size=(5000, 1, 2))
    together = of_errors([short, long], NAMES)
    doubled = of_errors([short, np.concatenate([long, long])], NAMES)
    np.testing.assert_allclose(doubled.width, together.width, rtol=0.02)


def test_what_left_out_runs_hold_is_what_new_runs_hold():
    rng = np.random.default_rng(6)
    runs = [rng.normal(size=(300, 2, 2)) for _ in range(4)]
    inside = left_out(runs, NAMES, steps=(1, 2))
    assert inside.off() < 0.06
    with pytest.raises(DataError, match=r"1 run: .* needs at least 2"):
        left_out(runs[:1], NAMES)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_independent_values_of_an_autoregression_are_those_of_theory(memory):
    """An AR(1) of n values is worth n (1 - phi) / (1 + phi) independent ones (Priestley 1981, section 5.3)."""
    rng, count = np.random.default_rng(7), 40_000
    series = np.empty((count, 2))
    series[0] = rng.normal(size=2) / math.sqrt(1 - memory**2)
    for i in range(1, count):
        series[i] = memory * series[i - 1] + rng.normal(size=2)
    np.testing.assert_allclose(independent(series), count * (1 - memory) / (1 + memory), rtol=0.15)


def test_a_signal_that_never_errs_is_worth_one_outcome():
    assert independent(np.full((100, 1), 3.0)) == [1.0]


def test_levels_beyond_what_the_runs_can_tell_are_refused():
    """Stretches that repeat each value 10 times over are worth a tenth of their number; n outcomes tell up to n / (n + 1)."""
    rng = np.random.default_rng(8)
    found = of_errors([np.repeat(rng.normal(size=(30, 1, 2)), 10, axis=0)], NAMES)
    count = found.independent[0, 0]
    assert 15 < count < 60
    assert found.highest(1)[0] == pytest.approx(count / (count + 1))
    assert found.factor(0.68, 1, 0) > 0
    with pytest.raises(UserError, match=r"level = 0.99: 1 steps ahead the runs were worth \d+.\d independent outcomes of 'a'"):
        found.factor(0.99, 1, 0)
    assert np.isnan(covered([rng.normal(size=(50, 1, 2))], NAMES, found, (0.68, 0.99), (1,)).share[1]).all()


@pytest.mark.parametrize(("level", "k", "words"), [(0.0, 1, "level = 0"), (0.999, 1, "at most 0.99"), (0.5, 0, "k = 0"), (0.5, 4, "k = 4")])
def test_questions_out_of_range_are_told(level, k, words):
    found = of_errors([students(np.random.default_rng(9), 500, 3)], NAMES)
    with pytest.raises(UserError, match=words):
        found.factor(level, k, 0)


def test_json_goes_round_and_other_things_are_refused():
    found = of_errors([students(np.random.default_rng(10), 300, 12)], NAMES)
    data = json.loads(json.dumps(found.to_json()))
    again = Recalibration.from_json(data)
    assert again.factor(0.9, 7, 1) == found.factor(0.9, 7, 1)
    assert (again.signals, again.runs) == (NAMES, 1)
    for wrong in ({}, {**data, "signals": ["a"]}, {**data, "width": "wide"}, {**data, "levels": data["levels"][::-1]},
                  {**data, "independent": (-np.array(data["independent"])).tolist()},
                  {**data, "width": np.full_like(found.width, np.nan).tolist()}):
        with pytest.raises(DataError, match="no recalibration"):
            Recalibration.from_json(wrong)


def test_the_spread_is_that_of_a_linear_system_with_noise_and_two_minds():
    """Noise: s^2 (1 + a^2 + a^4); members that drift apart by d each step: (d (1 + a + a^2))^2 / 4."""
    leak, noise, apart = 0.8, 0.5, 0.6
    model = Leak(leak, noise, (-apart / 2, apart / 2))
    data = stretches(np.zeros((40, 4, 4)))
    found = intervals.spread(model, data, np.random.default_rng(0), particles=400)
    for k in range(3):
        variance = noise**2 * sum(leak ** (2 * i) for i in range(k + 1)) + (apart * sum(leak**i for i in range(k + 1))) ** 2 / 4
        assert np.sqrt((found[:, k] ** 2).mean()) == pytest.approx(math.sqrt(variance), rel=0.01), k


def test_errors_are_those_of_the_mean_path_around_the_circle():
    model = Leak(1.0, 2.0)
    state = np.zeros((30, 2, 4))
    state[:, 1, 0], state[:, 1, 1] = 3.0, 2 * math.pi - 0.1
    found = intervals.normalised(model, stretches(state), SPEC, np.random.default_rng(0), particles=2000)
    assert found[:, 0, 0].mean() == pytest.approx(1.5, rel=0.02)
    assert found[:, 0, 1].mean() == pytest.approx(-0.05, rel=0.02)


def test_an_overconfident_model_is_put_right_on_runs_that_it_has_not_seen():
    """A world of twice the noise that the model tells, and errors that are no Gaussians."""
    rng, model = np.random.default_rng(11), Leak(0.9, 0.5)

    def run() -> Sequences:
        state = rng.normal(size=(400, 1, 4))
        for _ in range(4):
            state = np.concatenate([state, 0.9 * state[:, -1:] + stats.laplace.rvs(scale=0.7, size=(400, 1, 4), random_state=rng)], 1)
        return stretches(state)

    found = uncertainty.fit(model, [run(), run(), run()], SPEC, rng)
    unseen = [run() for _ in range(4)]
    before = uncertainty.coverage(model, unseen, SPEC, rng, steps=(1, 4, 50))
    after = uncertainty.coverage([model] * 4, unseen, SPEC, rng, found, steps=(1, 4, 50))
    assert before.steps.tolist() == [1, 4], "no stretch is long enough for 50"
    assert before.off() > 0.1
    assert after.off() < 0.03
    assert set(after.rows()["4"]["x"]) == {"0.68", "0.95"}


def test_coverage_by_hand():
    """Sizes 0.5, 1.5, 2.5, 3.5: within 0.994 one of four, within 1.960 two; runs count alike."""
    run = np.array([0.5, -1.5, 2.5, -3.5] * 5)[:, None, None] * np.ones((1, 1, 2))
    found = covered([run, np.zeros((40, 1, 2))], NAMES, steps=(1,))
    assert found.share.tolist() == [[[0.625, 0.625]], [[0.75, 0.75]]]
    assert found.off() == pytest.approx(0.2)


@pytest.mark.parametrize(("errors", "words"), [
    ([], "there is no run"), ([np.zeros((5, 1, 2))], "run 1: 5 stretches are too few"),
    ([np.zeros((50, 1, 2)), np.zeros((50, 2, 2))], "run 2: errors of shape"), ([np.full((50, 1, 2), np.inf)], "diverges"),
])
def test_runs_that_cannot_be_used_are_told(errors, words):
    with pytest.raises(DataError, match=words):
        of_errors(errors, NAMES)


def test_the_reliability_plot_is_drawn(tmp_path):
    share = np.linspace(0.1, 0.9, 5)[:, None, None] * np.ones((1, 2, 2))
    table = Coverage(np.linspace(0.1, 0.9, 5), np.array([1, 10]), NAMES, share, np.ones((2, 2)))
    uncertainty.picture(table, table, tmp_path / "sub" / "reliability.png", "title")
    from matplotlib import image

    pixels = image.imread(tmp_path / "sub" / "reliability.png")
    assert pixels.shape[0] > 500
    assert pixels[..., :3].std() > 0.05, "not an empty page"
