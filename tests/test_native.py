"""Native rollouts: the same numbers as the definition in torch, in every shape, and torch in their place where they cannot be had."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mbrl_control import robot, strict_yaml
from mbrl_control.costs import base as costs
from mbrl_control.costs.base import Squares
from mbrl_control.data.sequences import Sequences
from mbrl_control.models import ensemble, native, slopes
from mbrl_control.planning import base as planning
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.planning.rollout import rollout

YAML = """
name: arm
rate_hz: 50
model_dt: 0.05
state:
  - {name: x, joint: a, unit: m}
  - {name: q, joint: b, unit: rad, wraps: true}
  - {name: p, joint: c, unit: rad, wraps: true}
  - {name: v, joint: a, field: velocity, unit: m/s, rate_of: x}
  - {name: w, joint: b, field: velocity, unit: rad/s, rate_of: q}
command:
  - {name: u, unit: N, limits: [-1, 1]}
  - {name: t, unit: N*m, limits: [-2, 2]}
cost: {kind: quadratic, options: {weight: {q: 1.0, w: 0.1}}}
model: {members: 3, hidden: HIDDEN}
planner: {horizon: 12, candidates: 64, iterations: 3}
"""
SQUARES = Squares(np.linspace(-1, 1, 7).astype(np.float32), np.linspace(0.1, 2, 7).astype(np.float32), 2.5)
needs_native = pytest.mark.skipif(native.kernel() is None, reason="no compiler, or native code is switched off")
needs_bf16 = pytest.mark.skipif(native.kernel() is None or not native.kernel().mbrl_has_bf16(), reason="no bfloat16 products here")


def model_of(hidden=(24, 24), **options) -> ensemble.Ensemble:
    spec = robot.validate(strict_yaml.parse(YAML.replace("HIDDEN", str(list(hidden))), "arm.yaml"))
    model = ensemble.build(spec, ensemble.Options(**options))
    rng = np.random.default_rng(0)
    state = rng.normal(size=(200, 2, 5)) * [1, 2, 2, 1, 3]
    state[:, 1] = state[:, 0] + rng.normal(size=(200, 5)) * 0.1
    model.fit(Sequences(state, rng.uniform(-1, 1, (200, 1, 2)), np.arange(200) * 0.05), rng, epochs=2)
    return model


def case(rows, horizon=9, seed=0):
    rng = np.random.default_rng(seed)
    start = torch.tensor(rng.normal(size=5) * [1, 3, 3, 1, 5], dtype=torch.float32)
    return start, torch.tensor(rng.uniform(-1, 1, (rows, horizon, 2)), dtype=torch.float32)


def priced(paths, actions):
    """[E] what paths [E, H + 1, 5] under commands [H, 2] cost by SQUARES."""
    target, weight = torch.tensor(SQUARES.target), torch.tensor(SQUARES.weight)
    states = (paths[:, 1:] - target[:5]).square() @ weight[:5]
    return states.sum(-1) + ((actions - target[5:]).square() @ weight[5:]).sum() + SQUARES.end * states[:, -1]


def by_steps(model, start, actions, propagation):
    """The definition: `step` again and again."""
    state, path = start.expand(model.members, len(actions), -1), []
    for k in range(actions.shape[1]):
        path.append(state[:1] if propagation == "mean" else state)
        state = model.step(state, actions[:, k]).state
        if propagation == "mean":
            state = state.mean(0, keepdim=True).expand(model.members, -1, -1)
    path.append(state[:1] if propagation == "mean" else state)
    return torch.stack(path, 2)


@needs_native
@pytest.mark.parametrize("propagation", ["mean", "tsinf"])
@pytest.mark.parametrize(("hidden", "options"), [
    ((24, 24), {}), ((16,), {"integrate": False}), ((128, 128), {"linear": True, "friction": 0.2}), ((40, 7, 200), {"friction": 0.5}),
    ((33, 64, 128, 20), {"elites": 2}),
])
def test_float32_is_the_definition(hidden, options, propagation):
    model = model_of(hidden, **options)
    start, actions = case(21)
    with torch.inference_mode():
        made = model.rollout(start, actions, propagation)
        assert made is not None
        torch.testing.assert_close(made, by_steps(model, start, actions, propagation), rtol=1e-4, atol=1e-4)


@needs_native
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 24, 25, 40, 64, 72, 131])
def test_every_number_of_rows(rows):
    model = model_of()
    start, actions = case(rows)
    with torch.inference_mode():
        made = model.rollout(start, actions, "tsinf")
        torch.testing.assert_close(made, by_steps(model, start, actions, "tsinf"), rtol=1e-4, atol=1e-4)


@needs_native
@pytest.mark.parametrize("own", [False, True], ids=["one start", "a start for each row"])
@pytest.mark.parametrize("propagation", ["mean", "tsinf"])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
def test_rows_do_not_know_of_each_other(dtype, propagation, own):
    """Few rows go another way through the processor than many: every row's bits are the same in blocks of any size."""
    model = model_of((40, 24), friction=0.5)
    model.prepare(dtype)
    start, actions = case(131)
    start = start + torch.linspace(-1, 1, 131)[:, None] if own else start
    with torch.inference_mode():
        together, dear = model.rollout(start, actions, propagation), model.price(start, actions, propagation, SQUARES)
        for first, count in ((0, 1), (3, 8), (5, 15), (20, 16), (7, 33), (60, 64), (130, 1)):
            some = slice(first, first + count)
            here = start[some] if own else start
            assert torch.equal(model.rollout(here, actions[some], propagation), together[:, some])
            assert torch.equal(model.price(here, actions[some], propagation, SQUARES), dear[:, some])


