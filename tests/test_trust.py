"""Limits of a model that was fitted to logs: from what the fit never saw, in the planner's precision and at its rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from carts import CART, cart

from mbrl_control import robot, strict_yaml
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import Sequences, sequences
from mbrl_control.models import division, ensemble
from mbrl_control.planning.limits import Limits, step_errors
from mbrl_control.training.trust import limits_of

OPTIONS = ensemble.Options(stretch=5)


def spec_of(**changes):
    text = CART + "name: cart\nmodel: {kind: ensemble, members: 3, hidden: [16]}\nplanner: {horizon: 12}\n"
    return robot.validate(strict_yaml.parse(text, "cart.yaml")).model_copy(update=changes)


def stretches(steps, seconds=120.0):
    """Of `steps` steps, one each 7 ms."""
    start = np.arange(0, seconds, 0.007)
    return Sequences(np.zeros((len(start), steps + 1, 1)), np.zeros((len(start), steps, 1)), start)


@pytest.mark.parametrize(("stretch", "steps"), [(1, 4), (1, 8), (5, 2), (10, 5), (50, 10)])
def test_what_was_never_trained_on_has_no_moment_in_common_with_what_was(stretch, steps):
    dt, chosen = 0.04, division.never_trained_on(stretches(steps), 0.04, stretch)
    trained = division.split(stretches(stretch), dt, division.SHARE)[0].start
    assert len(chosen) > 10
    for begin in chosen.start:
        shared = np.minimum(trained + stretch * dt, begin + steps * dt) - np.maximum(trained, begin)
        assert shared.max() < 1e-6


def test_of_stretches_that_fit_in_no_block_there_are_none():
    assert not len(division.never_trained_on(stretches(6), 0.04, 5))


@pytest.mark.usefixtures("one_thread")
def test_limits_are_those_of_what_the_fit_held_out():
    spec, episode = spec_of(plan_hz=12.5), cart(60.0, noise=3e-3)
    known = sequences(episode, spec, 5)
    model = ensemble.build(spec, OPTIONS)
    model.fit(known, np.random.default_rng(0), epochs=2)
    found = limits_of(model.snapshot(), ensemble.build(spec, OPTIONS), [episode], known, spec)
    seen = known.state.reshape(-1, 2)
    np.testing.assert_allclose(found.low, seen.min(0) - 0.25 * np.ptp(seen, axis=0))
    assert found.steps == 2, "of a block of ten the first five are trained on"
    # Every fourth state of 50 Hz is what a planner at 12.5 Hz is told; blocks of 0.4 s.
    slow = sequences(episode, spec, 2, every=4)
    block = np.floor(slow.start / 0.4 + 1e-9)
    since = slow.start - 0.4 * block
    held = slow.select(((block * (5**0.5 - 1) / 2 + 0.5) % 1 < 0.1) & (since > 0.2 - 1e-6) & (since < 0.32 + 1e-6))
    assert len(held) > 20
    assert found.error == pytest.approx(3 * np.quantile(step_errors(model, held, spec.wraps), 0.99), rel=1e-4)
    assert found.disagreement < np.inf


@pytest.mark.usefixtures("one_thread")
def test_a_log_at_another_rate_is_thinned_to_the_planners(monkeypatch):
    asked = []

    def measure(model, known, held, spec):
        asked.append(held)
        assert model._dtype == torch.bfloat16
        return Limits.none(spec)

    monkeypatch.setattr(Limits, "measure", measure)
    spec, fast = spec_of(plan_hz=25.0), cart(30.0)
    spec = spec.model_copy(update={"planner": spec.planner.model_copy(update={"dtype": "bfloat16"})})
    model = ensemble.build(spec, OPTIONS)
    model.fit(sequences(fast, spec, 5), np.random.default_rng(0), epochs=1)
    thin = Episode(fast.time[::2], fast.state[::2], fast.action[::2])
    for log in (fast, thin):
        limits_of(model.snapshot(), ensemble.build(spec, OPTIONS), [log], sequences(log, spec, 5), spec)
    assert np.diff(asked[0].start).min() == np.diff(asked[1].start).min() == pytest.approx(0.04)
    np.testing.assert_allclose(asked[0].state, asked[1].state)
