"""The planners on problems with known answers, and the loop's promises: time, determinism, faults."""

import dataclasses

import numpy as np
import planning_fakes as fakes
import pytest
import torch

from mbrl_control import parts, strict_yaml
from mbrl_control.errors import UserError
from mbrl_control.planning import base, weighting
from mbrl_control.planning.plan import Verdict, shift
from mbrl_control.robot import validate

KINDS = ("random_shooting", "predictive_sampling", "cem", "icem", "mppi", "gradient")
START = [1.0, -0.5]


def of(kind, candidates=32, iterations=3, horizon=10, **planner):
    return {"kind": kind, "candidates": candidates, "iterations": iterations, "horizon": horizon, **planner}


def regret(plan, model, cost):
    """How much dearer than the Riccati solution the plan's actions are."""
    best_actions, best = fakes.riccati(model, cost, START, len(plan.actions))
    state, total = torch.tensor(START)[None, None], 0.0
    for action in torch.as_tensor(plan.actions, dtype=torch.float32):
        state = model.step(state, action[None]).state
        total += float(cost.stage(state, action))
    total += float(cost.terminal(state))
    return total / best - 1, best_actions


@pytest.mark.parametrize(("settings", "worst", "off"), [
    (of("cem", 200, 12, options={"min_std": 0.0}), 0.01, 0.3),
    (of("icem", 100, 12, options={"min_std": 0.0, "beta": 1.0}), 0.01, 0.3),
    (of("mppi", 400, 10, options={"beta": 1.0}), 0.01, 0.3),
    (of("gradient", 4, 20), 0.001, 0.1),
    (of("gradient", 4, 20, options={"gradients": "differences"}), 0.002, 0.1),
    (of("predictive_sampling", 400, 20, knots=5), 0.05, 1.0),
    (of("random_shooting", 2000, 1, knots=3), 0.3, 2.0),
])
def test_planners_reach_the_riccati_solution(settings, worst, off):
    robot, model, cost = fakes.spec(**settings), fakes.double_integrator(), fakes.lqr_cost()
    plan = fakes.planner(robot, model, cost).plan(fakes.request(START))
    found, optimum = regret(plan, model, cost)
    assert -1e-5 < found < worst
    assert np.abs(plan.actions - optimum).max() < off
    assert plan.cost == pytest.approx((1 + found) * fakes.riccati(model, cost, START, 10)[1], rel=1e-4)


def test_replanning_converges_on_the_optimum_of_the_moment():
    """Warm starts carry what earlier plans found: a few cheap plans do as well as a dear one."""
    robot, model, cost = fakes.spec(**of("icem", 40, 3)), fakes.double_integrator(), fakes.lqr_cost()
    planner, plan, seen = fakes.planner(robot, model, cost), None, []
    for k in range(12):
        plan = planner.plan(fakes.request(START, seq=k), plan)
        seen.append(regret(plan, model, cost)[0])
    assert seen[-1] < 0.01 < seen[0]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits_and_a_reset_forgets(kind):
    robot = fakes.spec(**of(kind, propagation="ts1"))
    model = fakes.double_integrator(offsets=[[0.0, 0.1], [0.0, -0.1], [0.05, 0.0]])
    one, two = fakes.planner(robot, model), fakes.planner(robot, model)
    asks = [fakes.request(START, seq=k, apply_time=0.07 * k, state_time=0.07 * k) for k in range(3)]

    def series(planner):
        plans = [None]
        for ask in asks:
            plans.append(planner.plan(ask, plans[-1]))
        return plans[1:]

    first, second = series(one), series(two)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.carry, b.carry)
        assert (a.cost, a.stats, a.winner) == (b.cost, b.stats, b.winner)
    again = one.plan(asks[2], None)  # after a reset: as a planner that never planned
    fresh = fakes.planner(robot, model).plan(asks[2], None)
    np.testing.assert_array_equal(again.carry, fresh.carry)
    np.testing.assert_array_equal(again.actions, fresh.actions)
    assert fakes.planner(robot, model, seed=1).plan(asks[2]).stats != fresh.stats


def test_icem_sizes_and_counts():
    planner = fakes.planner(fakes.spec(**of("icem", 40, 3)))
    assert [planner.population(i) for i in range(3)] == [40, 32, 25]  # 97 in all
    assert planner.population(9) == 20  # twice the elites
    plan = planner.plan(fakes.request(START))
    # Besides the 97: three fixed rows an iteration, three kept elites in the later two, the mean in the last and at the end.
    assert plan.stats["rollouts"] == 97 + 3 * 3 + 2 * 3 + 1 + 1
    assert plan.carry.shape == (4, 10, 1)
    assert fakes.planner(fakes.spec(**of("icem", options={"keep": 0.0}))).plan(fakes.request(START)).carry.shape == (1, 10, 1)


