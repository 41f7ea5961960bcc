"""The grey-box ensemble: the physics is CasADi's, the networks learn the rest, and snapshots stay with their equations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mbrl_control import parts, robot
from mbrl_control.costs import base as costs
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.models import casadi, ensemble, greybox, slopes
from mbrl_control.models.expressions import SYSTEMS
from mbrl_control.part_checks import check_parts
from mbrl_control.planning import base as planning
from mbrl_control.planning.rollout import rollout
from mbrl_control.robot import RobotSpec
from mbrl_control.schema import NominalSpec
from mbrl_control.store import snapshot as files

NOMINAL = sorted(name for name in robot.shipped() if robot.load(name).nominal)
pytestmark = pytest.mark.usefixtures("one_thread")


def spec_of(name: str = "pendulum", kind: str = "greybox", mirror: bool = True, **parameters: float) -> RobotSpec:
    spec = robot.load(name)
    model = {"kind": kind, "members": 3, "hidden": [16, 16], "options": {}, **({} if mirror else {"mirror": []})}
    nominal = spec.nominal.model_copy(update={"parameters": {**spec.nominal.parameters, **parameters}})
    return spec.model_copy(update={"model": spec.model.model_copy(update=model), "nominal": nominal})


def data(spec: RobotSpec, count: int, steps: int = 1, seed: int = 0, **parameters: float) -> Sequences:
    """What the equations with other parameters do, from random states."""
    rng = np.random.default_rng(seed)
    truth = casadi.build(spec, casadi.Options(parameters=parameters, substeps=8))
    state = rng.normal(size=(count, spec.state_dim)) * [2.0, 3.0]
    action = rng.uniform(spec.action_low, spec.action_high, (count, steps, spec.action_dim))
    return Sequences(np.concatenate([state[:, None], truth.simulate(state, action)], 1), action, np.arange(count) * spec.model_dt)


def fitted(spec: RobotSpec | None = None, epochs: int = 3, seed: int = 0, **options: object) -> greybox.GreyBox:
    spec = spec or spec_of()
    model = greybox.build(spec, greybox.Options(**options))
    model.fit(data(spec, 400, model.stretch, b=0.3), np.random.default_rng(seed), epochs=epochs)
    return model


def some(model: ensemble.Ensemble, count: int = 9, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rows = data(model.spec, count, seed=seed)
    state = torch.tensor(rows.state[:, 0], dtype=torch.float32).expand(model.members, -1, -1).contiguous()
    return state, torch.tensor(rows.action[:, 0]).float()


@pytest.mark.parametrize("name", NOMINAL)
def test_the_prior_is_the_nominal_model(name):
    """Against Runge-Kutta of order 4 in CasADi; the error falls with the square of the substep, and float32 rounds."""
    system = SYSTEMS[robot.load(name).nominal.system]
    spec = spec_of(name, mirror=False, **{p: 0.0 for p in system.parameters if p.startswith("cf")})  # dry friction is no smooth function
    exact = casadi.build(spec, casadi.Options(substeps=40))
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(60, spec.state_dim)) * 0.7, rng.uniform(-0.5, 0.5, (60, spec.action_dim))
    after = exact.simulate(state, action[:, None])[:, 0]
    given = torch.tensor(state), torch.tensor(action)
    coarse, fine = (np.abs(greybox.Nominal(spec, n)(*given).numpy() - after).max() for n in (4, 8))
    assert fine < 1e-3 * np.abs(after - state).max()
    assert coarse / fine == pytest.approx(4.0, rel=0.3)
    single = greybox.Nominal(spec, 8)(given[0].float(), given[1].float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), greybox.Nominal(spec, 8)(*given).numpy(), atol=2e-5)


def test_signals_and_inputs_are_mapped_by_name_and_what_is_not_driven_is_zero():
    spec = spec_of("double_pendulum_c1", mirror=False)
    one = spec.model_copy(update={"command": spec.command[1:], "nominal": spec.nominal.model_copy(update={"inputs": ["", "tau2"]})})
    turned = spec.model_copy(update={"state": [spec.state[i] for i in (2, 0, 3, 1)]})
    rng = np.random.default_rng(0)
    state, action = torch.tensor(rng.normal(size=(20, 4))), torch.tensor(rng.normal(size=(20, 2)))
    action[:, 0] = 0.0
    whole = greybox.Nominal(spec, 2)(state, action)
    torch.testing.assert_close(greybox.Nominal(one, 2)(state, action[:, 1:]), whole)
    torch.testing.assert_close(greybox.Nominal(turned, 2)(state[:, [2, 0, 3, 1]], action), whole[:, [2, 0, 3, 1]])


def test_dry_friction_does_not_ring_nor_do_gradients_explode():
    """atan(100 v) decays at some 900 / s: at rest, without gravity, a small rate dies out within steps of 20 ms, and so do its slopes."""
    spec = spec_of("double_pendulum_c1", mirror=False, g=0.0)
    prior = greybox.Nominal(spec, greybox.Options().substeps)
    state = torch.tensor([[0.1, 0.2, 1e-3, -1e-3]], dtype=torch.float64)
    action = torch.zeros(1, 2, dtype=torch.float64)
    slope, _ = torch.autograd.functional.jacobian(prior, (state, action))
    assert slope[0, :, 0].abs().max() < 1.5
    for _ in range(10):
        state = prior(state, action)
    assert state[0, 2:].abs().max() < 1e-4


@pytest.mark.parametrize("straight", [False, True])
def test_a_step_is_physics_and_residual(straight):
    """Normalise, network, scale back, trapezoid rule, on top of the physics: step by step in float64."""
    model = fitted(friction=0.3, linear=straight)
    state, action = some(model)
    norm, weights = model._norm, [w.double() for w in model._weights]
    actions = action.expand(3, -1, -1)
    features = torch.cat((state, state[..., :1].sin(), state[..., :1].cos(), actions, (state[..., 1:] / 0.3).tanh()), -1).double()
    out = ensemble.network.forward(weights, (features - norm.input_mean) * norm.input_inverse)
    z = out[..., :2] * norm.target_scale + norm.target_mean
    residual = torch.stack([model.dt / 2 * z[..., 1] + z[..., 0], z[..., 1]], -1)
    wanted = greybox.Nominal(model.spec, 2)(state.double(), actions.double()) + residual
    torch.testing.assert_close(model.step(state, action).state.double(), wanted, rtol=1e-5, atol=1e-5)


def test_targets_are_what_the_step_adds_to_the_physics():
    spec = spec_of()
    model, same = greybox.build(spec), data(spec, 50)
    z = model.encoding.targets(*(torch.tensor(a) for a in (same.state[:, 0], same.action[:, 0], same.state[:, 1])))
    assert z.abs().max() < 2e-3, "the data follow the nominal equations"
    damped = data(spec, 50, b=0.3)
    state, action, following = (torch.tensor(a) for a in (damped.state[:, 0], damped.action[:, 0], damped.state[:, 1]))
    z = model.encoding.targets(state, action, following)
    torch.testing.assert_close(model.encoding.base(state, action) + z @ model.encoding.spread.double(), following)
    # Friction that the equations lack: dv = -b v dt / I, with I = 1 / 3.
    np.testing.assert_allclose(z[:, 1], -0.3 * 3 * spec.model_dt * (state + following)[:, 1] / 2, atol=0.03)


def test_little_data_is_enough_where_the_physics_is_nearly_right():
    """Less than half a plain ensemble's error from 60 transitions of a pendulum with friction that the equations lack."""
    errors = {}
    held = data(spec_of(), 200, 10, seed=9, b=0.3)
    for kind in ("greybox", "ensemble"):
        spec = spec_of(kind=kind)
        model = parts.find("models", kind).build(spec)
        model.fit(data(spec, 60, b=0.3), np.random.default_rng(0), updates=150)
        state = torch.tensor(held.state[:, 0]).float().expand(3, -1, -1)
        for k in range(10):
            state = model.step(state, torch.tensor(held.action[:, k]).float()).state
        errors[kind] = float((state.mean(0) - torch.tensor(held.state[:, 10])).square().mean().sqrt())
    assert errors["greybox"] < 0.5 * errors["ensemble"]


