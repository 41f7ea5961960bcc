"""MBPO against definitions: branches, their ends and lengths, the pool's lifetime, the shares of real and imagined decisions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agent_fakes import Line

from mbrl_control import parts
from mbrl_control.agents import mbpo
from mbrl_control.agents.base import TaskSpec, Transition
from mbrl_control.agents.branches import Pool, Schedule, imagine
from mbrl_control.data.replay import Batch
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.models import ensemble, open_loop_loss, task_model
from mbrl_control.models.encoding import Normaliser
from mbrl_control.models.task_model import TaskModel
from mbrl_control.policies.actor import TanhGaussian

TINY = {"hidden": (16, 16), "model_hidden": (16,), "members": 3, "elites": 2, "random_steps": 100, "refit_every": 20, "model_updates": 10,
        "branches": 200, "updates": 2, "batch": 20, "real_share": 0.25}


def linear(count, seed=0):
    """s' = 0.9 s + 0.5 a + 1 along one axis and 0.2 along the other; the reward is 2 s0 - a."""
    draw = torch.Generator().manual_seed(seed)
    s, a = torch.randn(count, 2, generator=draw), 2 * torch.rand(count, 1, generator=draw) - 1
    following = torch.stack([0.9 * s[:, 0] + 0.5 * a[:, 0] + 1.0, s[:, 1] + 0.2], -1)
    return Batch(s, a, 2 * s[:, 0] - a[:, 0], following, torch.zeros(count))


@pytest.fixture(scope="module")
def fitted():
    model = TaskModel(2, 1, 4, 3, (32,))
    model.fit(linear(600), np.random.default_rng(0), 250, 0.2)
    return model


def test_a_model_of_a_task_learns_observation_and_reward(fitted):
    check, draw = linear(301, seed=1), torch.Generator().manual_seed(0)  # 301 is no multiple of the elites
    samples = [fitted.step(check.observation, check.action, draw) for _ in range(30)]
    following, reward = (torch.stack(values) for values in zip(*samples, strict=True))
    assert float((following.mean(0) - check.following).square().mean().sqrt()) < 0.04  # of a change of 0.3
    assert float((reward.mean(0) - check.reward).square().mean().sqrt()) < 0.4  # of 2.1
    assert float(check.reward.std()) > 2
    assert 0 < float(following.std(0).mean()) < 0.2


def test_what_is_below_the_floor_does_not_count():
    """The gradient of log(mse + floor) / 2 is that of log(mse) / 2 times mse / (mse + floor), signal by signal."""
    data = linear(200)
    batch = [torch.cat([data.observation, torch.zeros(200, 1)], -1), torch.cat([data.following, data.reward[:, None]], -1)]
    state, action = torch.stack(batch, 1).expand(2, -1, -1, -1), data.action[:, None].expand(2, -1, -1, -1)
    found = {}
    for floor in (1e-30, 0.5):
        model = ensemble.build(task_model.spec_of(2, 1, 2, (8,)), ensemble.Options(floor=floor))
        norm = Normaliser.neutral(model.encoding.inputs, 3).cast(torch.float32)
        norm = replace(norm, input_inverse=torch.as_tensor(model.encoding.visible).float())
        for weight in model._weights:
            weight.requires_grad_()
        given = (model._weights, model.encoding, norm, state, action)
        error, _ = open_loop_loss.unroll(*given)
        found[floor] = error.square().mean(1).detach()[:, 0], torch.autograd.grad(open_loop_loss.loss(*given, floor), model._weights)[-1]
    mse, exact = found[1e-30]
    factor = torch.cat([mse / (mse + 0.5), torch.ones(2, 3)], -1)  # of the means' biases; those of the variances are as they were
    torch.testing.assert_close(found[0.5][1][:, 0], exact[:, 0] * factor, rtol=1e-4, atol=1e-7)


