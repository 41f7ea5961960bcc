"""Dreamer's losses against definitions, who learns from what, its limiter, going on after an interruption, and that it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from agent_fakes import Line
from torch.distributions import Normal

from mbrl_control.agents import dreamer
from mbrl_control.agents.base import TaskSpec, Transition
from mbrl_control.agents.dreamer import Dreamer, Options
from mbrl_control.agents.dreamer_behaviour import Dream
from mbrl_control.data.replay import SequenceBatch
from mbrl_control.errors import SnapshotError
from mbrl_control.models.rssm import State
from mbrl_control.policies import targets
from mbrl_control.stack import agent_checkpoint
from mbrl_control.stack.agent_checkpoint import Progress

SMALL = {"batch": 2, "length": 6, "horizon": 3, "starts": 4, "prefill": 12, "train_ratio": 4.0, "half": False}
VERSIONS = ["v1", "v2", "v3"]
pytestmark = pytest.mark.usefixtures("one_thread")


def agent(version: str = "v3", seed: int = 0, repeat: int = 1, **options) -> Dreamer:
    return dreamer.build(Line(repeat=repeat).spec, seed, Options(version=version, **(SMALL | options)))


def live(learner: Dreamer, decisions: int, seed: int = 0, task: Line | None = None) -> list[int]:
    """Updates done after each decision."""
    task, actor, counts, over = task or Line(), learner.actor(explore=True), [], True
    for number in range(decisions):
        if over:
            observation = task.reset(seed + number)
            actor.reset()
        action = actor.act(observation)
        outcome = task.step(action)
        learner.observe(Transition(observation, action, outcome.reward, outcome.observation, outcome.terminated, outcome.truncated))
        learner.learn()
        counts.append(learner.updates)
        observation, over = outcome.observation, outcome.terminated or outcome.truncated
    return counts


def updated(learner: Dreamer) -> dict[str, torch.Tensor]:
    """A gradient step on what it remembers."""
    return learner.update(learner.replay.sequences(learner.options.batch, learner.options.length, learner.drawing))


def dream(learner: Dreamer, horizon: int = 4, count: int = 5, seed: int = 1) -> Dream:
    """Made-up trajectories, an end in one of them."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(horizon + 1, count, learner.world.rssm.features, generator=rng)
    discount = torch.full((horizon, count), 0.9)
    discount[1, 0] = 0.0
    draws = torch.randn(horizon, count, 1, generator=rng)
    return Dream(features, draws, torch.randn(horizon, count, generator=rng), discount, targets.weights(discount))


def unsettle(learner: Dreamer) -> None:
    """Weights that are not those of the beginning: outputs that start at 0 say something, and the slow critic differs."""
    rng = torch.Generator().manual_seed(9)
    for parameter in [*learner.behaviour.critic.parameters(), *learner.world.reward_head.parameters()]:
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=rng))


def test_v3_begins_with_rewards_and_values_of_exactly_0():
    learner, features = agent("v3"), torch.randn(7, 192, generator=torch.Generator().manual_seed(0))
    assert learner.world.reward(features).tolist() == [0] * 7
    assert learner.behaviour.numbers.mean(learner.behaviour.critic(features)).tolist() == [0] * 7


