"""Soft actor-critic against definitions: densities, targets, averages, gradients, and problems with a known answer."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from agent_fakes import Line

from mbrl_control import parts
from mbrl_control.agents import sac as agent
from mbrl_control.agents.base import Saved, TaskSpec, Transition
from mbrl_control.data.replay import Batch
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.policies import networks
from mbrl_control.policies.actor import TanhGaussian, log_density
from mbrl_control.policies.flat import Adam, Flat
from mbrl_control.policies.sac import Sac, SacOptions

SMALL = SacOptions(hidden=(16, 16), learning_rate=1e-2)


def some(count=32, seed=0, terminated=0.3):
    draw = torch.Generator().manual_seed(seed)
    done = (torch.rand(count, generator=draw) < terminated).float()
    return Batch(torch.randn(count, 3, generator=draw), 2 * torch.rand(count, 2, generator=draw) - 1, torch.randn(count, generator=draw),
                 torch.randn(count, 3, generator=draw), done)


def perceptron(shape, flat, member, inputs):
    """One network, of torch's own functions."""
    step, hidden = 4 if shape.norm else 2, inputs
    parts = [part[member].detach() for part in flat.parts]
    for layer in range(len(shape.sizes) - 1):
        hidden = torch.nn.functional.linear(hidden, parts[layer * step].T, parts[layer * step + 1][0])
        if layer < len(shape.sizes) - 2:
            if shape.norm:
                scale, shift = parts[layer * step + 2:layer * step + 4]
                hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], scale[0], shift[0])
            hidden = torch.relu(hidden)
    return hidden.detach()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_networks_in_one_product_are_networks_one_by_one(norm, outputs):
    shape = networks.Shape(3, (4, 8, 6, outputs), norm)
    flat = networks.initial(shape, np.random.default_rng(0))
    with torch.no_grad():
        flat.vector += 0.1 * torch.randn(flat.vector.shape, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(7, 4)
    found = networks.forward(shape, flat.parts, inputs)
    assert found.shape == (3, 7, outputs)
    for member in range(3):
        torch.testing.assert_close(found[member], perceptron(shape, flat, member, inputs), rtol=1e-5, atol=1e-6)


def test_half_precision_is_near_and_differentiable():
    full = networks.Shape(2, (4, 64, 64, 1))
    flat, inputs = networks.initial(full, np.random.default_rng(0)), torch.randn(50, 4)
    exact, near = (networks.forward(shape, flat.parts, inputs) for shape in (full, replace(full, half=True)))
    assert 0 < float((exact - near).detach().abs().max()) < 0.01 * float(exact.detach().abs().max())
    one, two = (torch.cat([g.flatten() for g in torch.autograd.grad(out.sum(), flat.parts)]) for out in (exact, near))
    assert float((one - two).norm()) < 0.02 * float(one.norm())


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    shape = networks.Shape(1, (1, 4000, 1), dropout=0.25)
    flat = Flat([torch.zeros(1, 1, 4000), torch.ones(1, 1, 4000), torch.ones(1, 4000, 1), torch.zeros(1, 1, 1)])
    kept = networks.forward(shape, flat.parts, torch.zeros(1, 1), torch.Generator().manual_seed(0))
    assert float(kept.detach()) == pytest.approx(4000, abs=4 * math.sqrt(4000 / 3))
    assert float(kept.detach()) != 4000
    assert float(networks.forward(shape, flat.parts, torch.zeros(1, 1)).detach()) == 4000


def test_adam_is_torchs():
    start, draw = torch.randn(5, 3), torch.Generator().manual_seed(0)
    flat, leaf = Flat([start]), start.clone().requires_grad_()
    mine, theirs = Adam(flat, 0.05), torch.optim.Adam([leaf], 0.05)
    for _ in range(20):
        goal = torch.randn(5, 3, generator=draw)
        mine.descend((flat.parts[0] - goal).square().sum())
        theirs.zero_grad()
        (leaf - goal).square().sum().backward()
        theirs.step()
    torch.testing.assert_close(flat.parts[0], leaf, rtol=1e-5, atol=1e-6)


def test_the_log_density_is_that_of_torchs_distributions():
    draw = torch.Generator().manual_seed(0)
    mean, spread = torch.randn(100, 3, dtype=torch.float64, generator=draw), torch.randn(100, 3, dtype=torch.float64, generator=draw)
    noise = torch.randn(100, 3, dtype=torch.float64, generator=draw)
    raw = mean + spread.exp() * noise
    base = torch.distributions.Normal(mean, spread.exp())
    squashed = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform(cache_size=1)])
    inside = raw.abs().amax(-1) < 6  # beyond, torch's own inverse is off
    assert inside.sum() > 40
    torch.testing.assert_close(log_density(noise, spread, raw)[inside], squashed.log_prob(raw.tanh()).sum(-1)[inside], rtol=1e-7, atol=1e-7)


