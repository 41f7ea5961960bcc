"""Policies beside a robot's model: what they see, propose and value, how they learn, and how they come to the planner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import planning_fakes as fakes
import pytest
import torch
from carts import cart

from mbrl_control import robot
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.models.base import Gaussian, Step
from mbrl_control.models.sampling import sampled_step
from mbrl_control.part_checks import check_parts
from mbrl_control.policies import mbpo
from mbrl_control.policies.proposals import PolicyRows, Valued
from mbrl_control.policies.view import View
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.store import ModelStore
from mbrl_control.training import learn_mbpo
from mbrl_control.training.beside import MOST_DUE_S, Beside
from mbrl_control.training.trainer import Trainer

LIMITS = {"limits": (-4.0, 4.0)}


def with_policy(spec, **policy):
    """A robot that learns a policy beside its model."""
    return RobotSpec.model_validate({**spec.model_dump(), "policies": [{"kind": "mbpo", **policy}]})


class Regulator:
    """u = -k x in half ranges of 4 N; expects 3 x'x to be still to come."""

    def __init__(self, gain=(0.5, 0.6)):
        self.gain = torch.tensor(gain)

    def act(self, state, rng):
        mean = -(state @ self.gain)[:, None] / 4
        return mean if rng is None else mean + 0.05 * torch.randn(mean.shape, generator=rng)

    def to_go(self, state):
        return 3 * state.square().sum(-1)


def test_what_a_policy_sees():
    spec = robot.load("cartpole")
    view, state = View(spec), torch.tensor([[0.5, np.pi / 6, -1.0, 2.0], [1.5, np.pi / 6 + 2 * np.pi, -3.0, 2.0]])
    assert view(state).numpy() == pytest.approx(np.array([[0.5, -1, 2, 0.5, np.sqrt(3) / 2], [1.5, -3, 2, 0.5, np.sqrt(3) / 2]]), abs=1e-5)
    view.measure(state)
    assert view(state).numpy() == pytest.approx(np.array([[-1, 1, 0, 0, 0], [1, -1, 0, 0, 0]]), abs=1e-4)


def test_rows_are_the_policys_motion_through_the_model():
    planner = fakes.planner(fakes.spec(horizon=8, **LIMITS))
    rows = PolicyRows("mbpo", planner, Regulator(), 3)
    request = fakes.request([1.0, -0.2], seq=5)
    assert rows.rows(request).shape == (0, 8, 1), "nothing before it has learned anything"
    rows.ready = True
    found = rows.rows(request).numpy()
    x = np.array([1.0, -0.2])
    a, b = planner.model.a.numpy(), planner.model.b.numpy()
    for k in range(8):
        u = -np.array([0.5, 0.6]) @ x
        assert found[0, k, 0] == pytest.approx(u, abs=1e-5)
        x = a @ x + b[:, 0] * u
    assert found.shape == (3, 8, 1)
    assert np.abs(found[1:] - found[:1]).max(axis=(1, 2)).min() > 0.01
    assert np.array_equal(rows.rows(request).numpy(), found), "the same bits for the same request"
    assert not np.array_equal(rows.rows(replace(request, seq=6)).numpy()[1:], found[1:])


def test_what_comes_after_the_horizon_counts_and_an_end_that_is_in_doubt_is_the_worst():
    cost = fakes.lqr_cost()
    valued = Valued(cost, Regulator(), torch.tensor([0.5, 0.5]), trust=1.0)
    state = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.1, 0.0]])
    own = cost.terminal(state)
    assert valued.terminal(state).numpy() == pytest.approx((own + torch.tensor([3.0, 12.0, 0.03])).numpy())
    members = torch.stack([state, state + torch.tensor([[0.1, 0.0], [0.0, 0.0], [4.1, 0.0]])])  # the last end: 2.05 / 0.5 / 2 on average
    to_go = (valued.terminal(members) - cost.terminal(members)).numpy()
    worst = 3 * 4.2**2
    assert to_go == pytest.approx(np.array([[3.0, 12.0, worst], [3 * 1.21, 12.0, worst]]), rel=1e-5)
    assert valued.stage(state, state[:, :1]).numpy() == pytest.approx(cost.stage(state, state[:, :1]).numpy())


