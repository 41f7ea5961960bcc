"""Model evaluation against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mbrl_control import robot
from mbrl_control.data.sequences import Sequences
from mbrl_control.models import evaluate, linear
from mbrl_control.models.base import Gaussian, Step

SPEC = robot.load("cartpole")


class Drift:
    """Two members: one adds 1 to x a step, the other 3; theta turns by half a circle; told spread 2."""

    members, dt, version = 2, 0.04, 1

    def step(self, state, action, rng=None):
        return Step(state + torch.tensor([[[1.0, math.pi, 0, 0]], [[3.0, math.pi, 0, 0]]]))

    def predict(self, state, action):
        return Gaussian(self.step(state, action).state, torch.full_like(state, 2.0))

    def scale(self):
        return torch.ones(4)


def stretches(final_x: list[float]) -> Sequences:
    """Two steps from rest at 0; x ends as given, theta makes a whole turn."""
    state = np.zeros((len(final_x), 3, 4))
    state[:, 1, 0], state[:, 2, 0] = 2.0, final_x
    state[:, 1, 1] = -math.pi
    return Sequences(state, np.zeros((len(final_x), 2, 1)), np.arange(float(len(final_x))))


def test_k_step_error_by_hand():
    data = stretches([4.0, 7.0])
    predicted = evaluate.open_loop(Drift(), data.state[:, 0], data.action)
    np.testing.assert_allclose(predicted[:, :, 0], [[2.0, 4.0]] * 2, rtol=1e-6)
    rmse = evaluate.k_step_rmse(predicted, data, SPEC, (1, 2))
    assert rmse["1"]["x"] == pytest.approx(0.0, abs=1e-6)
    assert rmse["2"]["x"] == pytest.approx(math.sqrt((0 + 9) / 2), rel=1e-6)
    assert rmse["1"]["theta"] == pytest.approx(0.0, abs=1e-6), "pi and -pi are one angle"
    assert rmse["2"]["theta"] == pytest.approx(0.0, abs=1e-6), "a whole turn is no error"


def test_persistence_repeats_the_start():
    data = stretches([4.0])
    rmse = evaluate.k_step_rmse(evaluate.persistence(data), data, SPEC, (1, 2))
    assert rmse["2"]["x"] == 4.0
    assert rmse["1"]["theta"] == pytest.approx(math.pi)


def test_coverage_of_a_mixture_by_hand():
    """x = 2 lies in the middle of the members at 1 and 3; x = 9 lies 3 and 4 sigma above them; the other signals are exact."""
    model = Drift()
    middle, far = stretches([4.0]), stretches([4.0])
    far.state[:, 1, 0] = 9.0
    assert evaluate.coverage(model, middle, SPEC) == [1.0, 1.0]
    assert evaluate.coverage(model, far, SPEC) == [0.75, 0.75]


def test_coverage_is_nominal_for_gaussian_noise():
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(20_000, 4)), rng.normal(size=(20_000, 1, 1))
    following = state + action[:, 0] * [0.1, 0.2, 0.3, 0.4] + rng.normal(size=(20_000, 4)) * [0.01, 0.1, 1.0, 0.02]
    data = Sequences(np.stack([state, following], 1), action, np.arange(20_000.0))
    model = linear.build(SPEC)
    model.fit(data, rng)
    assert evaluate.coverage(model, data, SPEC) == pytest.approx([0.68, 0.95], abs=0.01)


def test_report_has_the_keys_and_leaves_out_what_is_too_long():
    data = stretches([4.0, 7.0])
    baseline = linear.build(SPEC)
    baseline.fit(Sequences(np.random.default_rng(0).normal(size=(50, 2, 4)), np.zeros((50, 1, 1)), np.zeros(50)), np.random.default_rng(0))
    out = evaluate.report(Drift(), data, SPEC, baseline, (1, 2, 50))
    assert set(out) == {"k_step_rmse", "persistence", "linear", "coverage_68", "coverage_95", "stretches"}
    assert list(out["k_step_rmse"]) == ["1", "2"]
    assert list(out["linear"]["1"]) == ["x", "theta", "x_dot", "theta_dot"]