def test_each_row_is_predicted_by_an_elite_drawn_for_it(fitted, monkeypatch):
    """With members that only add their own number, the shares of the numbers are the shares of the members."""
    fake = SimpleNamespace(members=3, step=lambda s, a, rng: SimpleNamespace(state=s + torch.arange(1.0, 4.0)[:, None, None]))
    monkeypatch.setattr(fitted, "_ensemble", fake)
    seen, draw, numbers = torch.arange(3001.0)[:, None].repeat(1, 2) * 10, torch.Generator().manual_seed(0), []
    for _ in range(2):
        following, reward = fitted.step(seen, torch.zeros(3001, 1), draw)
        numbers.append((following - seen)[:, 0])
        assert torch.equal(following - seen, numbers[-1][:, None].expand(-1, 2))
        assert torch.equal(reward, numbers[-1])
        assert [int((numbers[-1] == n).sum()) for n in (1, 2, 3)] in ([1001, 1001, 999], [1001, 1000, 1000])
    assert 800 < int((numbers[0] == numbers[1]).sum()) < 1200  # drawn anew: a third stays by chance


def test_a_model_saved_goes_on_with_the_same_bits(fitted):
    other = TaskModel(2, 1, 4, 3, (32,))
    assert other.save() == {}
    other.load({})
    assert not other.fitted
    other.load(fitted.save())
    for model in (fitted, other):
        model.fit(linear(900), np.random.default_rng(1), 30, 0.2)
    for name, array in fitted.save().items():
        np.testing.assert_array_equal(array, other.save()[name], err_msg=name)
    saved = fitted.save()
    with pytest.raises(SnapshotError, match="optimiser"):
        other.load({n: a for n, a in saved.items() if n != "moments.0.average"})
    with pytest.raises(SnapshotError):
        TaskModel(2, 1, 4, 3, (16,)).load(saved)


def test_branches_grow_along_a_line():
    schedule = Schedule(1, 15, 20_000, 150_000)
    assert [schedule.at(n) for n in (0, 20_000, 85_000, 150_000, 10**6)] == [1, 1, 8, 15, 15]
    assert [Schedule(1, 1, 0, 0).at(n) for n in (0, 100)] == [1, 1]


class Counting:
    """A model that counts up by one; the reward is the number that was reached. From 100 on it is not finite."""

    def step(self, observation, action, rng):
        following = observation + 1
        return torch.where(following > 99, torch.nan, following), following[:, 0]


def test_branches_end_where_the_task_would():
    actor = TanhGaussian(1, 1, (4,), np.random.default_rng(0))
    start = torch.tensor([[0.0], [1.0], [2.0], [97.5]])
    made = imagine(Counting(), actor, start, 3, lambda s: s[:, 0] == 3.0, torch.Generator().manual_seed(0))
    told = sorted(zip(made.observation[:, 0].tolist(), made.following[:, 0].tolist(), made.reward.tolist(), made.terminated.tolist(),
                      strict=True))
    assert told == [(0, 1, 1, 0), (1, 2, 2, 0), (1, 2, 2, 0), (2, 3, 3, 1), (2, 3, 3, 1), (2, 3, 3, 1), (97.5, 98.5, 98.5, 0)]
    assert float(made.action.abs().max()) <= 1
    endless = imagine(Counting(), actor, start[:3], 3, None, torch.Generator().manual_seed(0))
    assert len(endless) == 9
    assert not endless.terminated.any()


def test_the_pool_keeps_the_last_refits():
    pool, draw = Pool(2), torch.Generator().manual_seed(0)
    for n in range(4):
        made = linear(50)
        pool.add(replace(made, reward=torch.full((50,), float(n))))
    assert len(pool) == 100
    assert set(pool.sample(500, draw).reward.tolist()) == {2.0, 3.0}
    other = Pool(2)
    other.load(pool.save())
    assert torch.equal(other.sample(9, torch.Generator().manual_seed(1)).action, pool.sample(9, torch.Generator().manual_seed(1)).action)
    with pytest.raises(SnapshotError, match="saved pool"):
        other.load({"0.reward": np.zeros(3, np.float32)})


