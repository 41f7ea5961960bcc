"""The Gauss-Newton step: against Riccati, against a solver for boxes, against Jacobians known in closed form, and as a candidate."""

import dataclasses
import itertools

import numpy as np
import planning_fakes as fakes
import pytest
import torch

from mbrl_control.models import slopes
from mbrl_control.models.base import Step
from mbrl_control.planning.actions import ActionSpace
from mbrl_control.planning.second_order import boxed

WIDE = {"limits": (-1000.0, 1000.0)}


def prepared(planner, request, previous=None):
    """A plan's problem, and the rows that the step adds to it."""
    with planner.guard():
        problem, _ = planner.prepare(request, previous)
        return problem, problem.fixed[[name == "newton" for name in problem.names[: len(problem.fixed)]]]


def test_on_a_linear_robot_with_a_quadratic_cost_one_step_is_the_optimum():
    planner = fakes.planner(fakes.spec(horizon=12, newton_rows=2, **WIDE))
    start = [1.0, -0.5]
    problem, rows = prepared(planner, fakes.request(start))
    actions, cost = fakes.riccati(planner.model, planner.cost, start, 12)
    assert 1000 * rows[0].numpy() == pytest.approx(actions, rel=2e-3, abs=2e-3)
    assert planner.score(rows[:1], problem).item() == pytest.approx(cost, rel=1e-4)


@pytest.mark.parametrize("settings", [{"smoothness": 0.3}, {"delays": (0.0, 0.13), "axes": 2},
                                      {"smoothness": 0.1, "delays": (0.05, 0.13), "axes": 2}])
@pytest.mark.parametrize("late", [0.0, 0.03, 0.07])
def test_nothing_near_is_better_whatever_lies_between_row_and_robot(settings, late):
    """Part of a cell over, commands still on their way, roughness: brute force around the step finds no better row."""
    axes = settings.get("axes", 1)
    planner = fakes.planner(fakes.spec(horizon=8, newton_rows=1, **WIDE, **settings))
    sent = np.full((3, axes), 2.0)
    request = fakes.request([1.0, -0.5] * axes, apply_time=late, sent_time=np.arange(-2, 1) * 0.02 + late, sent=sent, axes=axes)
    problem, rows = prepared(planner, request)
    rng = torch.Generator().manual_seed(0)
    best = planner.score(rows, problem).item()
    assert best < planner.score(problem.fixed[:1], problem).item()
    for size in (1e-2, 1e-3, 1e-4):
        around = rows + size * torch.randn(500, 8, axes, generator=rng)
        assert planner.score(around, problem).min().item() >= best * (1 - 1e-5)


def test_members_count_alike():
    """Symmetric offsets do not move the step, a common one does."""
    spec = fakes.spec(horizon=10, newton_rows=1, **WIDE)
    one = prepared(fakes.planner(spec), fakes.request([1.0, 0.0]))[1]
    two = prepared(fakes.planner(spec, fakes.double_integrator(offsets=[[0.0, 0.02], [0.0, -0.02]])), fakes.request([1.0, 0.0]))[1]
    drift = prepared(fakes.planner(spec, fakes.double_integrator(offsets=[[0.0, 0.02], [0.0, 0.02]])), fakes.request([1.0, 0.0]))[1]
    assert two.numpy() == pytest.approx(one.numpy(), abs=1e-6)
    assert np.abs(drift.numpy() - one.numpy()).max() > 1e-5


class Toppling:
    """An unstable robot, x' = x + 0.1 v and v' = v + 0.1 (g x + u), that each member knows another g of."""

    dt, version = fakes.DT, 1

    def __init__(self, *pulls):
        self.pulls, self.members = torch.tensor(pulls)[:, None], len(pulls)

    def step(self, state, action, rng=None):
        faster = state[..., 1] + 0.1 * (self.pulls * state[..., 0] + action[..., 0])
        return Step(torch.stack([state[..., 0] + 0.1 * state[..., 1], faster], -1))

    def scale(self):
        return torch.tensor([0.1, 0.1])


def test_where_members_part_the_plan_steers_as_firmly_as_for_their_mean():
    """A row for all members has no feedback: their best common one lets go of an unstable robot that each one's own would hold."""
    spec = fakes.spec(horizon=25, newton_rows=1, candidates=8, iterations=1, **WIDE)
    models = Toppling(9.0), Toppling(6.0, 8.0, 10.0, 12.0)
    alone, several = (fakes.planner(spec, model).plan(fakes.request([0.01, 0.0])) for model in models)
    assert several.actions == pytest.approx(alone.actions, rel=1e-3, abs=1e-4)
    assert several.cost == pytest.approx(alone.cost, rel=1e-3)
    actions, _ = fakes.riccati(fakes.Linear([[1, 0.1], [0.9, 1]], [[0], [0.1]]), fakes.lqr_cost(), [0.01, 0.0], 25)
    assert alone.actions == pytest.approx(actions, rel=0.02, abs=2e-3)