@needs_native
@pytest.mark.parametrize("propagation", ["mean", "tsinf"])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize("rows", [1, 12, 131])
def test_prices_are_those_of_the_paths(rows, dtype, propagation):
    model = model_of()
    model.prepare(dtype)
    start, actions = case(rows)
    with torch.inference_mode():
        path = model.rollout(start, actions, propagation)
        made = model.price(start, actions, propagation, SQUARES)
    wanted = torch.stack([priced(path[:, n], actions[n]) for n in range(rows)], 1)
    assert made.shape == wanted.shape
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


@needs_native
def test_a_robot_whose_cost_is_squares_is_priced_on_the_way_and_others_by_their_paths():
    """With a wrapping angle in the cost, members' disagreement or a range to keep, a plan takes the paths; the candidates cost the same."""
    plain = YAML.replace("weight: {q: 1.0, w: 0.1}", "target: {x: 1.0}, weight: {x: 1.0, w: 0.1}, effort: {u: 0.2}, terminal: 3.0")
    disagreeing = plain.replace("planner: {", "planner: {disagreement: 0.1, ")
    ranged = plain.replace("unit: m}", "unit: m, range: [-0.5, 0.5]}")
    for text, priced in ((plain, True), (YAML, False), (disagreeing, False), (ranged, False)):
        spec = robot.validate(strict_yaml.parse(text.replace("HIDDEN", "[24, 24]"), "arm.yaml"))
        model, cost = model_of(), costs.build(spec)
        planner = planning.build(spec, model, cost, 0)
        asked, price = [], model.price
        model.price = lambda *given, asked=asked, price=price: asked.append(1) or price(*given)
        start, _ = case(1)
        with torch.inference_mode():
            problem, _ = planner.prepare(PlanRequest(0, start.numpy().astype(np.float64), 0.0, 0.02, np.zeros(0), np.zeros((0, 2))), None)
            candidates = torch.rand(50, 12, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
            made = planner.score(candidates, problem)
            assert bool(asked) == priced
            model.price = lambda *_: None
            torch.testing.assert_close(made, planner.score(candidates, problem), rtol=1e-4, atol=1e-5)


@needs_native
def test_a_price_without_native_code_takes_the_paths():
    model, large, (start, actions) = model_of(), model_of((1040,)), case(4)
    assert model.price(start, actions, "tsinf", SQUARES) is None, "gradients are on"
    with torch.inference_mode():
        assert model.price(start, actions, "ts1", SQUARES) is None
        assert large.price(start, actions, "tsinf", SQUARES) is None


@needs_native
@pytest.mark.parametrize("apart", [False, True], ids=["one set of states", "a set for each member"])
@pytest.mark.parametrize(("hidden", "options"), [
    ((24, 24), {}), ((16,), {"integrate": False}), ((128, 128), {"linear": True, "friction": 0.2}), ((40, 7, 200), {"friction": 0.5}),
    ((33, 64, 128, 20), {"elites": 2}),
])
def test_slopes_are_those_that_autograd_finds(hidden, options, apart):
    model = model_of(hidden, **options)
    rng = np.random.default_rng(3)
    states = torch.tensor(rng.normal(size=(model.members if apart else 1, 11, 5)) * [1, 3, 3, 1, 2], dtype=torch.float32)
    actions = torch.tensor(rng.uniform(-1, 1, (11, 2)), dtype=torch.float32)
    with torch.inference_mode():
        made = model.slopes(states, actions)
        assert made is not None
        wanted = slopes.by_autograd(model, states.expand(model.members, -1, -1), actions)
    for ours, theirs in zip(made, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@needs_native
def test_slopes_of_a_robot_with_more_signals_than_the_kernel_has_rows():
    """Seven joints and seven motors: 21 inputs, in three passes; and a precise twin with its mirror images."""
    joints = "".join(f"  - {{name: q{i}, joint: j{i}, unit: rad, wraps: true}}\n" for i in range(7))
    joints += "".join(f"  - {{name: w{i}, joint: j{i}, field: velocity, unit: rad/s, rate_of: q{i}}}\n" for i in range(7))
    commands = "".join(f"  - {{name: t{i}, unit: N*m, limits: [-1, 1]}}\n" for i in range(7))
    mirror = ", ".join([*(f"q{i}" for i in range(7)), *(f"w{i}" for i in range(7)), *(f"t{i}" for i in range(7))])
    text = (f"name: arm7\nrate_hz: 50\nmodel_dt: 0.05\nstate:\n{joints}command:\n{commands}"
            "cost: {kind: quadratic, options: {weight: {q0: 1.0}}}\n"
            f"model: {{members: 2, hidden: [48, 48], mirror: [{mirror}]}}\nplanner: {{horizon: 5, candidates: 8, iterations: 1}}\n")
    model = ensemble.build(robot.validate(strict_yaml.parse(text, "arm7.yaml")))
    rng = np.random.default_rng(0)
    state = rng.normal(size=(100, 2, 14))
    model.fit(Sequences(state, rng.uniform(-1, 1, (100, 1, 7)), np.arange(100) * 0.05), rng, epochs=1)
    model.prepare(torch.bfloat16)
    exact = model.precise()
    states, actions = torch.tensor(state[:6, 0], dtype=torch.float32)[None], torch.tensor(rng.uniform(-1, 1, (6, 7)), dtype=torch.float32)
    with torch.inference_mode():
        made = exact.slopes(states, actions)
        wanted = slopes.by_autograd(exact, states.expand(4, -1, -1), actions)
    for ours, theirs in zip(made, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@needs_bf16
def test_slopes_in_bfloat16_are_left_to_torch():
    model = model_of()
    model.prepare(torch.bfloat16)
    start, actions = case(3, 1)
    with torch.inference_mode():
        assert model.slopes(start.expand(1, 3, -1), actions[:, 0]) is None
        by_state, by_action = slopes.found(model, start.expand(1, 3, -1), actions[:, 0], torch.ones(2), smooth=True)
    assert by_state.shape == (3, 3, 5, 5)
    assert by_action.shape == (3, 3, 5, 2)


@needs_native
def test_each_row_may_have_a_start_of_its_own():
    model = model_of()
    start, actions = case(11)
    starts = start + torch.linspace(-1, 1, 11)[:, None]
    with torch.inference_mode():
        made = rollout(model, starts, actions, "tsinf")
        torch.testing.assert_close(made, by_steps(model, starts, actions, "tsinf"), rtol=1e-4, atol=1e-4)


@needs_bf16
@pytest.mark.parametrize("propagation", ["mean", "tsinf"])
def test_bfloat16_is_as_far_from_float32_as_its_rounding_explains(propagation):
    """Torch's path in bfloat16 is the yardstick; it rounds the hidden layers only, the kernel the last one too."""
    model = model_of((128, 128))
    start, actions = case(40)
    with torch.inference_mode():
        exact = by_steps(model, start, actions, propagation)
    model.prepare(torch.bfloat16)
    with torch.inference_mode():
        made, theirs = model.rollout(start, actions, propagation), by_steps(model, start, actions, propagation)
    ours, yardstick = ((a - exact).square().mean().sqrt() for a in (made, theirs))
    assert 0 < ours < 2 * yardstick


@needs_bf16
def test_in_bfloat16_far_from_zero_is_as_well_known_as_near_it():
    """Eight bits of 400 m are two metres: what the first layer is given must not be rounded so.

    Torch's path, which keeps the first layer in float32, is the yardstick; the data, and with it the model, is moved out along x.
    """
    model = model_of((128, 128))
    start, actions = case(40)
    far = torch.tensor([400.0, 0, 0, 0, 0])
    moved = model._norm.input_mean.clone()
    moved[0] += 400.0
    model._norm = dataclasses.replace(model._norm, input_mean=moved)
    model.prepare(torch.float32)
    with torch.inference_mode():
        exact = by_steps(model, start + far, actions, "tsinf")
    model.prepare(torch.bfloat16)
    with torch.inference_mode():
        made, theirs = model.rollout(start + far, actions, "tsinf"), by_steps(model, start + far, actions, "tsinf")
    ours, yardstick = ((a - exact)[..., 1:].square().mean().sqrt() for a in (made, theirs))
    assert 0 < ours < 2 * yardstick


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_far_from_zero_are_their_limits(dtype):
    """SiLU is 0 far below zero and the identity far above: first-layer biases of +-1000 must do no more than shift the output."""
    model = model_of((16,), friction=0.001)
    with torch.no_grad():
        model._weights[1][:, :, ::2], model._weights[1][:, :, 1::2] = 1000.0, -1000.0
        model._weights[2] *= 1e-3
    model.prepare(dtype)
    start, actions = case(12)
    with torch.inference_mode():
        made, wanted = model.rollout(start, actions, "tsinf"), by_steps(model, start, actions, "tsinf")
    assert torch.isfinite(made).all()
    torch.testing.assert_close(made, wanted, rtol=2e-2, atol=2e-2)


@needs_native
def test_angles_are_right_many_turns_from_zero():
    model = model_of()
    start, actions = case(5, horizon=1)
    far = start.clone()
    far[1] += 200 * math.pi
    with torch.inference_mode():
        near, there = (model.rollout(s, actions, "tsinf")[:, :, 1, 3:] for s in (start, far))
    torch.testing.assert_close(near, there, rtol=1e-3, atol=1e-3)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_what_is_not_finite_does_not_come_out_as_a_number(bad, dtype):
    model = model_of()
    model.prepare(dtype)
    start, actions = case(9)
    actions[4, 2, 0] = bad
    with torch.inference_mode():
        path = rollout(model, start, actions, "tsinf")
    assert torch.isfinite(path[:, :4]).all()
    assert torch.isfinite(path[:, 5:]).all()
    assert not torch.isfinite(path[:, 4, -1]).all(1).any() or abs(bad) == 3e38


@needs_native
def test_new_weights_are_used_at_once_and_in_place():
    model, other = model_of(), model_of(linear=False, learning_rate=1e-2)
    start, actions = case(9)
    with torch.inference_mode():
        before = model.rollout(start, actions, "mean")
        held = model._native
        addresses = [array.ctypes.data for array in held._packed]
    model.load(other.snapshot())
    with torch.inference_mode():
        after = model.rollout(start, actions, "mean")
        assert torch.equal(after, other.rollout(start, actions, "mean"))
    assert not torch.equal(before, after)
    assert model._native is held
    assert addresses == [array.ctypes.data for array in held._packed]


@needs_native
def test_gradients_and_shuffled_members_go_through_torch():
    model = model_of()
    start, actions = case(4, horizon=3)
    assert model.rollout(start, actions, "tsinf") is None, "gradients are on"
    with torch.inference_mode():
        assert model.rollout(start, actions, "ts1") is None
    actions.requires_grad_()
    rollout(model, start, actions, "mean").sum().backward()
    assert actions.grad.abs().sum() > 0


@needs_native
def test_a_network_too_large_for_the_kernel_goes_through_torch():
    model = model_of((1040,))
    start, actions = case(3, horizon=2)
    with torch.inference_mode():
        assert model.rollout(start, actions, "tsinf") is None
        assert rollout(model, start, actions, "tsinf").shape == (3, 3, 3, 5)


@needs_bf16
def test_a_plan_in_bfloat16_is_nearly_as_good_as_one_in_float32():
    """Both plans judged by the float32 model: within 3 % of what planning gains over doing nothing."""
    model = model_of((128, 128), linear=True)
    spec, gains, losses = model.spec, [], []
    cost = costs.build(spec)

    def judged(actions):
        model.prepare(torch.float32)
        with torch.inference_mode():
            states = rollout(model, start, actions, "tsinf")
            return float((cost.stage(states[:, :, 1:], actions[None]).sum(-1) + cost.terminal(states[:, :, -1])).mean())

    for seed in range(6):
        start = case(1, seed=seed)[0]
        request = PlanRequest(seed, start.numpy().astype(np.float64), 0.0, 0.02, np.zeros(0), np.zeros((0, 2)))
        found = {}
        for dtype in (torch.float32, torch.bfloat16):
            model.prepare(dtype)
            plan = planning.build(spec, model, cost, seed).plan(request)
            found[dtype] = judged(torch.tensor(plan.actions, dtype=torch.float32)[None])
        gains.append(judged(torch.zeros(1, spec.planner.horizon, 2)) - found[torch.float32])
        losses.append(found[torch.bfloat16] - found[torch.float32])
    assert np.mean(gains) > 0
    assert abs(np.mean(losses)) < 0.03 * np.mean(gains)