def test_the_log_density_is_exact_where_the_action_is_one():
    raw = torch.tensor([[30.0], [-30.0]])
    noise, spread = raw.clone(), torch.zeros(2, 1)
    wanted = -0.5 * 900 - 0.5 * math.log(2 * math.pi) - (math.log(4) - 60)  # log(1 - tanh(x)^2) = log 4 - 2 |x| for large |x|
    np.testing.assert_allclose(log_density(noise, spread, raw).numpy(), [wanted, wanted], rtol=1e-6)


def test_the_density_of_actions_sums_to_one():
    at = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    mean, spread = 0.3, -0.2
    density = log_density((at - mean) / math.exp(spread), torch.full_like(at, spread), at).exp()
    assert float(torch.trapezoid(density, at[:, 0].tanh())) == pytest.approx(1.0, abs=1e-5)


def test_an_actor_draws_what_its_density_says_and_acts_by_its_mean():
    actor = TanhGaussian(3, 2, (8,), np.random.default_rng(0))
    seen = torch.randn(1, 3)
    action, density = actor.sample(seen.expand(20_000, 3), torch.Generator().manual_seed(0))
    mean, spread = actor.gaussian(seen)
    torch.testing.assert_close(action.detach().atanh().mean(0), mean[0].detach(), atol=0.04, rtol=0)
    torch.testing.assert_close(action.detach().atanh().std(0), spread[0].exp().detach(), atol=0.04, rtol=0)
    np.testing.assert_allclose(actor.act(seen[0].numpy(), None), mean[0].detach().tanh(), rtol=1e-6)
    assert density.shape == (20_000,)


@pytest.mark.parametrize("subset", [2, 5])
def test_the_target_is_the_formula_number_by_number(subset):
    learner = Sac(3, 2, replace(SMALL, critics=5, least_of=subset, temperature=0.3, norm=True), 0)
    with torch.no_grad():
        learner.critics.target.vector += 0.3  # not the online critics
    batch, draw = some(), torch.Generator()
    draw.set_state(learner.rng.get_state())
    found = learner.target(batch)
    with torch.no_grad():
        action, density = learner.actor.sample(batch.following, draw)
    chosen = torch.randperm(5, generator=draw)[:subset].tolist() if subset < 5 else range(5)
    for n in range(len(batch)):
        inputs = torch.cat([batch.following[n], action[n]])[None]
        least = min(float(perceptron(learner.critics.shape, learner.critics.target, k, inputs)) for k in chosen)
        goes_on = 0.0 if batch.terminated[n] else 0.99
        assert float(found[n]) == pytest.approx(float(batch.reward[n]) + goes_on * (least - 0.3 * float(density[n])), abs=1e-4)
    assert 0 < float(batch.terminated.sum()) < len(batch)


def test_the_target_network_follows_by_its_rate():
    learner = Sac(3, 2, replace(SMALL, target_rate=0.1), 0)
    before = learner.critics.target.vector.clone()
    learner.update(some())
    torch.testing.assert_close(learner.critics.target.vector, 0.9 * before + 0.1 * learner.critics.flat.vector)
    assert not torch.equal(before, learner.critics.target.vector)


def parameters(learner):
    return {"actor": learner.actor.flat.vector.clone(), "critics": learner.critics.flat.vector.clone(),
            "target": learner.critics.target.vector.clone(), "temperature": learner.temperature.clone()}


def changed(learner, before):
    return {name for name, value in parameters(learner).items() if not torch.equal(value, before[name])}