def test_a_plan_at_its_limits_is_the_best_for_all_members_paths_together():
    """What is at its limits cannot be corrected on the way: brute force around the step finds no row of less mean cost over members."""
    planner = fakes.planner(fakes.spec(horizon=6, newton_rows=1, limits=(-10.0, 10.0)), Toppling(2.0, 12.0))
    first = planner.plan(fakes.request([0.3, 0.0]))
    found = {}
    for level in (0.7, 0.9):
        request = fakes.request([0.3, 0.0], seq=1)
        problem, rows = prepared(planner, request, dataclasses.replace(first, carry=np.full_like(first.carry, level)))
        best = planner.score(rows, problem).item()
        around = rows + 3e-3 * torch.randn(500, 6, 1, generator=torch.Generator().manual_seed(0))
        found[level] = problem.free, planner.score(around, problem).min().item() >= best * (1 - 1e-5)
    assert found == {0.7: (True, False), 0.9: (False, True)}


def test_clear_of_limits():
    """Of value and of rate, counted from the last command on."""
    space = ActionSpace(fakes.spec(rate=20.0, limits=(-4.0, 4.0)))  # 0.5 half ranges a step
    last = torch.zeros(1)
    assert space.clear(torch.tensor([[0.39], [0.78], [0.4]]), last, 0.8)
    assert not space.clear(torch.tensor([[0.41], [0.78], [0.4]]), last, 0.8)
    assert not space.clear(torch.tensor([[0.39], [0.78], [0.3]]), last, 0.8)
    assert not space.clear(torch.tensor([[0.39], [0.78], [0.81]]), last, 0.8)


def test_doubts_count_in_what_is_played_where_a_robot_asks_for_that():
    """With risk over members, rows are compared by what each member makes of them."""
    costs = []
    for more in ({}, {"risk": "std", "risk_weight": 1.0}):
        planner = fakes.planner(fakes.spec(horizon=10, newton_rows=1, **more, **WIDE), Toppling(6.0, 12.0))
        problem, rows = prepared(planner, fakes.request([0.01, 0.0]))
        costs.append((planner.score(rows, problem).item(), planner.score(rows, problem, finely=True).item()))
    assert costs[1][1] == pytest.approx(costs[1][0], rel=1e-6)
    assert costs[0][1] < costs[0][0]


@pytest.mark.parametrize("seed", range(20))
def test_a_box_is_kept_and_what_is_free_is_best(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6))
    bend, slope = torch.as_tensor(root @ root.T + 0.5 * np.eye(6)), torch.as_tensor(3 * rng.normal(size=6))
    low, high = -torch.as_tensor(rng.uniform(0, 1, 6)), torch.as_tensor(rng.uniform(0, 1, 6))
    found = boxed(bend, slope, low, high)
    assert (found >= low).all()
    assert (found <= high).all()

    def value(x):
        return float(slope @ x + x @ bend @ x / 2)

    # By brute force over which variables are at which side.
    best = np.inf
    for sides in itertools.product((None, low, high), repeat=6):
        x = torch.tensor([0.0 if side is None else float(side[i]) for i, side in enumerate(sides)], dtype=torch.float64)
        free = [i for i, side in enumerate(sides) if side is None]
        if free:
            x[free] = -torch.linalg.solve(bend[free][:, free], (slope + bend @ x)[free])
        if (x >= low - 1e-12).all() and (x <= high + 1e-12).all():
            best = min(best, value(x))
    assert value(found) == pytest.approx(best, rel=1e-9)
    inner = boxed(bend, slope, torch.full((6,), -100.0).double(), torch.full((6,), 100.0).double())
    assert inner.numpy() == pytest.approx(-np.linalg.solve(bend.numpy(), slope.numpy()))


def pendulum(state, action):
    """theta' and omega' by half-implicit Euler, 0.1 s, g = l = m = 1."""
    theta, omega = state[..., 0], state[..., 1]
    faster = omega + 0.1 * (action[..., 0] - torch.sin(theta))
    return torch.stack([theta + 0.1 * faster, faster], -1)


class Curved:
    """Two members, the second one twice as strong."""

    members, dt, version = 2, fakes.DT, 1

    def step(self, state, action, rng=None):
        action = action.expand(2, *action.shape[-2:]) * torch.tensor([1.0, 2.0])[:, None, None]
        return Step(pendulum(state, action))

    def scale(self):
        return torch.tensor([0.1, 0.1])