def test_with_a_critic_a_short_horizon_sees_the_whole_task():
    """With x'Px as the cost to go, one step ahead is the infinite-horizon regulator (dynamic programming)."""
    a, b = np.array([[1, 0.1], [0, 1]]), np.array([[0.005], [0.1]])
    p = np.eye(2)
    for _ in range(1000):
        gain = np.linalg.solve(0.1 + b.T @ p @ b, b.T @ p @ a)
        p = np.eye(2) + a.T @ p @ (a - b @ gain)

    class Optimal(Regulator):
        def to_go(self, state):
            return ((state @ torch.as_tensor(p - np.eye(2), dtype=torch.float32)) * state).sum(-1)

    cost = fakes.Quadratic(np.eye(2), [[0.1]])
    planner = fakes.planner(fakes.spec(horizon=1, newton_rows=1, candidates=8, limits=(-100.0, 100.0)), cost=cost)
    start = [0.4, -0.3]
    planner.cost = Valued(cost, Optimal(), planner.model.scale(), 1.0)
    assert planner.plan(fakes.request(start)).actions[0] == pytest.approx(-(gain @ start), rel=1e-2)


class Known(Regulator):
    """Knows what its own motion on the double integrator costs from a state on, discounted, times a factor."""

    discount = 0.9

    def __init__(self, factor):
        super().__init__((1.6, 2.2))
        self.factor = factor

    def to_go(self, state):
        step, cost, total, share = fakes.double_integrator(), fakes.Quadratic(np.eye(2), [[0.1]]), 0.0, 1.0
        for _ in range(200):
            force = 4 * self.act(state, None)
            state = step.step(state[None], force).state[0]
            total, share = total + share * cost.stage(state, force), share * self.discount
        return self.factor * total


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.3, True), (0.0, False), (-1.0, False), (5.0, False)])
def test_a_critic_is_believed_when_it_agrees_with_what_its_policy_costs(factor, right):
    cost = fakes.Quadratic(np.eye(2), [[0.1]])
    planner = fakes.planner(fakes.spec(horizon=8, **LIMITS), cost=cost)
    rows = PolicyRows("mbpo", planner, Known(factor), 2, cost)
    rows.ready = True
    valued = Valued(cost, rows.policy, planner.model.scale(), 1.0, rows.believed)
    state = torch.tensor([[0.4, -0.1]])
    assert valued.terminal(state).item() == pytest.approx(cost.terminal(state).item()), "nothing was seen of it yet"
    rows.rows(fakes.request([1.0, 0.0]))
    assert rows.believed() is right
    wanted = cost.terminal(state) + (rows.policy.to_go(state) if right else 0.0)
    assert valued.terminal(state).item() == pytest.approx(wanted.item(), rel=1e-5)


def snapshot_with(core, policy):
    return replace(core.model.snapshot(), behaviour={f"mbpo.{name}": array for name, array in policy.arrays().items()})


def stretches(spec, count=60, seed=0):
    """Motions of the double integrator under random forces."""
    rng = np.random.default_rng(seed)
    state, action = rng.normal(size=(count, 3, 2)), rng.uniform(-4, 4, (count, 2, 1))
    for k in range(2):
        state[:, k + 1] = state[:, k] @ [[1, 0], [0.1, 1]] + action[:, k] * [0.005, 0.1]
    return Sequences(state, action, spec.model_dt * np.arange(count))