def test_each_loss_moves_its_own_parameters_only():
    learner, batch = Sac(3, 2, SMALL, 0), some()
    for name, loss in (("critics", lambda: learner.critic_loss(batch, learner.target(batch))),
                       ("actor", lambda: learner.actor_loss(batch.observation)[0]),
                       ("temperature", lambda: learner.temperature_loss(learner.actor_loss(batch.observation)[1]))):
        before = parameters(learner)
        learner._adam[name].descend(loss())
        assert changed(learner, before) == {name}
    assert not learner.target(batch).requires_grad
    assert all(part.grad is None for part in learner.critics.flat.parts)


def test_the_actor_waits_for_its_turn():
    learner = Sac(3, 2, replace(SMALL, actor_every=3), 0)
    moves = []
    for _ in range(6):
        before = parameters(learner)
        learner.update(some())
        moves.append("actor" in changed(learner, before))
    assert moves == [False, False, True] * 2


@pytest.mark.parametrize("climbs_mean", [False, True])
def test_the_actor_climbs_the_least_or_the_mean(climbs_mean):
    learner = Sac(3, 2, replace(SMALL, critics=3, actor_mean=climbs_mean, temperature=0.2), 0)
    batch, draw = some(), torch.Generator()
    draw.set_state(learner.rng.get_state())
    with torch.no_grad():
        found, mean_density = learner.actor_loss(batch.observation)
        action, density = learner.actor.sample(batch.observation, draw)
    values = torch.stack([perceptron(learner.critics.shape, learner.critics.flat, k, torch.cat([batch.observation, action], -1))[:, 0]
                          for k in range(3)])
    value = values.mean(0) if climbs_mean else values.min(0).values
    assert float(found) == pytest.approx(float((0.2 * density - value).mean()), abs=1e-5)
    assert float(mean_density) == pytest.approx(float(density.mean()), abs=1e-5)


def test_the_temperature_rises_while_there_is_too_little_entropy():
    learner = Sac(3, 2, replace(SMALL, target_entropy=-2.0), 0)
    for mean_log_density, sign in ((3.0, 1), (1.0, -1)):
        before = float(learner.temperature)
        loss = learner.temperature_loss(torch.tensor(mean_log_density))
        gradient, = torch.autograd.grad(loss, learner._log_temperature.parts)
        assert float(gradient) == pytest.approx(-(mean_log_density - 2.0))
        learner._adam["temperature"] = Adam(learner._log_temperature, 0.01)
        learner._adam["temperature"].descend(learner.temperature_loss(torch.tensor(mean_log_density)))
        assert (float(learner.temperature) - before) * sign > 0


def bandit(count, draw):
    """One decision, then the end: 1 - (a - s / 2)^2."""
    seen, action = 2 * torch.rand(count, 1, generator=draw) - 1, 2 * torch.rand(count, 1, generator=draw) - 1
    return Batch(seen, action, 1 - (action - 0.5 * seen).square()[:, 0], torch.zeros(count, 1), torch.ones(count))


@pytest.mark.parametrize("more", [{}, {"critics": 4, "least_of": 2, "actor_mean": True, "norm": True, "dropout": 0.01}])
def test_a_bandit_is_learned(more):
    learner, draw = Sac(1, 1, replace(SMALL, hidden=(32, 32), temperature=0.01, **more), 0), torch.Generator().manual_seed(0)
    for _ in range(300):
        learner.update(bandit(128, draw))
    check = bandit(500, draw)
    with torch.no_grad():
        error = learner.critics.values(check.observation, check.action) - check.reward
    assert float(error.square().mean().sqrt()) < 0.1
    for s in (-1.0, 0.0, 0.8):
        assert learner.actor.act(np.array([s], np.float32), None)[0] == pytest.approx(0.5 * s, abs=0.1)


@pytest.mark.parametrize(("terminated", "worth"), [(0.0, 2.0), (1.0, 1.0)])
def test_a_reward_of_one_again_and_again_is_worth_what_it_sums_to(terminated, worth):
    learner = Sac(1, 1, replace(SMALL, discount=0.5, temperature=1e-6, target_rate=0.2), 0)
    one, draw = torch.ones(64, 1), torch.Generator().manual_seed(0)
    for _ in range(250):
        action = 2 * torch.rand(64, 1, generator=draw) - 1
        learner.update(Batch(one, action, torch.ones(64), one, torch.full((64,), terminated)))
    with torch.no_grad():
        assert float(learner.critics.values(one, torch.zeros(64, 1)).mean()) == pytest.approx(worth, abs=0.03)