# ---- the agent


def build(limit=10, **more):
    task = TaskSpec("line", (1,), 1, limit, 1, lambda s: s[:, 0].abs() > 5)
    return mbpo.build(task, 0, parts.options("agents", "mbpo", {**TINY, **more}))


def play(learner, decisions, task=None):
    """Decisions of training; gives the actions and the figures that were told."""
    actor, seen, actions, figures, task = learner.actor(explore=True), None, [], [], task or Line()
    for n in range(decisions):
        seen = task.reset(n) if seen is None else seen
        actions.append(actor.act(seen))
        outcome = task.step(actions[-1])
        learner.observe(Transition(seen, actions[-1], outcome.reward, outcome.observation, outcome.terminated, outcome.truncated))
        figures.append(learner.learn())
        seen = None if outcome.terminated or outcome.truncated else outcome.observation
    return np.array(actions), figures


def test_refits_and_updates_come_when_they_are_due():
    learner = build()
    _, figures = play(learner, 150)
    assert [n + 1 for n, told in enumerate(figures) if "model_error" in told] == [100, 120, 140]
    assert learner.learner.updates == 51 * 2
    assert len(learner.pool) == 200


def test_each_update_has_its_share_of_real_decisions(monkeypatch):
    learner, seen = build(), []
    play(learner, 100)
    learner.replay.sample = lambda count, rng: replace(linear(count), observation=torch.zeros(count, 1), following=torch.zeros(count, 1),
                                                       reward=torch.full((count,), 7.0))
    monkeypatch.setattr(learner.learner, "update", lambda batch: seen.append(batch) or {})
    learner.learn()
    assert [len(batch) for batch in seen] == [20, 20]
    assert [int((batch.reward == 7.0).sum()) for batch in seen] == [5, 5]
    learner.options = replace(learner.options, real_share=0.0)
    learner.learn()
    assert not any((batch.reward == 7.0).any() for batch in seen[2:])


def test_an_agent_saved_goes_on_with_the_same_bits():
    one, two = build(), build()
    play(one, 130)  # the end of an episode
    two.load(one.save())
    assert np.array_equal(play(one, 30)[0], play(two, 30)[0])
    for name, array in one.save().arrays.items():
        np.testing.assert_array_equal(array, two.save().arrays[name], err_msg=name)


@pytest.mark.parametrize("name", ["sac.target", "model.weights.elites", "model.moments.1.square", "replay.reward", "pool.0.reward"])
def test_a_checkpoint_that_does_not_fit_changes_nothing(name):
    learner, other = build(updates=1), build(updates=1)
    play(other, 110)
    saved, before = other.save(), learner.save()
    with pytest.raises(SnapshotError):
        learner.load(replace(saved, arrays={n: a for n, a in saved.arrays.items() if n != name}))
    after = learner.save()
    assert before.values == after.values
    assert all(np.array_equal(array, after.arrays[n]) for n, array in before.arrays.items())
    assert before.arrays.keys() == after.arrays.keys()


def test_a_task_that_ends_nobody_knows_where_is_refused():
    learner = mbpo.build(TaskSpec("line", (1,), 1, 10), 0, parts.options("agents", "mbpo", TINY))
    learner.observe(Transition(np.zeros(1), np.zeros(1), 0.0, np.zeros(1), False, True))
    with pytest.raises(UserError, match="must know where it ends"):
        learner.observe(Transition(np.zeros(1), np.zeros(1), 0.0, np.zeros(1), True, False))
    with pytest.raises(UserError, match="learns from vectors"):
        mbpo.build(TaskSpec("pictures", (3, 64, 64), 1, 10), 0, mbpo.Options())


def test_published_settings_are_options_and_can_be_overruled():
    for task, given in mbpo.PUBLISHED.items():
        assert mbpo.presets(task) == given
        assert parts.options("agents", "mbpo", given).updates == given["updates"]
    assert mbpo.presets("Pendulum-v1") == {}