class Opaque(Curved):
    """The same, without a gradient."""

    def step(self, state, action, rng=None):
        return Step(super().step(state.detach(), action.detach(), rng).state)


@pytest.mark.parametrize("model", [Curved(), Opaque()])
def test_jacobians_of_every_member(model):
    states = torch.tensor([[[0.3, 1.0], [2.0, -1.0], [-1.0, 0.5]], [[0.1, 0.2], [0.0, 0.0], [3.0, 3.0]]])
    actions = torch.tensor([[0.5], [0.0], [-1.0]])
    assert slopes.differentiable(model, fakes.spec()) == (type(model) is Curved)
    found = (slopes.by_autograd(model, states, actions) if type(model) is Curved
             else slopes.by_differences(model, states, actions, torch.tensor([4.0])))
    c = states[..., 0].cos()
    by_state = torch.stack([torch.stack([1 - 0.01 * c, torch.full_like(c, 0.1)], -1), torch.stack([-0.1 * c, torch.ones_like(c)], -1)], -2)
    by_action = torch.tensor([0.01, 0.1])[:, None] * torch.tensor([1.0, 2.0])[:, None, None, None]
    assert found[0].numpy() == pytest.approx(by_state.numpy(), abs=1e-5)
    assert found[1].numpy() == pytest.approx(by_action.expand(2, 3, 2, 1).numpy(), abs=1e-5)


@pytest.mark.parametrize("model", [Curved(), Opaque()])
def test_where_the_cost_is_not_convex_a_careful_row_still_goes_down(model):
    """From upright-and-moving states of a pendulum, under 1 + cos(theta), whose curvature is negative there."""

    class Height:
        def stage(self, state, action):
            return 1 + torch.cos(state[..., 0]) + 0.01 * action[..., 0] ** 2

        def terminal(self, state):
            return state[..., 1] ** 2

    planner = fakes.planner(fakes.spec(horizon=10, newton_rows=4), model, Height())
    for start in ([0.2, 0.0], [1.5, 1.0], [2.9, -1.0]):
        problem, rows = prepared(planner, fakes.request(start))
        assert planner.score(rows, problem).min() < planner.score(problem.fixed[:1], problem)[0]
        assert rows.abs().max() <= 1


def test_limits_of_value_and_rate_hold():
    planner = fakes.planner(fakes.spec(horizon=10, newton_rows=3, rate=2.0, limits=(-1.0, 1.0)))
    _, rows = prepared(planner, fakes.request([30.0, 0.0], sent_time=[-0.02], sent=[[0.5]]))
    assert rows.abs().max() <= 1
    assert (rows.diff(dim=1).abs() <= 0.2 + 1e-6).all()
    assert ((rows[:, 0] - 0.5).abs() <= 0.2 + 1e-6).all()


def test_the_rows_compete_in_every_plan_and_win_where_samples_only_come_near():
    planner = fakes.planner(fakes.spec(horizon=12, candidates=32, newton_rows=3))
    previous = None
    for seq in range(3):
        previous = planner.plan(fakes.request([0.05, 0.0], seq=seq, apply_time=0.02 * seq, state_time=0.02 * seq), previous)
    assert previous.winner == "newton"
    assert planner.plan(fakes.request([0.05, 0.0]), iterations=3).stats["rollouts"] == 3 * (3 + 3) + 32 + 25 + 20 + 2 * 3 + 1 + 1 + (3 + 3)


def test_a_row_that_is_not_finite_is_the_last_plan():
    class Broken(fakes.Quadratic):
        def terminal(self, state):
            return super().terminal(state) * torch.nan

    cost = Broken(np.eye(2), 0.1 * np.eye(1), np.eye(2))
    problem, rows = prepared(fakes.planner(fakes.spec(horizon=6, newton_rows=2), cost=cost), fakes.request([1.0, 0.0]))
    assert torch.equal(rows, problem.fixed[:1].expand(2, -1, -1))


def test_the_first_plan_after_going_back_to_an_older_model_does_without():
    planner = fakes.planner(fakes.spec(horizon=12, candidates=32, newton_rows=3))
    start = fakes.request([1.0, 0.0])
    for before, there in ((planner.model.version + 1, 0), (planner.model.version, 3), (planner.model.version - 1, 3)):
        previous = dataclasses.replace(planner.plan(start), model_version=before)
        problem, rows = prepared(planner, fakes.request([1.0, 0.0], seq=1, apply_time=0.02, state_time=0.02), previous)
        assert len(rows) == problem.names.count("newton") == there


def test_there_are_none_unless_asked_for():
    problem, rows = prepared(fakes.planner(fakes.spec(horizon=6)), fakes.request([1.0, 0.0]))
    assert len(rows) == 0
    assert "newton" not in problem.names
