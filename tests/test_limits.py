"""What a model may be trusted with: measured on held-out data, written as JSON, refused when it is no such thing."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mbrl_control import robot
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError
from mbrl_control.models.base import Step
from mbrl_control.planning import limits
from mbrl_control.planning.limits import Limits

CARTPOLE = robot.load("cartpole")  # x ignored, theta wraps, all mirrored


class Drifting:
    """Member e adds `offsets[e]` to every signal in each step; what it should do is nothing."""

    version, dt = 1, 0.06

    def __init__(self, offsets, size=4):
        self.offsets, self.members, self.size = torch.tensor(offsets)[:, None, None], len(offsets), size

    def step(self, state, action, rng=None):
        return Step(state + self.offsets)

    def scale(self):
        return torch.full((self.size,), 0.5)


def still(count, steps, size=4, actions=1):
    """Stretches in which nothing happens, one further along than the other."""
    state = np.repeat(np.linspace(-1, 3, count)[:, None, None], size, 2).repeat(steps + 1, 1)
    return Sequences(state, np.zeros((count, steps, actions)), 0.1 * np.arange(count))


def test_the_box_is_that_of_the_data_and_its_mirror_image_with_a_margin():
    found = Limits.measure(Drifting([0.0]), still(9, 1), still(0, 3), CARTPOLE)
    reach = 3 + 0.25 * 6  # the data reaches from -1 to 3, its image from -3 to 1
    assert found.low.tolist() == [-math.inf, -math.inf, -reach, -reach]
    assert found.high.tolist() == [math.inf, math.inf, reach, reach]
    assert found.disagreement == found.error == math.inf
    plain = CARTPOLE.model_copy(update={"model": CARTPOLE.model.model_copy(update={"mirror": [], "ignore": []})})
    found = Limits.measure(Drifting([0.0]), still(9, 1), still(0, 3), plain)
    assert found.low.tolist() == [-2.0, -math.inf, -2.0, -2.0]
    assert found.high.tolist() == [4.0, math.inf, 4.0, 4.0]


def test_disagreement_and_error_are_three_times_what_was_held_out():
    found = Limits.measure(Drifting([0.1, 0.3]), still(9, 1), still(200, 3), CARTPOLE)
    # members drift apart by 0.2 a step: standard deviation 0.1, 0.2, 0.3; the mean of both is wrong by 0.2 a step; a typical change is 0.5
    assert found.steps == 3
    assert found.disagreement == pytest.approx(3 * (0.1 + 0.2 + 0.3) / 0.5, rel=1e-5)
    assert found.error == pytest.approx(3 * 0.2 / 0.5, rel=1e-5)


def test_the_limit_is_a_quantile_not_the_worst():
    held = still(400, 2)
    held.state[:2, 1] += 100.0  # half a per cent of the data is nonsense
    found = Limits.measure(Drifting([0.1]), still(9, 1), held, CARTPOLE)
    assert found.error == pytest.approx(3 * 0.1 / 0.5, rel=1e-5)


def test_a_perfect_model_may_still_err_a_little():
    found = Limits.measure(Drifting([0.0]), still(9, 1), still(200, 4), CARTPOLE)
    assert (found.disagreement, found.error) == (pytest.approx(4 * 0.05), 0.05)


def test_errors_are_around_the_circle_and_infinite_where_they_are_not_finite():
    held = still(5, 2)
    held.state[:, 1:, 1] += 2 * math.pi
    assert limits.step_errors(Drifting([0.1]), held, CARTPOLE.wraps) == pytest.approx(np.full(5, 0.2), rel=1e-5)
    for value in (math.nan, math.inf):
        assert (limits.step_errors(Drifting([value]), held, CARTPOLE.wraps) == math.inf).all()


def wide(**change):
    values = {"low": np.array([-1.0, -math.inf]), "high": np.array([2.0, math.inf]), "steps": 2, "disagreement": 0.5, "error": 1.0}
    return Limits(**(values | change))


@pytest.mark.parametrize(("paths", "left"), [
    ([[0, 2, -1]], False), ([[0, 2.1, 0]], True), ([[0, 0, -1.1]], True), ([[0, math.nan, 0]], True),
    ([[1.5, 1.5, 3], [1.5, 1.5, 0.9]], False),  # the mean stays inside, and of the last step's disagreement nobody asks
    ([[0.4, 0.6, 0], [-0.4, -0.6, 0]], False), ([[0.4, 0.61, 0], [-0.4, -0.61, 0]], True),
])
def test_a_plan_leaves_the_limits_by_its_mean_or_by_disagreement(paths, left):
    states = torch.zeros(len(paths), 1, 3, 2)
    states[:, 0, :, 0] = torch.tensor(paths)
    assert wide().left_by(states, torch.ones(2)) is left


def test_limits_are_json_and_come_back():
    spec = SimpleNamespace(state_dim=2)
    for found in (wide(), wide(disagreement=math.inf, error=math.inf)):
        text = json.dumps({limits.FIGURE: found.figures()}, allow_nan=False)
        back = Limits.of(json.loads(text), spec)
        for name in ("low", "high", "steps", "disagreement", "error"):
            assert np.array_equal(getattr(back, name), getattr(found, name)), name
    assert Limits.of({"score": 1.0}, spec) is None


@pytest.mark.parametrize("change", [
    {"low": [0.0]}, {"low": "ab"}, {"low": None}, {"low": [0.0, "1"]}, {"low": [0.0, True]}, {"high": [0.0, math.nan]},
    {"high": [10**400, 0]}, {"steps": 0}, {"steps": 10**30}, {"steps": 1.0}, {"steps": True}, {"steps": None}, {"error": "small"},
    {"error": math.nan}, {"disagreement": [1.0]},
])
def test_what_are_no_limits_is_refused(change):
    figures = {limits.FIGURE: {**wide().figures(), **change}}
    with pytest.raises(SnapshotError, match="figure 'limits'"):
        Limits.of(figures, SimpleNamespace(state_dim=2))
    with pytest.raises(SnapshotError, match="must be a mapping"):
        Limits.of({limits.FIGURE: [1]}, SimpleNamespace(state_dim=2))