def test_icem_shifts_its_elites_and_gives_them_fresh_last_actions():
    robot = fakes.spec(**of("icem", 40, 3))
    planner = fakes.planner(robot)
    first = planner.plan(fakes.request(START))
    _, search = planner.prepare(fakes.request(START, apply_time=0.2), first)
    moved = shift(first.carry, robot.model_dt, 0.2)
    np.testing.assert_allclose(search.kept[:, :-2], moved[1:, :-2], atol=1e-6)
    assert (np.abs(search.kept[:, -1].numpy() - moved[1:, -1]) > 1e-3).all()
    problem, still = planner.prepare(fakes.request(START), first)
    np.testing.assert_allclose(still.kept, first.carry[1:], atol=1e-6)
    np.testing.assert_allclose(problem.fixed[0], first.carry[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["icem", "mppi"])
def test_planning_rate_does_not_matter_to_the_nominal(kind):
    """Carried on at 20 or at 57 Hz without being changed, the nominal is the same at equal times, to the last bit."""
    planner = fakes.planner(fakes.spec(**of(kind, 32, 3, 20, options={"momentum": 0.0} if kind == "icem" else {}), dt=0.05))
    first = planner.plan(fakes.request(START))
    ends = []
    for rate in (20, 57):
        plan = first
        for k in range(1, rate // 2):
            problem, _ = planner.prepare(fakes.request(START, apply_time=k / rate), plan)
            plan = dataclasses.replace(plan, start=k / rate, carry=problem.fixed[:1].numpy().astype(float))
        problem, _ = planner.prepare(fakes.request(START, apply_time=0.525), plan)
        ends.append(planner.sent(problem.fixed[:1], problem))
        assert problem.part == pytest.approx(0.5)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_allclose(ends[0], shift(first.carry[:1], 0.05, 0.525), atol=1e-6)


def test_between_grid_points_the_rollout_sees_what_is_sent():
    """The predicted cost of a plan is the true cost of its actions, also when it starts in the middle of a cell."""
    robot, model, cost = fakes.spec(**of("cem"), rate=30.0), fakes.double_integrator(), fakes.lqr_cost()
    planner = fakes.planner(robot, model, cost)
    planner.sources = (Source(torch.full((1, 10, 1), 3.0)),)
    plan = planner.plan(fakes.request(START, apply_time=0.3), None)
    plan = planner.plan(fakes.request(START, seq=1, apply_time=0.36, state_time=0.36), plan)
    assert plan.start == 0.36
    found, _ = regret(plan, model, cost)
    assert plan.cost == pytest.approx((1 + found) * fakes.riccati(model, cost, START, 10)[1], rel=1e-4)
    problem, _ = planner.prepare(fakes.request(START, apply_time=0.36), plan)
    np.testing.assert_allclose(planner.sent(problem.fixed[-1:], problem) * 4, 3.0, atol=1e-5)  # a proposal stays where it was meant


def test_mean_is_a_candidate_in_the_last_iteration_only():
    planner = fakes.planner(fakes.spec(**of("cem", 20, 3)))
    sizes, score = [], planner.score
    planner.score = lambda rows, problem: sizes.append(len(rows)) or score(rows, problem)
    planner.plan(fakes.request(START))
    assert sizes == [23, 23, 24, 1]
    sizes.clear()
    planner.plan(fakes.request(START), iterations=2)  # the replay of a plan that was stopped before its last one
    assert sizes == [23, 23, 1]


def test_mppi_mean_is_the_softmax_average():
    planner = fakes.planner(fakes.spec(**of("mppi", 50, 1, options={"temperature": 2.0})))
    problem, search = planner.prepare(fakes.request(START), None)
    rows = torch.randn(50, 10, 1, generator=torch.Generator().manual_seed(1))
    costs = planner.score(rows, problem)
    planner.refit(search, rows, costs, costs.min())
    weights = np.exp(-(costs.numpy() - costs.numpy().min()) / 2.0)
    expected = np.einsum("n,nka->ka", weights / weights.sum(), rows.numpy())
    np.testing.assert_allclose(search.mean, expected, atol=1e-5)
    assert search.figures["temperature"] == 2.0
    assert search.figures["ess"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-4)


def test_mppi_reports_its_effective_sample_size_and_ignores_the_unit_of_cost():
    robot = fakes.spec(**of("mppi", 200, 2, options={"ess": 0.1}))
    plans = [fakes.planner(robot, cost=fakes.lqr_cost(factor=f)).plan(fakes.request(START)) for f in (1.0, 1000.0, 1024.0)]
    assert plans[0].stats["ess"] == pytest.approx(0.1 * 204, rel=0.01)
    np.testing.assert_allclose(plans[0].actions, plans[1].actions, atol=1e-4)
    np.testing.assert_array_equal(plans[0].actions, plans[2].actions)  # a power of two rounds nothing
    assert plans[1].stats["temperature"] == pytest.approx(1000 * plans[0].stats["temperature"], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault(row=14)
def test_candidates_that_are_not_finite_never_win(kind):
    """One member diverges to NaN where the force is positive, which is where the optimum lies."""
    model = fakes.double_integrator(offsets=[[0.0, 0.0], [0.0, 0.0]])

    def poison(after, action):
        bad = (action[..., 0] > 0.1) & (torch.arange(2)[:, None] == 1)
        return torch.where(bad[..., None], torch.nan, after)

    model.poison = poison
    settings = {"options": {"gradients": "differences"}} if kind == "gradient" else {}
    for propagation in ("tsinf", "mean"):
        plan = fakes.planner(fakes.spec(**of(kind, propagation=propagation, **settings)), model).plan(fakes.request([-1.0, 0.0]))
        assert np.isfinite(plan.actions).all()
        assert np.isfinite(plan.cost)
        assert plan.actions.max() <= 0.1 + 1e-6
        assert plan.stats["finite"] < 1
        assert plan.verdict is Verdict.MET


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault(row=14)
def test_when_nothing_is_finite_the_last_plan_stands(kind):
    robot, model = fakes.spec(**of(kind)), fakes.double_integrator()
    planner = fakes.planner(robot, model)
    good = planner.plan(fakes.request(START))
    model.poison = lambda after, action: after * torch.nan
    plan = good
    for k in (1, 2):
        plan = planner.plan(fakes.request(START, seq=k, apply_time=0.13 * k), plan)
        assert plan.verdict is Verdict.FALLBACK
        assert (plan.cost, plan.stats["finite"], plan.seq) == (np.inf, 0.0, k)
        for t in np.linspace(0.13 * k, 0.99, 17):
            np.testing.assert_array_equal(plan.at(t), good.at(t))
        assert plan.at(1.01) is None  # it runs out when the last good plan does
    model.poison = None
    assert planner.plan(fakes.request(START, seq=3, apply_time=0.4), plan).verdict is Verdict.MET
    model.poison = lambda after, action: after * torch.nan
    np.testing.assert_array_equal(planner.plan(fakes.request(START)).actions, np.zeros((10, 1)))
    np.testing.assert_array_equal(planner.plan(fakes.request([np.nan, 0.0])).actions, np.zeros((10, 1)))


@dataclasses.dataclass
class Source:
    """A proposal source that gives the same rows always."""

    given: torch.Tensor
    name: str = "mbpo"

    def rows(self, request):
        return self.given

    def pass_over(self):
        pass

    def useful(self):
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_stay_in_every_iteration_and_winners_are_counted(kind):
    robot, model, cost = fakes.spec(**of(kind, candidates=8, iterations=2)), fakes.double_integrator(), fakes.lqr_cost()
    optimum, value = fakes.riccati(model, cost, START, 10)
    planner = fakes.planner(robot, model, cost)
    planner.sources = (Source(torch.full((1, 10, 1), torch.nan)), Source(torch.as_tensor(optimum)[None], "dreamer"))
    seen, score = [], planner.score
    planner.score = lambda rows, problem: seen.append(rows.clone()) or score(rows, problem)
    plan = planner.plan(fakes.request(START))
    own = torch.as_tensor(optimum, dtype=torch.float32) / 4
    assert all(any(torch.allclose(row, own, atol=1e-6) for row in rows) for rows in seen if len(rows) > 1)
    assert plan.winner == "dreamer"
    assert plan.cost <= value * 1.0001
    np.testing.assert_allclose(plan.actions, optimum, atol=0.2)
    again = planner.plan(fakes.request(START, seq=1), plan)
    assert again.winner in ("nominal", "dreamer")


def test_a_mean_that_is_worse_than_the_last_plan_is_not_played():
    """Two valleys, left and right: the mean of both is the ridge between them."""

    class Valleys(fakes.Quadratic):
        def stage(self, state, action):
            return (action[..., 0].abs() - 2.0) ** 2 + 0 * state[..., 0]

    planner = fakes.planner(fakes.spec(**of("cem", 64, 1)), cost=Valleys(np.eye(2), np.eye(1)))
    planner.sources = (Source(torch.full((1, 10, 1), 1.9)),)
    plan = planner.plan(fakes.request(START))
    np.testing.assert_allclose(plan.actions, 1.9, atol=1e-6)
    assert plan.cost == pytest.approx(10 * 0.01, rel=1e-3)


def test_rate_limits_reach_the_rollout_and_the_plan():
    robot = fakes.spec(**of("icem"), rate=5.0, trainer={"noise": 1.0, "noise_fade_s": 1.0})
    planner = fakes.planner(robot)
    seen, score = [], planner.score
    planner.score = lambda rows, problem: seen.append(rows.clone()) or score(rows, problem)
    plan = planner.plan(fakes.request(START, sent_time=[-0.02], sent=[[3.9]]))
    for rows in [4 * torch.cat(seen), torch.as_tensor(plan.actions)[None]]:
        steps = rows.diff(dim=1, prepend=torch.full((len(rows), 1, 1), 3.9))
        assert steps.abs().max() <= 5.0 * robot.model_dt + 1e-5


def test_exploration_noise_is_seeded_and_fades():
    robot = fakes.spec(**of("icem"), trainer={"noise": 0.5, "noise_fade_s": 2.0})
    plans = {s: fakes.planner(robot).plan(fakes.request(START, experience_s=s)) for s in (0.0, 2.0, 1e3)}
    base_actions = plans[1e3].actions
    np.testing.assert_array_equal(fakes.planner(fakes.spec(**of("icem"))).plan(fakes.request(START)).actions, base_actions)
    noise = {s: (p.actions - base_actions) for s, p in plans.items()}
    inside = np.abs(plans[0.0].actions) < 3.99
    np.testing.assert_allclose(noise[2.0][inside], noise[0.0][inside] * np.exp(-1), atol=1e-5)
    assert np.abs(noise[0.0]).max() > 0.1
    np.testing.assert_array_equal(plans[0.0].carry, plans[1e3].carry)  # the next plan starts from the undisturbed one


def test_a_plan_that_hardly_moves_gets_the_noise_that_it_lacks():
    def plan(start, **trainer):
        return fakes.planner(fakes.spec(**of("icem"), trainer=trainer)).plan(fakes.request(start, experience_s=1e3)).actions[:, 0] / 4

    unit = fakes.planner(fakes.spec(**of("icem"))).dither[:10, 0].numpy()
    for start in ([0.02, 0.0], [0.05, 0.0]):
        still, moved = plan(start), plan(start, noise_floor=0.1)
        np.testing.assert_allclose(moved - still, np.sqrt(0.1**2 - still.var()) * unit, atol=1e-5)
    lively = plan(START)
    assert lively.std() > 0.03
    np.testing.assert_array_equal(plan(START, noise_floor=0.03), lively)


@pytest.mark.parametrize("late", [0.0, 0.25, 0.75])
def test_the_noise_of_a_still_plan_is_a_matter_of_the_time_and_not_of_the_plan(late):
    """Without a cost every plan is 0; what is left is the mean of the same noise over whichever cells the plan has."""
    settings = {**of("icem"), "candidates": 4}
    free = fakes.Quadratic(np.zeros((2, 2)), 1e3 * np.eye(1))
    planner = fakes.planner(fakes.spec(**settings, trainer={"noise_floor": 0.1}), cost=free)
    at = (5 + late) * fakes.DT
    actions = planner.plan(fakes.request([0.0, 0.0], seq=7, apply_time=at, state_time=at, experience_s=1e3)).actions[:, 0] / 4
    cells = 0.1 * planner.dither[5:16, 0].numpy()
    np.testing.assert_allclose(actions[:-1], ((1 - late) * cells[:-1] + late * cells[1:])[:9], atol=2e-3)


def test_disagreement_repels_or_attracts():
    """Members agree where the speed is 0 only; without other costs a penalty rests there and a bonus flees."""
    cost = fakes.Quadratic(np.zeros((2, 2)), np.zeros((1, 1)))
    plans = {}
    for weight in (1.0, -1.0):
        model = fakes.double_integrator(offsets=[[0.0, 0.0], [0.0, 0.0]])
        model.poison = lambda after, action: after * torch.tensor([1.0, 0.0])[:, None, None]
        robot = fakes.spec(**of("cem", 64, 5, disagreement=weight))
        plans[weight] = fakes.planner(robot, model, cost).plan(fakes.request([0.0, 0.3]))
    assert np.abs(plans[1.0].actions.sum() * fakes.DT) < 0.5  # it brakes
    assert plans[-1.0].actions.mean() > 1.0
    assert plans[-1.0].cost < -5 < 0 < plans[1.0].cost < 1.5


def test_smoothness_counts_changes_from_the_last_command_on():
    cost = fakes.Quadratic(np.zeros((2, 2)), np.zeros((1, 1)))
    planner = fakes.planner(fakes.spec(**of("cem", smoothness=2.0)), cost=cost)
    problem, _ = planner.prepare(fakes.request(START, sent_time=[-0.02], sent=[[4.0]]), None)
    rows = torch.zeros(1, 10, 1)
    rows[0, 4] = 0.5
    assert planner.score(rows, problem) == pytest.approx(2.0 * (1 + 0.25 + 0.25))
    plans = [fakes.planner(fakes.spec(**of("cem", 64, smoothness=w))).plan(fakes.request(START)) for w in (0.0, 20.0)]
    rough, smooth = (np.abs(np.diff(p.actions, axis=0)).sum() for p in plans)
    assert smooth < 0.5 * rough


def test_delay_is_compensated_in_closed_loop():
    """With its delay known, the plan for a late actuator is the plan for a prompt one, that much later."""
    prompt = fakes.planner(fakes.spec(**of("gradient", 4, 10)))
    late = fakes.planner(fakes.spec(**of("gradient", 4, 10), delays=(0.2, 0.0)))
    state = torch.tensor(START)
    sent = np.array([[1.0], [-2.0]])
    for action in sent:
        state = prompt.model.step(state[None, None], torch.as_tensor(action, dtype=torch.float32)[None]).state[0, 0]
    told = fakes.request(START, sent_time=[-0.2, -0.1], sent=sent)
    np.testing.assert_allclose(late.predict_start(told), state, atol=1e-6)
    then = late.plan(told)
    now = prompt.plan(fakes.request(state.numpy(), sent_time=[-0.1], sent=sent[1:]))
    np.testing.assert_allclose(then.actions, now.actions, atol=1e-4)


YAML = """
name: fake
rate_hz: 50
plan_hz: 25
model_dt: 0.1
state: [{{name: q, unit: m}}, {{name: v, unit: m/s, rate_of: q}}]
command: [{{name: u, unit: N, limits: [-4, 4]}}]
cost: {{kind: quadratic}}
planner: {{kind: {kind}, horizon: 6, candidates: 8, iterations: 2, options: {options}}}
"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_planner_builds_from_yaml_and_refuses_unknown_options(kind, tmp_path):
    assert set(KINDS) == set(parts.kinds("planning"))
    defaults = parts.options("planning", kind, {})

    def built(options):
        path = tmp_path / "fake.yaml"
        path.write_text(YAML.format(kind=kind, options=options))
        return fakes.planner(validate(strict_yaml.read(path)))

    given = {"beta": 0.5} | ({"execute": "best"} if hasattr(defaults, "execute") else {})
    assert built("{" + ", ".join(f"{k}: {v}" for k, v in given.items()) + "}").plan(fakes.request(START)).verdict is Verdict.MET
    with pytest.raises(UserError, match=r"unknown option 'bet'; nearest: 'beta'"):
        built("{bet: 1.0}")
    with pytest.raises(UserError, match=r"option beta = -1"):
        built("{beta: -1.0}")


def test_gradient_refuses_a_model_without_gradients():
    model = fakes.double_integrator()
    model.poison = lambda after, action: torch.as_tensor(after.detach().numpy())
    with pytest.raises(UserError, match=r"'gradient'.*'differences'"):
        fakes.planner(fakes.spec(**of("gradient")), model)
    options = {"gradients": "differences"}
    assert fakes.planner(fakes.spec(**of("gradient", options=options)), model).plan(fakes.request(START)).verdict is Verdict.MET


def test_unknown_planner_names_the_nearest():
    with pytest.raises(ValueError, match=r"nearest: 'icem'"):
        fakes.spec(**of("icme"))


def test_plans_never_leave_the_limits_and_weights_are_normalised():
    for kind in KINDS:
        planner = fakes.planner(fakes.spec(**of(kind)))
        costs = torch.tensor([1.0, float("inf"), 0.5, 3.0, 2.0])
        _, search = planner.prepare(fakes.request(START), None)
        weights = planner.weights(search, costs)
        assert weights.sum() == pytest.approx(1.0)
        assert weights[1] == 0
        assert weights.argmax() == 2 or kind in ("cem", "icem")
        assert np.abs(planner.plan(fakes.request([9.0, 9.0])).actions).max() <= 4.0
    assert weighting.one_hot(costs).tolist() == [0, 0, 1, 0, 0]
    assert isinstance(planner, base.SamplingPlanner)