def test_losses_of_v3_by_definition():
    learner = agent("v3")
    unsettle(learner)
    behaviour, imagined = learner.behaviour, dream(learner)
    losses = behaviour.losses(imagined)
    numbers, raw = behaviour.numbers, behaviour.critic(imagined.features)
    value = numbers.mean(raw)
    returns = [value[-1]]
    for t in reversed(range(4)):
        returns.append(imagined.reward[t] + imagined.discount[t] * (0.05 * value[t + 1] + 0.95 * returns[-1]))
    returns = torch.stack(returns[:0:-1])
    spread = float((returns.quantile(0.95) - returns.quantile(0.05)).detach())
    mean, wide = behaviour.actor(imagined.features[:-1]).chunk(2, -1)
    actions = Normal(mean.tanh(), 0.9 * (wide + 2).sigmoid() + 0.1)
    gain = actions.log_prob(imagined.draws)[..., 0] * (returns - value[:-1]) / max(1.0, 0.01 * spread) + 3e-4 * actions.entropy()[..., 0]
    assert losses.actor.item() == pytest.approx(-(imagined.weight * gain).mean().item(), rel=1e-4)
    log_chances = raw[:-1].log_softmax(-1)
    slow = numbers.mean(behaviour.slow(imagined.features[:-1]))
    critic = -((numbers.encode(returns) + numbers.encode(slow)) * log_chances).sum(-1)
    assert losses.critic.item() == pytest.approx((imagined.weight * critic).mean().item(), rel=1e-4)
    assert torch.allclose(losses.returns, returns, atol=1e-5)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_losses_of_v1_and_v2_by_definition(version):
    learner = agent(version)
    unsettle(learner)
    behaviour, imagined = learner.behaviour, dream(learner)
    losses = behaviour.losses(imagined)
    value = (behaviour.critic if version == "v1" else behaviour.slow)(imagined.features)[..., 0]
    returns = targets.lambda_return(imagined.reward, imagined.discount, value, 0.95)
    entropy = behaviour.actions.entropy(behaviour.actor(imagined.features[:-1])) * {"v1": 0.0, "v2": 1e-4}[version]
    assert losses.actor.item() == pytest.approx(-(imagined.weight * (returns + entropy)).mean().item(), rel=1e-5)
    error = behaviour.critic(imagined.features[:-1])[..., 0] - returns
    assert losses.critic.item() == pytest.approx((imagined.weight * error.square() / 2).mean().item(), rel=1e-5)