def test_a_policy_comes_with_the_model_and_goes_with_it(tmp_path):
    spec = with_policy(fakes.spec(horizon=6), rows=3, value=True)
    store = ModelStore(tmp_path)
    core = PlannerCore(spec, store, 0)
    core.model.fit(stretches(spec), np.random.default_rng(0), updates=2)
    policy = mbpo.build(spec, mbpo.Options())
    policy.actor.flat.vector.fill_(0.01)
    plain = core.planner.cost
    store.publish(snapshot_with(core, policy))
    store.publish(core.model.snapshot())
    core.load(1)
    assert np.array_equal(core.behaviours.policies[0].arrays()["actor"], policy.arrays()["actor"])
    assert len(core.planner.sources[0].rows(fakes.request([0.0, 0.0]))) == 3
    assert isinstance(core.planner.cost, Valued)
    core.load(2)
    assert len(core.planner.sources[0].rows(fakes.request([0.0, 0.0]))) == 0
    assert core.planner.cost is plain


def test_a_policy_of_another_size_is_refused_with_its_model(tmp_path):
    spec, store = with_policy(fakes.spec(horizon=6)), ModelStore(tmp_path)
    core = PlannerCore(spec, store, 0)
    core.model.fit(stretches(spec), np.random.default_rng(0), updates=2)
    store.publish(snapshot_with(core, mbpo.build(spec, mbpo.Options(hidden=(32, 32)))))
    fresh = PlannerCore(spec, store, 0)
    assert not fresh.swap()
    assert fresh.swaps.refused == 1
    assert "policy 'mbpo'" in store.refused()[1]
    with pytest.raises(SnapshotError, match="policy 'mbpo': array"):
        fresh.load(1)


def test_a_row_of_the_policy_wins_where_it_is_best_and_is_counted(tmp_path):
    spec = fakes.spec(horizon=15, candidates=4, iterations=1, **LIMITS)
    planner = fakes.planner(spec)
    rows = PolicyRows("mbpo", planner, Regulator((1.6, 2.2)), 1)
    rows.ready = True
    planner.sources = (rows,)
    winners = {planner.plan(fakes.request([1.0, 0.0], seq=seq)).winner for seq in range(10)}
    assert winners == {"mbpo"}


class Exact:
    """The double integrator with two members and a known noise."""

    members, dt, version = 2, fakes.DT, 1

    def __init__(self, spread=0.0):
        self.inner, self.spread = fakes.double_integrator(), spread

    def step(self, state, action, rng=None):
        mean = self.inner.step(state, action).state + self.spread * torch.tensor([-1.0, 1.0])[:, None, None]
        return Step(mean if rng is None else mean + 0.01 * torch.randn(mean.shape, generator=rng))

    def predict(self, state, action):
        mean = self.inner.step(state, action).state
        return Gaussian(mean, torch.full_like(mean, 0.01))

    def scale(self):
        return torch.tensor([0.1, 0.1])


def test_each_row_goes_its_own_members_way():
    state, action = torch.zeros(101, 2), torch.zeros(101, 1)
    found = sampled_step(Exact(spread=1.0), state, action, torch.Generator().manual_seed(0))
    ways = found[:, 0].sign()
    assert abs(int((ways > 0).sum()) - 50) <= 1, "members have equal shares"
    assert (found - ways[:, None]).std().item() == pytest.approx(0.01, rel=0.2)
    again = sampled_step(Exact(spread=1.0), state, action, torch.Generator().manual_seed(1))
    assert not torch.equal(ways, again[:, 0].sign())


