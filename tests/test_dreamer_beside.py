"""Dreamer beside a robot's model: what it proposes, how it learns from the robot's data, and how it comes to the planner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import planning_fakes as fakes
import pytest
import torch
from carts import cart

from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError, SpecError, UserError
from mbrl_control.models.rssm import State
from mbrl_control.part_checks import check_parts
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.policies import dreamer
from mbrl_control.policies.dreamer import DreamerPolicy, Options
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.history import History
from mbrl_control.runtime.latent_rows import LatentRows
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.store import ModelStore
from mbrl_control.training import learn_dreamer
from mbrl_control.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"batch": 4, "length": 5, "horizon": 3, "starts": 3, "window": 3}


def with_policies(spec, *policies):
    return RobotSpec.model_validate({**spec.model_dump(), "policies": list(policies)})


def motions(spec, steps, count=80, seed=0):
    """Motions of the double integrator under random forces."""
    rng = np.random.default_rng(seed)
    state, action = rng.normal(size=(count, steps + 1, 2)), rng.uniform(-4, 4, (count, steps, 1))
    for k in range(steps):
        state[:, k + 1] = state[:, k] @ [[1, 0], [0.1, 1]] + action[:, k] * [0.005, 0.1]
    return Sequences(state, action, spec.model_dt * np.arange(count))


def unsettled(policy: DreamerPolicy) -> DreamerPolicy:
    """With outputs that say something: those of a new actor are almost nothing."""
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return policy


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_rows_are_what_the_actor_does_in_imagination_after_filtering_step_by_step(version):
    spec = fakes.spec(horizon=6)
    policy = unsettled(dreamer.build(spec, Options(version=version)))
    data = motions(spec, 4)
    state, action = torch.as_tensor(data.state[0], dtype=torch.float32), torch.as_tensor(data.action[0] / 4, dtype=torch.float32)
    rng, rssm = torch.Generator().manual_seed(7), policy.rssm
    found = policy.rows(state, action, 3, 6, torch.Generator().manual_seed(7))
    with torch.no_grad():
        noise, latent = rssm.latent.noise((1, 4), rng), rssm.initial(1)
        for k in range(4):  # as the agent acts: an observation at a time
            seen = policy.encoder(policy.view(state[k + 1])[None, None])
            filtered = rssm.observe(seen, action[None, None, k], torch.tensor([[k == 0]]), noise[:, k : k + 1], latent)
            latent = State(*(part[:, 0] for part in filtered.state))
        draws, ahead = torch.randn(6, 3, 1, generator=rng), rssm.latent.noise((6, 3), rng)
        for row in range(3):
            here = latent
            for k in range(6):
                raw = policy.actor(here.features())
                drawn = policy.actions.mode(raw) if row == 0 else policy.actions.sample(raw, draws[k, row : row + 1])
                assert found[row, k].numpy() == pytest.approx(drawn[0].clamp(-1, 1).numpy(), abs=2e-5)
                after = rssm.imagine(here, lambda _, __, drawn=drawn: drawn.clamp(-1, 1), ahead[k : k + 1, row : row + 1])[1]
                here = State(*after.split([rssm.memory, rssm.latent.size], -1))
    assert found.shape == (3, 6, 1)
    assert found.abs().max() <= 1
    assert (found[1:] - found[:1]).abs().amax((1, 2)).min() > 0.01


def asked(history: History, spec: RobotSpec, count: int) -> PlanRequest:
    """The last of so many requests, one a plan period, all taken in."""
    period = 1 / spec.plan_hz
    for k in range(count):
        now = 1.0 + k * period
        times = now + period * np.arange(-20, 1)
        sent = np.sin(3 * times)[:, None]
        request = PlanRequest(k, np.array([np.cos(now), -np.sin(now)]), now, now + period, times, sent, 60.0)
        history.add(request)
    return request


class Recorder:
    """Proposes nothing, and remembers what it was asked."""

    fixed, window = False, 3

    def rows(self, state, action, count, horizon, rng):
        self.state, self.action, self.drawn = state, action, torch.rand(1, generator=rng).item()
        return torch.zeros(count, horizon, 1)


def test_a_latent_state_is_filtered_from_the_last_steps_to_where_the_plan_begins():
    spec = fakes.spec(horizon=6)
    planner, history, policy = fakes.planner(spec), History(spec, 3.0), Recorder()
    rows = LatentRows("dreamer", planner, policy, 2, history)
    request = asked(history, spec, 20)
    assert rows.rows(request).shape == (0, 6, 1), "it has not learned anything"
    rows.ready = True
    assert rows.rows(request).shape == (2, 6, 1)
    assert policy.state[-1].numpy() == pytest.approx(planner.predict_start(request).numpy(), abs=1e-6)
    for k in range(3):  # model steps of 0.1 s before that
        at = request.apply_time - 0.1 * (3 - k)
        assert policy.state[k].numpy() == pytest.approx([np.cos(at), -np.sin(at)], abs=1e-3)
        inside = at + np.arange(0.0005, 0.1, 0.001)
        held = np.sin(3 * (request.sent_time[np.searchsorted(request.sent_time, inside, side="right") - 1]))
        assert policy.action[k].item() == pytest.approx(held.mean() / 4, abs=2e-3), "half ranges"
    first = policy.drawn
    rows.rows(request)
    assert policy.drawn == first, "the same bits for the same request"
    rows.rows(replace(request, seq=5))
    assert policy.drawn != first


def test_nothing_is_proposed_before_a_step_is_known_but_a_whole_window_is_timed():
    spec = fakes.spec(horizon=6)
    planner, policy = fakes.planner(spec), Recorder()
    rows = LatentRows("dreamer", planner, policy, 2, History(spec, 3.0))
    rows.ready = True
    request = fakes.request([1.0, 0.0])
    assert rows.rows(request).shape == (0, 6, 1)
    rows.unjudged = True
    assert rows.rows(request).shape == (2, 6, 1)
    assert (len(policy.state), len(policy.action)) == (4, 3)


def test_its_world_model_comes_to_explain_what_is_seen_and_what_it_costs():
    spec = with_policies(fakes.spec(horizon=8), {"kind": "dreamer"})
    learner = learn_dreamer.build(spec, Options(version="v1", batch=8, length=6, horizon=5, starts=5, window=4), seed=0)
    learner.cost = fakes.Quadratic(np.eye(2), [[0.01]])
    told: list[int] = []
    first, last = (learner.improve(None, lambda steps: motions(spec, steps, 400), updates, lambda: told.append(1)) for updates in (1, 149))
    assert len(told) == 150
    assert last["observation_loss"] < 0.25 * first["observation_loss"]
    assert last["reward_loss"] < 0.5 * first["reward_loss"]


def test_a_reward_is_minus_the_cost_in_its_unit_and_stretches_that_are_too_short_teach_nothing():
    spec = with_policies(fakes.spec(horizon=6), {"kind": "dreamer"})
    learner = learn_dreamer.build(spec, Options(**TINY), seed=0)
    learner.cost = fakes.Quadratic(np.eye(2), [[0.1]])
    before = learner.arrays()
    assert learner.improve(None, lambda steps: motions(spec, steps, 0), 5, lambda: None) == {}
    assert all(np.array_equal(array, before[name]) for name, array in learner.arrays().items())
    data = motions(spec, 5)
    seen = learner._seen(data)
    cost = (data.state[:, 1:] ** 2).sum(-1) + 0.1 * data.action[..., 0] ** 2
    assert learner.policy.unit.item() == pytest.approx(cost.mean(), rel=1e-5)
    assert seen.reward.numpy() == pytest.approx(-cost / cost.mean(), rel=1e-4)
    assert seen.action.numpy() == pytest.approx(data.action / 4, abs=1e-6)
    assert seen.observation.flatten(0, 1).mean(0).numpy() == pytest.approx([0, 0], abs=1e-5)
    assert seen.is_first[:, 0].all()
    assert not seen.is_first[:, 1:].any()


def test_a_successor_goes_on_with_what_was_published():
    spec = with_policies(fakes.spec(horizon=6), {"kind": "dreamer"})
    one, other = (learn_dreamer.build(spec, Options(**TINY), seed) for seed in (0, 1))
    one.improve(None, lambda steps: motions(spec, steps), 3, lambda: None)
    published = one.arrays()
    other.resume(published)
    assert all(np.array_equal(array, published[name]) for name, array in other.arrays().items())
    for a, b in zip(one.dreamer.world.parameters(), other.dreamer.world.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(SnapshotError, match="'rest' is missing"):
        other.resume({name: array for name, array in published.items() if name != "rest"})
    with pytest.raises(SnapshotError, match="'actor' is missing, unknown or of another shape"):
        other.resume(published | {"actor": published["actor"][:-1]})
    policy = dreamer.build(spec, Options(**TINY))
    policy.load(published)
    assert np.array_equal(policy.arrays()["rssm"], published["rssm"])


def test_mbpo_and_dreamer_come_with_one_snapshot_and_both_propose(tmp_path):
    plain = fakes.spec(horizon=6, trainer={"first_fit_s": 2.0, "updates": 20})
    spec = with_policies(plain, {"kind": "mbpo", "updates_per_s": 2.0, "options": {"hidden": [16], "branches": 20, "batch": 16}},
                         {"kind": "dreamer", "updates_per_s": 0.5, "rows": 3, "options": TINY})
    check_parts(spec)
    store = ModelStore(tmp_path)
    trainer = Trainer(spec, store, seed=0)
    trainer.set_data([cart(8.0)])
    figures = trainer.refit().figures
    assert figures["dreamer_updates"] == pytest.approx(0.5 * 8.0, abs=1)
    assert np.isfinite(figures["dreamer_observation_loss"])
    core = PlannerCore(spec, store, 0)
    assert core.swap()
    history, period = core._watch.history, 1 / spec.plan_hz
    request = asked(history, spec, 19)
    following = PlanRequest(19, request.state, request.state_time + period, request.apply_time + period,
                            request.sent_time + period, request.sent, 60.0)
    plan, _ = core.plan(following)
    assert plan.verdict.name == "MET"
    assert [len(source.rows(following)) for source in core.planner.sources] == [2, 3]
    core.forget()
    assert [len(source.rows(following)) for source in core.planner.sources] == [2, 0]
    assert spec.hash == plain.hash


def test_what_policies_cannot_be_together_is_told():
    spec = fakes.spec(horizon=6)
    with pytest.raises((SpecError, ValueError), match="second time"):
        with_policies(spec, {"kind": "dreamer"}, {"kind": "dreamer"})
    with pytest.raises((SpecError, ValueError), match="one only"):
        with_policies(spec, {"kind": "mbpo", "value": True}, {"kind": "learned", "value": True})
    with pytest.raises(UserError, match="'dreamer': value = true, but its critic judges latent states"):
        check_parts(with_policies(spec, {"kind": "dreamer", "value": True}))
    check_parts(with_policies(spec, {"kind": "mbpo", "value": True}, {"kind": "dreamer"}))