def test_replayed_values_keep_episodes_apart():
    learner = agent("v3")
    unsettle(learner)
    rng, steps = torch.Generator().manual_seed(2), 6
    features, settled = torch.randn(1, steps, 192, generator=rng), torch.randn(1, steps, generator=rng)
    reward = torch.randn(1, steps, generator=rng)
    first, terminated = torch.zeros(1, steps), torch.zeros(1, steps)
    first[0, [0, 3]], terminated[0, 5] = 1, 1
    batch = SequenceBatch(torch.zeros(1, steps, 1), torch.zeros(1, steps, 1), reward, terminated, first)
    loss = learner.behaviour.replay_loss(features, batch, settled)
    gamma, r, v = (1 - 1 / 333), reward[0], settled[0]
    # Row 2 is the last of an episode that was cut: the return at 1 is of the value there; row 5 is an end: no value.
    returns = {4: r[5], 1: r[2] + gamma * v[2]}
    returns[3] = r[4] + gamma * (0.05 * v[4] + 0.95 * returns[4])
    returns[0] = r[1] + gamma * (0.05 * v[1] + 0.95 * returns[1])
    numbers, total = learner.behaviour.numbers, 0.0
    for t, target in returns.items():
        slow = numbers.mean(learner.behaviour.slow(features[0, t]))
        weights = numbers.encode(target[None])[0] + numbers.encode(slow[None])[0]
        total -= (weights * learner.behaviour.critic(features[0, t]).log_softmax(-1)).sum().item()
    assert loss.item() == pytest.approx(total / 5, rel=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_who_learns_from_what(version):
    learner = agent(version)
    unsettle(learner)
    world, behaviour = learner.world, learner.behaviour
    start = State(torch.randn(4, 128), torch.zeros(4, world.rssm.latent.size))
    imagined = behaviour.imagine(world, start, torch.ones(4), 3, torch.Generator().manual_seed(0))
    losses = behaviour.losses(imagined)
    through = torch.autograd.grad(losses.actor, imagined.features, retain_graph=True, allow_unused=True)[0] if version != "v3" else None
    assert (through is None) == (version == "v3")
    assert imagined.features.requires_grad == (version != "v3")
    for loss, mine, other in ((losses.critic, behaviour.critic, behaviour.actor), (losses.actor, behaviour.actor, None)):
        assert all(g is not None for g in torch.autograd.grad(loss, list(mine.parameters()), retain_graph=True, allow_unused=True))
        if other is not None:
            apart = [*other.parameters(), *world.parameters()]
            assert all(g is None for g in torch.autograd.grad(loss, apart, retain_graph=True, allow_unused=True))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_model_does_not_learn_to_please_the_actor(version):
    with_actor, without = agent(version), agent(version)
    without.behaviour.actor.parts[0].weight.data.mul_(-3)
    for learner in (with_actor, without):
        rng = np.random.default_rng(0)
        for number in range(20):
            o = rng.normal(size=(2, 1)).astype(np.float32)
            learner.replay.append(Transition(o[0], rng.uniform(-1, 1, 1), float(o[1, 0]), o[1], False, number % 5 == 4))
        updated(learner)
    assert torch.equal(with_actor.optimisers["model"].gradient, without.optimisers["model"].gradient)
    assert not torch.equal(with_actor.optimisers["actor"].gradient, without.optimisers["actor"].gradient)
    assert with_actor.optimisers["actor"].gradient.abs().max() > 0


def test_the_slow_critic_follows_as_the_version_says():
    cases = [("v3", "small", 1, 0.1), ("v3", "size1m", 1, 0.02), ("v2", "small", 99, 0.0), ("v2", "small", 100, 1.0)]
    for version, size, updates, share in cases:
        learner = agent(version, size=size)
        before = [p.detach().clone() for p in learner.behaviour.slow.parameters()]
        unsettle(learner)
        learner.behaviour.settle(updates)
        for slow, fast, old in zip(learner.behaviour.slow.parameters(), learner.behaviour.critic.parameters(), before, strict=True):
            assert torch.allclose(slow, old + share * (fast - old), atol=1e-7)
    learner = agent("v1")
    assert learner.behaviour.slow is learner.behaviour.critic


def test_sizes_and_options_change_rates():
    assert agent("v3", size="size1m").version.rates == (4e-5, 4e-5, 4e-5)
    assert agent("v3").version.rates == (1e-3, 3e-4, 1e-3)
    learner = agent("v1", actor_rate=0.5, gradient="likelihood")
    assert [o.rate for o in learner.optimisers.values()] == [1e-3, 0.5, 3e-4]
    assert (learner.version.follow, learner.version.reinforce, agent("v1").version.reinforce) == (0.0, True, False)


def test_a_vector_is_explained_as_precisely_as_the_version_says():
    """Half the squared distance over the variance; the divergence, and what is worth, stay as they are."""
    found = []
    for precision in (1.0, 0.0):
        learner, rng = agent("v1", precision=precision), np.random.default_rng(0)
        for number in range(20):
            o = rng.normal(size=(2, 1)).astype(np.float32)
            learner.replay.append(Transition(o[0], rng.uniform(-1, 1, 1), float(o[1, 0]), o[1], False, number % 5 == 4))
        found.append(updated(learner))
    for name in ("observation_loss", "reward_loss", "divergence_nats"):
        torch.testing.assert_close(found[1][name], found[0][name] * (100 if name == "observation_loss" else 1))


@pytest.mark.parametrize(("ratio", "repeat"), [(4.0, 1), (3.0, 2), (30.0, 1)])
def test_updates_follow_the_ratio_and_nothing_else(ratio, repeat):
    counts = live(agent("v1", repeat=repeat, train_ratio=ratio), 25)
    expected = [int(max(0, n - 11) * ratio * repeat / 12 + 1e-9) for n in range(1, 26)]
    assert counts == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_going_on_after_an_interruption_has_the_same_bits(version, tmp_path):
    whole, parted = agent(version), agent(version)
    live(whole, 30)
    live(parted, 30)
    agent_checkpoint.write(tmp_path, {}, Progress(30), parted.save())
    resumed = agent(version, seed=5)
    resumed.load(agent_checkpoint.read(tmp_path, {})[1])
    live(whole, 20, seed=100)
    live(resumed, 20, seed=100)
    one, two = whole.save(), resumed.save()
    assert whole.updates > 10
    assert one.values == two.values
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        assert np.array_equal(array, two.arrays[name]), name


def test_what_does_not_fit_is_refused_and_changes_nothing():
    learner = agent("v3")
    live(learner, 20)
    before = learner.save()
    other = agent("v1").save()
    wrong = dict(before.arrays)
    wrong["actor.weights"] = wrong["actor.weights"][:-1]
    for arrays in (other.arrays, wrong, {}, {**before.arrays, "replay.reward": np.zeros(3)}):
        with pytest.raises(SnapshotError):
            learner.load(dataclasses.replace(before, arrays=arrays))
    after = learner.save()
    assert all(np.array_equal(array, after.arrays[name]) for name, array in before.arrays.items())


def test_evaluation_changes_nothing_and_gives_the_same_again():
    learner = agent("v3")
    live(learner, 20)
    before, actor, runs = learner.save(), learner.actor(explore=False), []
    for _ in range(2):
        actor.reset()
        runs.append([actor.act(np.array([0.1 * k], np.float32)).tolist() for k in range(5)])
    assert runs[0] == runs[1]
    after = learner.save()
    assert all(np.array_equal(array, after.arrays[name]) for name, array in before.arrays.items())


def test_actors_have_a_memory_each():
    learner = agent("v3")
    live(learner, 20)
    one, two = learner.actor(explore=False), learner.actor(explore=False)
    for k in range(4):
        one.act(np.array([2.0 + k], np.float32))
    here = np.array([0.3], np.float32)
    assert not np.array_equal(one.act(here), two.act(here))
    one.reset()
    two.reset()
    assert np.array_equal(one.act(here), two.act(here))


@pytest.mark.parametrize("version", VERSIONS)
def test_actions_are_within_bounds_and_random_at_first(version):
    learner = agent(version)
    actor = learner.actor(explore=True)
    first = np.array([actor.act(np.zeros(1, np.float32)) for _ in range(200)])
    assert np.abs(first).max() <= 1
    assert np.std(first) == pytest.approx(3**-0.5, rel=0.15)
    live(learner, 15)
    later = np.array([actor.act(np.zeros(1, np.float32)) for _ in range(50)])
    assert np.abs(later).max() <= 1
    assert len(np.unique(later)) > 10


def test_images_are_learned_from():
    task = TaskSpec("pictures", (3, 64, 64), 2, 10)
    learner = dreamer.build(task, 0, Options(**SMALL))
    rng = np.random.default_rng(0)
    for number in range(12):
        images = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
        learner.observe(Transition(images[0], rng.uniform(-1, 1, 2), 1.0, images[1], False, number % 6 == 5))
    before = [p.detach().clone() for p in learner.world.encoder.parameters()]
    updated(learner)
    assert all(array.isfinite().all() for array in learner._arrays().values())
    assert all(not torch.equal(a, b) for a, b in zip(before, learner.world.encoder.parameters(), strict=True))
    assert learner.actor(explore=False).act(images[0]).shape == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_point_is_led_to_0(version):
    options = {"batch": 8, "length": 12, "horizon": 5, "prefill": 100, "train_ratio": 96.0, "actor_rate": 2e-3, "critic_rate": 2e-3,
               "model_rate": 2e-3}
    learner = agent(version, **options)
    # A value of many steps would take longer to learn than the task.
    learner.world.gamma = learner.behaviour.gamma = 0.8
    live(learner, 400)
    task, actor, far = Line(), learner.actor(explore=False), []
    for seed in range(8):
        observation = task.reset(1000 + seed)
        actor.reset()
        for _ in range(10):
            observation = task.step(actor.act(observation)).observation
        far.append(abs(float(observation[0])))
    assert np.mean(far) < 0.3  # without decisions 0.5, at random 0.9