def test_equal_seeds_give_equal_bits_and_others_do_not():
    results = []
    for seed in (5, 5, 6):
        learner = Sac(3, 2, replace(SMALL, dropout=0.1, norm=True), seed)
        for n in range(5):
            learner.update(some(seed=n))
        results.append(learner.actor.flat.vector.clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_what_was_saved_goes_on_with_the_same_bits():
    options = replace(SMALL, critics=4, dropout=0.1, actor_every=2)
    one, two = Sac(3, 2, options, 0), Sac(3, 2, options, 9)
    for n in range(3):
        one.update(some(seed=n))
    two.load(copy.deepcopy(one.save()))
    for n in range(3, 6):
        one.update(some(seed=n))
        two.update(some(seed=n))
    for name, array in one.save().items():
        np.testing.assert_array_equal(array, two.save()[name], err_msg=name)


def test_what_does_not_fit_is_refused_and_changes_nothing():
    learner = Sac(3, 2, SMALL, 0)
    saved, before = learner.save(), parameters(learner)
    for name, wrong in (("critics.values", np.zeros(3, np.float32)), ("critics.values", saved["critics.values"] * np.nan),
                        ("other", np.zeros(1))):
        with pytest.raises(SnapshotError):
            learner.load({**saved, "target": saved["target"] + 1, name: wrong})
        assert not changed(learner, before)


# ---- the agent

TASK = TaskSpec("line", (1,), 1, 10)


def build(**more):
    return agent.build(TASK, 0, agent.Options(**{"hidden": (16, 16), "random_steps": 20, "batch": 32, "learning_rate": 3e-3, **more}))


def play(learner, task, decisions):
    """Decisions of training; gives the actions."""
    actor, seen, actions = learner.actor(explore=True), None, []
    for n in range(decisions):
        seen = task.reset(n) if seen is None else seen
        actions.append(actor.act(seen))
        outcome = task.step(actions[-1])
        learner.observe(Transition(seen, actions[-1], outcome.reward, outcome.observation, outcome.terminated, outcome.truncated))
        learner.learn()
        seen = None if outcome.terminated or outcome.truncated else outcome.observation
    return np.array(actions)


def test_decisions_are_random_first_then_learned_from():
    learner = build(updates=3)
    actions = play(learner, Line(), 19)
    assert learner.learner.updates == 0
    assert 0.4 < actions.std() < 0.75
    play(learner, Line(), 2)
    assert learner.learner.updates == 2 * 3


def test_walking_to_the_origin_is_learned():
    learner = build(updates=2, discount=0.8)
    play(learner, Line(), 200)
    actor, task = learner.actor(explore=False), Line()
    seen, rewards = task.reset(1000), []
    for _ in range(10):
        outcome = task.step(actor.act(seen))
        seen = outcome.observation
        rewards.append(outcome.reward)
    assert np.mean(rewards[5:]) > -0.15


def test_an_agent_saved_goes_on_with_the_same_bits():
    one = build()
    play(one, Line(), 40)  # the end of an episode
    two = build()
    two.load(one.save())
    assert np.array_equal(play(one, Line(), 20), play(two, Line(), 20))
    with pytest.raises(SnapshotError, match="not known"):
        two.load(Saved({"world.x": np.zeros(1)}, {}))


def test_an_agent_says_what_it_cannot_do():
    with pytest.raises(UserError, match="learns from vectors"):
        agent.build(TaskSpec("pictures", (3, 64, 64), 1, 10), 0, agent.Options())
    with pytest.raises(UserError, match="least_of = 3 is more than critics = 2"):
        Sac(1, 1, SacOptions(least_of=3), 0)
    assert "sac" in parts.kinds("agents")
    assert parts.options("agents", "sac", {"hidden": [8], "norm": True}).hidden == (8,)
    with pytest.raises(UserError, match="discount"):
        parts.options("agents", "sac", {"discount": 1.5})
