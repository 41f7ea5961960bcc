"""What the planners' loop does not do: wait for a number, branch on one, or do work that the candidates do not need."""

import math
from collections import Counter

import numpy as np
import planning_fakes as fakes
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mbrl_control import parts
from mbrl_control.planning.plan import Verdict
from mbrl_control.planning.record import Record, Shape, Summary
from mbrl_control.robot import RobotSpec

KINDS = ("random_shooting", "predictive_sampling", "cem", "icem", "mppi")
WAITING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2")
VIEWS = ("select", "slice", "flatten", "view", "unsqueeze", "unbind", "expand")
DRAWING = ("randn", "rand", "normal_", "uniform_", "randperm", "_fft_r2c", "_fft_c2r")


class Calls(TorchDispatchMode):
    """Counts the tensor operations by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def loop(planner, request=None, previous=None):
    """The operations of each iteration of a plan, the model's and the cost's left out."""
    counts, iterate, score = [], planner.iterate, planner.score

    def counted(*args):
        with Calls() as calls:
            iterate(*args)
        counts.append(calls.count)

    planner.iterate = counted
    planner.score = lambda rows, problem: torch.ones(len(rows))
    plan = planner.plan(request or fakes.request([1.0, -0.5]), previous)
    planner.iterate, planner.score = iterate, score
    return counts, plan


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"knots": 4}])
def test_an_iteration_waits_for_no_number_and_draws_none(kind, settings):
    robot = fakes.spec(kind=kind, candidates=32, iterations=3, horizon=10, propagation="tsinf", risk="cvar", disagreement=0.1,
                       smoothness=0.1, **settings)
    planner = fakes.planner(robot, fakes.double_integrator(offsets=[[0.0, 0.1], [0.0, -0.1]]))
    request = fakes.request([1.0, -0.5], apply_time=0.07)
    for previous in (None, planner.plan(request)):
        with planner.guard():
            problem, search = planner.prepare(request, previous)
            planner.reserve(problem, search, 3)
            for i in range(3):
                with Calls() as calls:
                    planner.iterate(search, problem, i, i == 2)
                assert calls.count["baddbmm"] + calls.count["matmul"] + calls.count["mm"] > 0  # it did see the work
                assert not [name for name in calls.count if name in WAITING + DRAWING]


@pytest.mark.parametrize(("kind", "most"), [("cem", 26), ("icem", 28), ("predictive_sampling", 17), ("random_shooting", 24), ("mppi", 105)])
def test_an_iteration_is_few_operations_whatever_the_candidates(kind, most):
    counts = [sum(number for name, number in c.items() if name not in VIEWS) for n in (32, 512)
              for c in loop(fakes.planner(fakes.spec(kind=kind, candidates=n, iterations=3, horizon=10)))[0]]
    assert max(counts) <= most
    assert counts[:3] == counts[3:]


def test_one_iteration_without_any_finite_cost_does_not_end_the_search():
    """The search then stays where it was, and the next iteration goes on from there."""
    robot = fakes.spec(kind="icem", candidates=32, iterations=3, horizon=10)
    planner = fakes.planner(robot)
    score, rounds = planner.score, []

    def sometimes(rows, problem):
        rounds.append(len(rows))
        return torch.full((len(rows),), math.inf) if len(rounds) == 2 else score(rows, problem)

    with planner.guard():
        problem, search = planner.prepare(fakes.request([1.0, -0.5]), None)
        planner.reserve(problem, search, 3)
        planner.iterate(search, problem, 0, False)
        before = search.mean.clone(), search.std.clone()
        planner.score = lambda rows, problem: torch.full((len(rows),), math.inf)
        planner.iterate(search, problem, 1, False)
    assert torch.equal(search.mean, before[0])
    assert torch.equal(search.std, before[1])
    planner.score = sometimes
    plan = planner.plan(fakes.request([1.0, -0.5]))
    assert plan.verdict is Verdict.MET
    assert plan.stats["finite"] == 0.0
    assert np.isfinite(plan.actions).all()
    assert np.isfinite(plan.carry).all()
    assert plan.cost < float(score(problem.fixed[:1], problem))


def test_the_record_is_read_as_it_was_written():
    record = Record(Shape(3, 5, 2, 4, 1), torch.device("cpu"))
    rows = torch.arange(20.0).view(5, 4, 1)
    assert record.note(0, rows, torch.tensor([3.0, 2.0, math.inf, 4.0, 5.0])) == 2.0
    assert record.note(1, rows[:3], torch.tensor([math.inf, 9.0, 1.0])) == 1.0
    record.note(2, rows[:2], torch.tensor([0.5, math.inf]))
    assert Summary.of(record, 2).cost == 1.0  # what the third turn holds is not this plan's
    summary = Summary.of(record, 3)
    assert (summary.counts.tolist(), summary.turn, summary.winner, summary.cost, summary.finite) == ([5, 3, 2], 2, 0, 0.5, 0.5)
    assert torch.equal(record.best, rows[[1, 2, 0]])
    record.clear()
    assert Summary.of(record, 3).cost == math.inf
    copy = Record(record.shape, torch.device("cpu"))
    copy.flat.copy_(record.flat)
    assert torch.equal(copy.best, rows[[1, 2, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quadratic_cost_is_its_definition(dtype):
    state = [{"name": "a", "unit": "m"}, {"name": "q", "unit": "rad", "wraps": True}, {"name": "b", "unit": "m"},
             {"name": "r", "unit": "rad", "wraps": True}, {"name": "c", "unit": "m"}, {"name": "d", "unit": "m"}]
    command = [{"name": "u", "unit": "N", "limits": [-2, 6], "zero": 1.0}, {"name": "w", "unit": "N", "limits": [-1, 1]}]
    options = {"weight": {"q": 2.0, "b": 3.0, "r": 4.0, "c": 5.0, "d": 0.25}, "target": {"q": 3.0, "b": -1.0, "c": 0.5, "a": 7.0},
               "saturation": {"r": 0.7, "c": 2.0}, "effort": {"u": 0.1}, "terminal": 10.0}
    spec = RobotSpec.model_validate({"name": "x", "state": state, "command": command, "cost": {"kind": "quadratic", "options": options}})
    cost = parts.find("costs", "quadratic").build(spec, parts.options("costs", "quadratic", options))
    rng = np.random.default_rng(0)
    s, u = rng.normal(size=(2, 3, 4, 6)) * 3, rng.normal(size=(3, 4, 2))

    def around(x):
        return (x + np.pi) % (2 * np.pi) - np.pi

    a = 2 * around(s[..., 1] - 3) ** 2 + 3 * (s[..., 2] + 1) ** 2 + 0.25 * s[..., 5] ** 2
    a = a + 4 * (1 - np.exp(-0.5 * (around(s[..., 3]) / 0.7) ** 2)) + 5 * (1 - np.exp(-0.5 * ((s[..., 4] - 0.5) / 2) ** 2))
    given = torch.as_tensor(s, dtype=dtype), torch.as_tensor(u, dtype=dtype)
    np.testing.assert_allclose(cost.stage(given[0], given[1][None]), a + 0.1 * (u[..., 0] - 1) ** 2, rtol=2e-5)
    np.testing.assert_allclose(cost.terminal(given[0]), 10 * a, rtol=2e-5)
    assert cost.stage(given[0][0, 0, 0], given[1][0, 0]).shape == ()
    none = parts.find("costs", "quadratic").build(spec, parts.options("costs", "quadratic", {}))
    assert none.stage(*given).abs().max() == 0
    assert none.terminal(given[0]).abs().max() == 0