def test_the_learner_finds_a_regulator_and_its_value():
    """On the double integrator with cost x'x + u'u / 10: better than nothing and than the start, and its critic knows what it costs."""
    spec = with_policy(fakes.spec(horizon=10, **LIMITS))
    learner = learn_mbpo.build(spec, mbpo.Options(hidden=(32, 32), discount=0.9, learning_rate=3e-3, target_rate=0.02), seed=0)
    learner.cost = fakes.Quadratic(np.eye(2), [[0.1]])
    start = torch.randn(200, 2, generator=torch.Generator().manual_seed(3))

    def cost_of(policy):
        state, total, share = start, torch.zeros(200), 1.0
        for _ in range(60):
            action = policy(state)
            state = Exact().inner.step(state[None], 4 * action).state[0]
            total, share = total + share * learner.cost.stage(state, 4 * action), share * 0.9
        return total

    with torch.no_grad():
        before, nothing = cost_of(lambda s: learner.policy.act(s, None)).mean(), cost_of(lambda s: torch.zeros(200, 1)).mean()
    for _ in range(12):
        learner.improve(Exact(), lambda _: stretches(spec), 60, lambda: None)
    with torch.no_grad():
        real, expected = cost_of(lambda s: learner.policy.act(s, None)), learner.policy.to_go(start)
    assert real.mean() < 0.8 * min(float(before), float(nothing))
    assert np.corrcoef(real.numpy(), expected.numpy())[0, 1] > 0.9
    assert float(expected.mean()) == pytest.approx(float(real.mean()), rel=0.3)


def test_updates_are_a_matter_of_data_not_of_the_machine():
    spec = with_policy(fakes.spec(horizon=6), updates_per_s=7.5)
    counts = []
    for ends in ([2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 2.4, 4.7, 6.0]):
        beside, done = Beside(spec, 0), []

        class Counting:
            def improve(self, model, stretches, updates, progress, done=done):
                done.append(updates)
                return {"value": 1.0, "bad": float("nan")}

            def arrays(self):
                return {"actor": np.zeros(1, np.float32)}

        beside.learners = [Counting()]
        figures = {}
        for end in ends:
            figures = beside.improve(None, lambda _: stretches(spec), 0.0, end, lambda: None)
        counts.append(sum(done))
        assert figures == {"mbpo_value": 1.0, "mbpo_updates": float(done[-1])}
        beside.improve(None, lambda _: stretches(spec), 0.0, 1e4, lambda: None)
        assert done[-1] <= MOST_DUE_S * 7.5 + 1
    assert counts == [45, 45]


def test_what_is_ruined_begins_anew():
    spec = with_policy(fakes.spec(horizon=6))
    beside = Beside(spec, 0)
    beside.learners[0].policy.actor.flat.vector.fill_(float("nan"))
    beside.improve(Exact(), lambda _: stretches(spec), 0.0, 6.0, lambda: None)
    assert all(np.isfinite(array).all() for array in beside.arrays().values())


def test_a_trainer_publishes_policies_and_its_successor_goes_on_with_them(tmp_path):
    plain = fakes.spec(horizon=6, trainer={"first_fit_s": 2.0, "updates": 20})
    spec = with_policy(plain, updates_per_s=2.0, options={"hidden": [16], "branches": 20, "batch": 16})
    store = ModelStore(tmp_path)
    trainer = Trainer(spec, store, seed=0)
    trainer.set_data([cart(8.0)])
    assert trainer.refit().figures["mbpo_updates"] == pytest.approx(2 * 8.0, abs=2)
    found = store.read(1, spec.hash)
    assert set(found.behaviour) == {f"mbpo.{name}" for name in ("actor", "critics", "mean", "inverse", "unit")}
    successor = Trainer(spec, store, seed=1)
    for name, array in successor.beside.arrays().items():
        assert np.array_equal(array, found.behaviour[name])
    core = PlannerCore(spec, store, 0)
    assert core.swap()
    assert core.plan(fakes.request([0.0, 0.0]))[0].verdict.name == "MET"
    assert spec.hash == plain.hash, "the model is the same with and without"


def test_an_unknown_kind_is_told_with_what_there_is():
    spec = robot.load("cartpole")
    wrong = RobotSpec.model_validate({**spec.model_dump(), "policies": [{"kind": "mbop"}]})
    with pytest.raises(UserError, match=r"'mbop' is not known.*mbpo"):
        check_parts(wrong)
    options = RobotSpec.model_validate({**spec.model_dump(), "policies": [{"kind": "mbpo", "options": {"batchs": 3}}]})
    with pytest.raises(UserError, match=r"unknown option 'batchs'.*batch"):
        check_parts(options)
