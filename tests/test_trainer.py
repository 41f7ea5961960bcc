"""The trainer: when it refits, what it holds out, and what its gate lets through."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from carts import cart

from mbrl_control import robot, strict_yaml
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import Sequences, sequences
from mbrl_control.planning.limits import Limits
from mbrl_control.store import ModelStore
from mbrl_control.store.store import ROLLED_BACK
from mbrl_control.training.trainer import GATE_STEPS, HELD_BLOCK_S, Trainer, k_step_error

YAML = """
name: cart
rate_hz: 50
model_dt: {dt}
state:
  - {{name: x, joint: slider, unit: m}}
  - {{name: v, joint: slider, field: velocity, unit: m/s, rate_of: x}}
command:
  - {{name: u, unit: N, limits: [-1, 1]}}
cost: {{kind: quadratic, options: {{weight: {{x: 1.0}}}}}}
model: {model}
planner: {{horizon: 6, candidates: 24, iterations: 2}}
trainer: {{first_fit_s: 2.0, refit_every_s: 1.0, explore_s: 2.0, budget_s: 60}}
"""
LINEAR = "{kind: linear}"
SMALL = "{kind: ensemble, members: 2, hidden: [16]}"


def spec_of(model=LINEAR, dt=0.04, **trainer):
    spec = robot.validate(strict_yaml.parse(YAML.format(model=model, dt=dt), "cart.yaml"))
    return spec.model_copy(update={"trainer": spec.trainer.model_copy(update=trainer)})


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


def fitted(spec, store, seconds=20.0):
    trainer = Trainer(spec, store, seed=0)
    trainer.set_data([cart(seconds)])
    return trainer, trainer.refit()


@pytest.mark.parametrize("model", [LINEAR, SMALL])
def test_warming_up_changes_no_bit_of_any_refit(tmp_path, model):
    found = []
    for warm in (False, True):
        trainer = Trainer(spec_of(model), ModelStore(tmp_path / str(warm)), seed=0)
        if warm:
            trainer.warm_up()
            assert not trainer.model.version
        trainer.set_data([cart(20.0)])
        found.append([trainer.refit() for _ in range(2)] and trainer.model.snapshot().weights)
    cold, warm = found
    assert cold.keys() == warm.keys()
    assert all(np.array_equal(cold[key], warm[key]) for key in cold)


def test_the_first_model_is_published_and_the_figures_say_so(store):
    trainer, refit = fitted(spec_of(), store)
    assert refit.version == 1
    assert store.newest() == 1
    assert refit.score < 0.5  # the world is linear
    assert math.isnan(refit.incumbent)
    assert refit.experience_s == pytest.approx(20.0)
    assert trainer.history == [refit]
    found = store.read(1, trainer.spec.hash)
    assert found.figures["gate_score"] == pytest.approx(refit.score)
    assert json.loads((store.path(1) / "manifest.json").read_text(), parse_constant=pytest.fail)


def test_a_published_model_says_how_far_it_may_be_trusted(store):
    """The box is that of all data, a quarter wider on either side; the error three times what is held out, as the planner sees it."""
    spec = spec_of().model_copy(update={"plan_hz": 12.5})  # every fourth state
    trainer, _ = fitted(spec, store)
    found = Limits.of(store.read(1).figures, spec)
    data = trainer.split(1)
    seen = np.concatenate([some.state.reshape(-1, 2) for some in data])
    margin = 0.25 * (seen.max(0) - seen.min(0))
    np.testing.assert_allclose(found.low, seen.min(0) - margin)
    np.testing.assert_allclose(found.high, seen.max(0) + margin)
    held = trainer.split(spec.planner.horizon, 4)[1]
    assert np.diff(held.start).min() == pytest.approx(0.08)
    errors = [k_step_error(trainer.model, Sequences(held.state[k : k + 1, :2], held.action[k : k + 1, :1], held.start[k : k + 1]),
                           spec.wraps, trainer.model.scale()) for k in range(len(held))]
    assert found.error == pytest.approx(3 * np.quantile(errors, 0.99), rel=1e-4)
    assert found.steps == spec.planner.horizon == 6


def test_with_nothing_held_out_there_is_a_box_alone(store):
    trainer = Trainer(spec_of(), store, seed=0)
    trainer.set_data([cart(2.0)])
    trainer.refit()
    found = Limits.of(store.read(1).figures, trainer.spec)
    assert np.isfinite(found.low).all()
    assert found.error == found.disagreement == math.inf


def test_both_models_are_compared_in_the_same_units(store):
    """A model fitted to larger changes must not look better for that alone."""
    calm = cart(20.0)
    trainer = Trainer(spec_of(), store, seed=0)
    trainer.set_data([Episode(calm.time, 0.1 * calm.state, 0.1 * calm.action)])
    trainer.refit()
    trainer.set_data([cart(100.0, seed=9)])
    second = trainer.refit()
    assert second.score == pytest.approx(second.incumbent, rel=0.5)


def ruin(trainer, factor):
    """Make the next fit end with weights times `factor`."""
    real = trainer.model.fit

    def fit(*args, **options):
        figures = real(*args, **options)
        trainer.model._matrix *= factor
        return figures

    trainer.model.fit = fit


def test_a_worse_model_is_refused_and_a_good_one_after_it_is_published(store):
    trainer, _ = fitted(spec_of(), store)
    ruin(trainer, 1.2)
    trainer.set_data([cart(21.0)])
    refused = trainer.refit()
    assert refused.version == 0
    assert refused.score > 1.1 * refused.incumbent
    assert store.newest() == 1
    del trainer.model.fit
    trainer.set_data([cart(22.0)])
    good = trainer.refit()
    assert good.version == 2
    assert good.score <= 1.1 * good.incumbent


def test_a_model_that_was_rolled_back_is_not_what_the_next_must_be_as_good_as(store):
    trainer, first = fitted(spec_of(), store)
    ruin(trainer, 1.2)
    trainer._incumbent.version = 0  # nothing to be compared with: what is worse gets through, as where the robot goes only later
    trainer.set_data([cart(21.0)])
    worse = trainer.refit()
    assert worse.version == 2
    store.refuse(2, f"{ROLLED_BACK} to version 1, which was better")
    trainer.set_data([cart(22.0)])
    refused = trainer.refit()
    assert refused.version == 0, "no worse than version 2, but worse than version 1"
    assert refused.incumbent == pytest.approx(first.score, rel=0.2)
    assert refused.incumbent < worse.score / 1.1
    store.refuse(1, f"{ROLLED_BACK}, too")
    trainer.set_data([cart(23.0)])
    assert math.isnan(trainer.refit().incumbent), "none is left"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_ruined_weights_are_refused_and_do_not_spoil_the_refits_after_them(store, value):
    trainer, first = fitted(spec_of(SMALL), store)
    real = trainer.model.fit

    def fit(*args, **options):
        figures = real(*args, **options)
        trainer.model._weights[0].detach().fill_(value)
        trainer.model.prepare()
        return figures

    trainer.model.fit = fit
    assert trainer.refit().version == 0
    assert store.versions() == [1]
    again = trainer.refit()  # a model built anew, from the one in use
    assert again.version == 2
    assert again.score <= 1.1 * first.score


def test_one_or_two_held_out_blocks_are_too_few_to_refuse_a_model_by(store):
    """A model that was lucky on the first block must not stay for ever."""
    trainer, first = fitted(spec_of(), store, seconds=8.0)
    assert math.isnan(first.score)
    ruin(trainer, 3.0)
    assert trainer.refit().version == 2
    trainer.set_data([cart(40.0)])
    ruin(trainer, 3.0)
    refused = trainer.refit()
    assert refused.score > 1.1 * refused.incumbent
    assert refused.version == 0


def test_ruined_weights_before_there_is_anything_held_out_are_not_published(store):
    spec = spec_of()
    trainer = Trainer(spec, store, seed=0)
    ruin(trainer, math.nan)
    trainer.set_data([cart(2.0)])
    assert trainer.refit().version == 0
    assert store.versions() == []
    trainer.set_data([cart(2.2)])
    assert trainer.refit().version == 1


def test_what_is_new_is_learned_although_it_makes_what_was_held_out_before_worse(store):
    """Five metres on the force acts half as much: no held-out block knows of that yet."""
    spec = spec_of(SMALL, updates=150)
    trainer, _ = fitted(spec, store)
    new = cart(3.0, start=22.0, seed=5, gain=0.5, at=5.0)
    there = sequences(new, spec, GATE_STEPS)
    scale = trainer.model.scale().clone()
    before = k_step_error(trainer.model, there, spec.wraps, scale)
    trainer.set_data([cart(20.0), new])
    assert not (trainer.split(GATE_STEPS)[1].start > 22.0).any(), "this test wants the new data not to be held out"
    held, incumbent = trainer.split(GATE_STEPS)[1], trainer._incumbent
    old = k_step_error(incumbent, held, spec.wraps, scale)
    assert trainer.refit().version == 2, "it is so much better where the cart is that the gate lets it be a little worse elsewhere"
    assert k_step_error(trainer.model, there, spec.wraps, scale) < 0.5 * before
    assert k_step_error(trainer.model, held, spec.wraps, scale) < 3 * old


def test_data_counts_less_with_age_where_it_is_asked_for(store):
    """exp(-age / forget_s), and a tenth for ever."""
    plain, _ = fitted(spec_of(), store)
    assert plain._weights(plain.split(1)[0]) is None
    trainer = Trainer(spec_of(forget_s=5.0), store, seed=0)
    trainer.set_data([cart(20.0)])
    trainer.refit()
    data = trainer.split(1)[0]
    np.testing.assert_allclose(trainer._weights(data), 0.1 + np.exp(-(20.0 - data.start) / 5.0), rtol=1e-6)


def test_the_gate_takes_the_geometric_mean_of_old_and_new(store):
    trainer, _ = fitted(spec_of(), store)
    held, new = trainer.split(GATE_STEPS)[1], sequences(cart(3.0, seed=7, gain=0.8), trainer.spec, GATE_STEPS)
    errors = [k_step_error(trainer.model, data, trainer.spec.wraps, trainer.model.scale()) for data in (held, new)]
    assert trainer._score(trainer.model, [held, new]) == pytest.approx(math.sqrt(errors[0] * errors[1]))
    assert trainer._score(trainer.model, [held, new.select(np.zeros(len(new), bool))]) == pytest.approx(errors[0])


def test_a_model_that_was_there_before_is_gone_on_from_and_replaced_only_on_evidence(store):
    _, first = fitted(spec_of(), store)
    trainer = Trainer(spec_of(), store, seed=5)
    assert trainer.model.version == first.version
    trainer.set_data([cart(2.0, seed=9)])  # too little for anything to be held out
    assert trainer.refit().version == 0
    trainer.set_data([cart(100.0, seed=9)])
    later = trainer.refit()
    assert math.isfinite(later.incumbent)
    assert later.version == 2


def test_a_model_of_another_robot_in_the_store_is_not_gone_on_from(store):
    fitted(spec_of(), store)
    _, refit = fitted(spec_of(dt=0.05), store)
    assert math.isnan(refit.incumbent)
    assert refit.version == 2


def intervals(data, steps, dt):
    return [(s, s + steps * dt) for s in data.start]


@pytest.mark.parametrize("dt", [0.02, 0.04, 0.1, 0.5])
@pytest.mark.parametrize("holdout", [0.1, 0.3, 0.5])
def test_held_out_stretches_never_overlap_training_stretches(store, dt, holdout):
    spec = spec_of(dt=dt, holdout=holdout)
    trainer = Trainer(spec, store, seed=0)
    trainer.set_data([cart(150.0, noise=0.0), cart(60.0, start=200.0, seed=1)])
    train, validation = trainer.split(1)
    held = trainer.split(GATE_STEPS)[1]
    assert len(train)
    assert len(validation)
    assert len(held)
    for other, steps in ((validation, 1), (held, GATE_STEPS)):
        begin, end = np.array(intervals(other, steps, dt)).T
        for a, b in intervals(train, 1, dt)[::7]:
            assert not ((begin < b - 1e-9) & (end > a + 1e-9)).any()
    share = len(validation) / (len(train) + len(validation))
    assert 0.3 * holdout < share < 1.5 * holdout + 0.05


def test_the_same_blocks_are_held_out_at_every_refit(store):
    trainer = Trainer(spec_of(), store, seed=0)
    earlier = set()
    for seconds in (10.0, 17.0, 31.3):
        trainer.set_data([cart(seconds)])
        train, held = trainer.split(1)
        assert earlier <= set(held.start)
        assert not earlier & set(train.start)
        earlier = set(held.start)
    blocks = {math.floor(s / HELD_BLOCK_S + 1e-9) for s in earlier}
    assert len(blocks) == 5


def test_when_a_refit_is_due(store):
    trainer = Trainer(spec_of(), store, seed=0)
    assert not trainer.due()
    for seconds, due in ((1.9, False), (2.0, True)):
        trainer.set_data([cart(seconds)])
        assert trainer.due() is due
    trainer.refit()
    for seconds, due in ((2.0, False), (2.98, False), (3.0, True)):
        trainer.set_data([cart(seconds)])
        assert trainer.due() is due
    trainer.set_data([cart(2.0), cart(0.6, start=10.0), cart(0.5, start=20.0)])  # new episodes count together
    assert trainer.due()


def test_refits_go_on_when_the_window_is_full(store):
    trainer = Trainer(spec_of(window_s=5.0, remember_s=0.0), store, seed=0)
    data = cart(12.0)
    refits = 0
    for end in range(100, len(data), 10):
        trainer.set_data([data.cut(0, end)])
        if trainer.due():
            trainer.refit()
            refits += 1
    assert refits in (10, 11)
    assert trainer.experience_s == pytest.approx(5.0, abs=0.05)
    assert trainer.episodes[0].time[0] >= 6.5


def test_data_older_than_the_window_is_forgotten(store):
    trainer = Trainer(spec_of(window_s=4.0, remember_s=0.0), store, seed=0)
    trainer.set_data([cart(3.0), cart(3.0, start=3.5), cart(2.0, start=8.0)])
    assert [e.time[0] for e in trainer.episodes] == pytest.approx([6.0, 8.0])
    trainer.set_data([])
    assert trainer.experience_s == 0.0


def test_a_motion_that_has_left_the_window_is_still_learned_from(store):
    """The box of a model that is to be trusted on what it once learned, too."""
    trainer, fast = Trainer(spec_of(window_s=4.0, remember_s=3.0), store, seed=0), cart(3.0)
    slow = [replace(e, state=0.01 * e.state, action=0.01 * e.action) for e in (cart(30.0, start=3.2),)]
    for end in range(4, 34, 2):
        trainer.set_data([fast, slow[0].cut(0, int(np.searchsorted(slow[0].time, end)))])
    old = [e for e in trainer.episodes if e.time[-1] < 3.2]
    assert sum(e.duration for e in old) > 1.5
    assert trainer.experience_s <= 4.0 + 3.0 + 0.1
    trainer.refit()
    limits = store.read(store.newest(), trainer.spec.hash).figures["limits"]
    assert limits["high"][0] >= max(e.state[:, 0].max() for e in old)


def test_equal_seeds_give_equal_bits_and_others_do_not(tmp_path):
    def weights(seed, name):
        store = ModelStore(tmp_path / name)
        trainer = Trainer(spec_of(SMALL, updates=30), store, seed)
        for seconds in (4.0, 6.0):
            trainer.set_data([cart(seconds)])
            trainer.refit()
        return store.read(store.newest()).weights

    one, two, other = weights(1, "a"), weights(1, "b"), weights(2, "c")
    assert all(np.array_equal(one[n], two[n]) for n in one)
    assert not all(np.array_equal(one[n], other[n]) for n in one)


def test_the_gate_compares_around_the_circle_and_calls_what_is_not_finite_infinite(store):
    trainer, _ = fitted(spec_of(), store)
    held = sequences(cart(5.0, seed=3), trainer.spec, GATE_STEPS)
    scale = trainer.model.scale().clone()
    score = k_step_error(trainer.model, held, np.array([False, False]), scale)
    assert 0 < score < 0.6
    held.state[:, 1:, 0] += 2 * math.pi
    assert k_step_error(trainer.model, held, np.array([True, False]), scale) == pytest.approx(score, rel=1e-3)
    trainer.model._matrix.fill_(math.nan)
    assert k_step_error(trainer.model, held, np.array([False, False]), scale) == math.inf


def test_a_refit_shows_after_each_gradient_step_that_it_goes_on(store):
    beats = []
    trainer = Trainer(spec_of(SMALL, updates=40), store, 0, lambda: beats.append(1))
    trainer.set_data([cart(20.0)])
    figures = trainer.refit().figures
    steps = len(beats) - 1  # and one after the fit
    assert steps >= 40 - 8
    before = len(beats)
    trainer.refit()
    assert len(beats) - before == pytest.approx(steps + 1, abs=8)
    assert figures["epochs"] >= 1