def test_a_stretch_is_learned_from_through_the_physics():
    model = greybox.build(spec_of(), greybox.Options(stretch=5))
    held, rng = data(model.spec, 100, 5, seed=7, b=0.3), np.random.default_rng(0)
    first = model.fit(data(model.spec, 300, 5, b=0.3), rng, epochs=1, holdout=held)
    second = model.fit(data(model.spec, 300, 5, b=0.3), rng, updates=60, holdout=held)
    assert second["holdout_mse"] < 0.7 * first["holdout_mse"]


def test_equal_generators_give_equal_bits():
    one, two = fitted(seed=1), fitted(seed=1)
    for name, array in one.snapshot().weights.items():
        assert np.array_equal(array, two.snapshot().weights[name]), name


def test_rollouts_planners_and_slopes_have_the_physics():
    model = fitted()
    state, action = some(model)
    actions = action[:, None].expand(-1, 4, -1)
    with torch.inference_mode():
        assert model.rollout(state[0], actions, "tsinf") is None, "native code has no physics"
        path = rollout(model, state[0], actions, "tsinf")
        torch.testing.assert_close(path[:, :, 1], model.step(state, action).state)
    assert slopes.differentiable(model, model.spec)
    by_state, by_action = slopes.by_autograd(model, state, action)
    there, here = slopes.by_differences(_Double(model), state, action, torch.ones(1))
    torch.testing.assert_close(by_state, there, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(by_action, here, rtol=2e-2, atol=2e-2)
    spec = model.spec
    planner = planning.build(spec, model, costs.build(spec), 0)
    assert planner.model is model


class _Double:
    """Steps of a model from states in double precision, as finite differences want them."""

    def __init__(self, model: greybox.GreyBox) -> None:
        self.model = model

    def step(self, state: torch.Tensor, action: torch.Tensor) -> ensemble.Step:
        return ensemble.Step(self.model.step(state.float(), action.float()).state.double())


def test_the_precise_twin_is_exactly_symmetric():
    model = fitted()
    exact = model.precise()
    rest = exact.step(torch.zeros(exact.members, 1, 2), torch.zeros(1, 1)).state
    assert exact.members == 2 * model.members
    assert rest.mean(0).abs().max() < 1e-6 < rest.abs().max()
    state, action = some(model)
    assert torch.equal(exact.step(state.repeat(2, 1, 1), action).state[:3], model.step(state, action).state)


def test_a_twin_on_another_device_has_the_physics():
    model = fitted()
    twin = model.on(torch.device("cpu"))
    twin.follow(model)
    state, action = some(model)
    assert torch.equal(twin.step(state, action).state, model.step(state, action).state)


def test_snapshots_go_round_by_files(tmp_path):
    model, other = fitted(), fitted(seed=3)
    files.write(tmp_path / "m", model.snapshot())
    other.load(files.read(tmp_path / "m", model.spec.hash))
    assert torch.equal(model.step(*some(model)).state, other.step(*some(model)).state)
    other.resume(model.moments())


def test_a_snapshot_of_other_equations_is_refused_and_leaves_the_model_as_it_was():
    model = fitted()
    good, before = model.snapshot(), model.step(*some(model)).state
    heavier = greybox.build(spec_of(m=1.2))
    with pytest.raises(SnapshotError, match="another robot or model"):
        heavier.load(good)
    # The same YAML, but the system's own defaults were others when it was fitted.
    nominal = good.weights["nominal"].copy()
    nominal[list(model.nominal.parameters).index("g")] = 9.81
    with pytest.raises(SnapshotError, match=r"equations with g = 9.81, not 10 as 'pendulum' has now"):
        model.load(dataclasses.replace(good, weights={**good.weights, "nominal": nominal}))
    with pytest.raises(SnapshotError, match="of kind 'ensemble', not 'greybox'"):
        model.load(dataclasses.replace(good, kind="ensemble"))
    with pytest.raises(SnapshotError, match="array 'nominal'"):
        model.load(dataclasses.replace(good, weights={n: a for n, a in good.weights.items() if n != "nominal"}))
    assert torch.equal(model.step(*some(model)).state, before)


def test_equations_count_in_the_hash_of_a_grey_box_alone():
    plain, heavy, unknown = spec_of(kind="ensemble"), spec_of(kind="ensemble", m=1.2), spec_of(kind="ensemble")
    assert plain.hash == heavy.hash == unknown.model_copy(update={"nominal": None}).hash
    assert spec_of().hash != spec_of(m=1.2).hash
    sensor = NominalSpec(**{**spec_of().nominal.model_dump(), "known": ["b"]})
    assert spec_of().model_copy(update={"nominal": sensor}).hash == spec_of().hash, "what is fitted does not change what is right"


def test_a_robot_without_equations_or_with_wrong_ones_is_told_before_anything_starts():
    spec = spec_of()
    for changed, words in ((None, "robot 'pendulum' has no key 'nominal'"),
                           (NominalSpec(system="pendulm"), "system = 'pendulm' is not known; nearest: 'pendulum'"),
                           (NominalSpec(system="pendulum", parameters={"mass": 1.0}), "no parameter 'mass'")):
        wrong = spec.model_copy(update={"nominal": changed})
        for ask in (greybox.build, check_parts):
            with pytest.raises(UserError, match=words):
                ask(wrong)


def test_equations_that_are_not_symmetric_are_told():
    with pytest.raises(UserError, match=r"model.mirror = .* is no symmetry of the nominal equations: one step ahead 'theta_dot'"):
        greybox.build(spec_of(offset=0.2))
    greybox.build(spec_of(mirror=False, offset=0.2))
