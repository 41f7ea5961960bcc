"""Known models against physical laws and against each other: energy, periods, gravity, MuJoCo beside CasADi, plant beside model."""

import math

import mujoco
import numpy as np
import pytest
import torch

from mbrl_control import parts, robot
from mbrl_control.errors import UserError
from mbrl_control.models import mjcf
from mbrl_control.models.expressions import SYSTEMS
from mbrl_control.planning.rollout import rollout
from mbrl_sim.plant import MujocoPlant


def known(name, kind="mujoco", dt=None, **options):
    spec = robot.load(name)
    if dt is not None:
        spec = spec.model_copy(update={"model_dt": dt})
    return parts.find("models", kind).build(spec, parts.options("models", kind, options))


def simulate(model, start, actions):
    return model.rollout(torch.tensor(start, dtype=torch.float64), torch.tensor(actions, dtype=torch.float64)).numpy()[0]


def without_friction(model):
    model.mj.dof_damping[:] = 0
    model.mj.dof_frictionloss[:] = 0
    return model


def energies(mj, states):
    """Total energy of [T, S] states whose signals are all positions, then all velocities, in the MJCF's order."""
    mj.opt.enableflags |= int(mujoco.mjtEnableBit.mjENBL_ENERGY)
    data, out = mujoco.MjData(mj), []
    for s in states:
        data.qpos[:], data.qvel[:] = s[: mj.nq], s[mj.nq :]
        mujoco.mj_forward(mj, data)
        out.append(data.energy.sum())
    return np.array(out)


@pytest.mark.parametrize(("name", "start", "scale", "bound"), [
    ("pendulum", [0.5, 0.0], 5.0, 1e-6), ("acrobot", [2.0, 1.0, 0.0, 0.0], 4.0, 2e-3),
])
def test_energy_is_kept_without_friction(name, start, scale, bound):
    model = without_friction(known(name))
    states = simulate(model, start, np.zeros((1, 100, 1)))[0]
    energy = energies(model.mj, states)
    assert np.ptp(states[:, 0]) > 1
    np.testing.assert_allclose(energy, energy[0], atol=bound * scale)


FRICTIONLESS = {"pendulum": {"b": 0.0}, "double_pendulum": {"b1": 0.0, "b2": 0.0, "cf1": 0.0, "cf2": 0.0}}


def double_pendulum_energy(x, p):
    """Energy from the positions of the centres of mass, links and rotors: an independent way to the equations of motion."""
    q1, q2, v1, v2 = x.T
    i1, i2 = p["I1"] - p["m1"] * p["r1"] ** 2, p["I2"] - p["m2"] * p["r2"] ** 2
    vx = p["l1"] * np.cos(q1) * v1 + p["r2"] * np.cos(q1 + q2) * (v1 + v2)
    vy = p["l1"] * np.sin(q1) * v1 + p["r2"] * np.sin(q1 + q2) * (v1 + v2)
    kinetic = (i1 + p["m1"] * p["r1"] ** 2) * v1**2 + i2 * (v1 + v2) ** 2 + p["m2"] * (vx**2 + vy**2)
    kinetic += p["Ir"] * ((p["gr"] * v1) ** 2 + (v1 - p["gr"] * v2) ** 2)
    height = -p["m1"] * p["r1"] * np.cos(q1) - p["m2"] * (p["l1"] * np.cos(q1) + p["r2"] * np.cos(q1 + q2))
    return kinetic / 2 + p["g"] * height


def test_equations_of_the_double_pendulum_keep_its_energy():
    model = known("acrobot", "casadi", system="double_pendulum", parameters=FRICTIONLESS["double_pendulum"], substeps=30)
    energy = double_pendulum_energy(simulate(model, [2.0, 1.0, 3.0, -2.0], np.zeros((1, 66, 1)))[0], model.parameters)
    np.testing.assert_allclose(energy, energy[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["mujoco", "casadi"])
def test_small_swings_of_the_pendulum_have_the_period_of_a_compound_pendulum(kind):
    options = {} if kind == "mujoco" else {"system": "pendulum", "parameters": {"b": 0.0}}
    model = known("pendulum", kind, dt=0.01, **options)
    if kind == "mujoco":
        without_friction(model)
    swing = simulate(model, [math.pi + 0.01, 0.0], np.zeros((1, 450, 1)))[0, :, 0] - math.pi
    crossing = [k + swing[k] / (swing[k] - swing[k + 1]) for k in range(450) if swing[k] > 0 >= swing[k + 1]]
    period = 0.01 * (crossing[1] - crossing[0])
    assert period == pytest.approx(2 * math.pi * math.sqrt(1 / 3 / 5), rel=2e-5)  # + 6e-6 for the amplitude of 0.01 rad


@pytest.mark.parametrize("angle", [0.3, 1.2, -2.0])
def test_torque_against_gravity_holds_the_pendulum(angle):
    torque = -5.0 * math.sin(angle)  # upright falls away, so the holding torque pushes back
    for kind, options in (("mujoco", {}), ("casadi", {"system": "pendulum"})):
        model = known("pendulum", kind, **options)
        if kind == "mujoco":
            model.mj.actuator_ctrlrange[:] = [-20, 20]
        held = simulate(model, [angle, 0.0], np.full((1, 1, 1), torque))
        np.testing.assert_allclose(held[0, 1], [angle, 0.0], atol=1e-9)
        fallen = simulate(model, [angle, 0.0], np.zeros((1, 1, 1)))
        assert fallen[0, 1, 1] == pytest.approx(5.0 * math.sin(angle) * 3 * 0.05, rel=0.05)


def test_gravity_compensation_holds_the_arm_anywhere():
    model = known("arm7")
    pose = np.concatenate((np.random.default_rng(0).uniform(-1.5, 1.5, 7), np.zeros(7)))
    np.testing.assert_allclose(simulate(model, pose, np.zeros((1, 10, 7)))[0, -1], pose, atol=1e-9)
    model.mj.opt.gravity[2] = -1000.0  # whatever gravity is
    np.testing.assert_allclose(simulate(model, pose, np.zeros((1, 10, 7)))[0, -1], pose, atol=1e-9)


@pytest.mark.parametrize(("name", "command"), [("acrobot", "torque2"), ("pendubot", "torque1")])
def test_mujoco_and_the_equations_agree_on_the_double_pendulum(name, command):
    one = known(name, dt=0.05)
    one.mj.dof_frictionloss[:] = 0
    one.mj.opt.timestep, one.substeps = 0.0025, 20
    two = known(name, "casadi", dt=0.05, system="double_pendulum", parameters={"cf1": 0.0, "cf2": 0.0}, substeps=20)
    assert robot.load(name).command_names == (command,)
    rng = np.random.default_rng(0)
    start, actions = rng.normal(0, [2, 2, 3, 3], (20, 4)), rng.uniform(-6, 6, (20, 10, 1))
    np.testing.assert_allclose(simulate(one, start, actions), simulate(two, start, actions), atol=1e-4)


def test_mujoco_and_the_equations_agree_on_the_cart_pole_between_the_rails_ends():
    one, two = known("cartpole"), known("cartpole", "casadi", system="cartpole", substeps=8)
    rng = np.random.default_rng(0)
    start, actions = rng.normal(0, [0.1, 2, 0.2, 2], (20, 4)), rng.uniform(-0.5, 0.5, (20, 12, 1))
    a, b = simulate(one, start, actions), simulate(two, start, actions)
    assert np.abs(a[..., 0]).max() < 1.8
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_dry_friction_of_the_twin_is_the_limit_of_the_identified_law():
    p = SYSTEMS["double_pendulum"].parameters
    mj = known("acrobot").mj
    np.testing.assert_allclose(mj.dof_frictionloss, [p["cf1"] * math.pi / 2, p["cf2"] * math.pi / 2])


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "acrobot", "pendubot", "arm7"])
def test_the_model_is_the_plant_bit_for_bit(name):
    spec = robot.load(name)
    model, plant = known(name), MujocoPlant(spec)
    rng = np.random.default_rng(0)
    for _ in range(5):
        start = np.array(list(plant.start)) + 0.3 * rng.standard_normal(spec.state_dim)
        command = rng.uniform(spec.action_low, spec.action_high)
        ahead = model.step(torch.tensor(start)[None, None], torch.tensor(command)[None]).state.numpy()[0, 0]
        plant.place(start)
        np.testing.assert_array_equal(ahead, plant.step(command, spec.model_dt))


@pytest.mark.parametrize(("kind", "options"), [("mujoco", {}), ("mujoco", {"threads": 2}), ("casadi", {"system": "cartpole"})])
def test_a_rollout_is_its_steps_whatever_the_batch(kind, options):
    model = known("cartpole", kind, **options)
    rng = np.random.default_rng(0)
    start, actions = torch.tensor(rng.normal(0, 1, (7, 4))), torch.tensor(rng.uniform(-1, 1, (7, 5, 1)))
    whole = rollout(model, start, actions)
    assert whole.shape == (1, 7, 6, 4)
    assert whole.dtype == torch.float64
    state = start[None]
    for k in range(5):
        state = model.step(state, actions[:, k]).state
        np.testing.assert_allclose(state, whole[:, :, k + 1], atol=1e-12)
    np.testing.assert_array_equal(rollout(model, start[3], actions[3:4])[0, 0], whole[0, 3])
    assert model.step(start[None].float(), actions[None, :, 0].float()).state.dtype == torch.float32
    assert (model.members, model.version, model.scale().tolist()) == (1, 1, [1.0] * 4)


def test_rows_that_become_unstable_are_nan_and_leave_the_others_alone():
    model = known("pendulum")
    start = torch.tensor([[1.0, 0.0], [1.0, 1e12], [1.0, 0.0]], dtype=torch.float64)
    actions = torch.ones((3, 4, 1), dtype=torch.float64)
    states = model.rollout(start, actions)[0]
    assert torch.isnan(states[1, 1:]).all()
    assert torch.isfinite(states[[0, 2]]).all()
    np.testing.assert_array_equal(states[0], states[2])
    np.testing.assert_array_equal(states[0], model.rollout(start[:1], actions[:1])[0, 0])


@pytest.mark.parametrize("kind", ["mujoco", "casadi"])
def test_wrong_shapes_are_refused(kind):
    model = known("cartpole", kind)
    for start, actions in (((3,), (5, 2, 1)), ((4,), (5, 2, 2)), ((4, 4), (5, 2, 1)), ((4,), (5, 1))):
        with pytest.raises(UserError, match=r"wanted \[4\] or \[N, 4\] and \[N, H, 1\]"):
            model.rollout(torch.zeros(start), torch.zeros(actions))
    for state, action in (((2, 3, 4), (3, 1)), ((1, 3, 4), (2, 1)), ((3, 4), (3, 1)), ((1, 3, 3), (3, 1))):
        with pytest.raises(UserError, match=r"wanted \[1, N, 4\] and \[N, 1\]"):
            model.step(torch.zeros(state), torch.zeros(action))


@pytest.mark.parametrize(("kind", "options", "words"), [
    ("mujoco", {"threads": -1}, "threads = -1"),
    ("mujoco", {"mjcf": "pendulm.xml"}, "nearest: 'pendulum.xml'"),
    ("mujoco", {"mjcf": "pendulum.xml"}, "no joint 'slider'; nearest: 'pivot'"),
    ("casadi", {"system": "cart_pole"}, "nearest: 'cartpole'"),
    ("casadi", {"substeps": 0}, "substeps = 0"),
    ("casadi", {"parameters": {"m_car": 1.0}}, "no parameter 'm_car'; nearest: 'm_cart'"),
    ("casadi", {"system": "pendulum"}, "option 'states' must give the signal"),
    ("casadi", {"states": ["x", "theta", "x_dot", "x_dot"]}, "option 'states' must give the signal"),
    ("casadi", {"inputs": [""]}, "use all of force"),
])
def test_options_that_do_not_fit_are_one_clear_error(kind, options, words):
    with pytest.raises(UserError, match=words):
        known("cartpole", kind, **options)


def test_a_joint_that_is_not_measured_is_refused_by_the_model_but_not_by_the_plant():
    spec = robot.load("cartpole")
    blind = spec.model_copy(update={"state": spec.state[1:]})
    with pytest.raises(UserError, match="does not measure position and velocity of joint slider"):
        parts.find("models", "mujoco").build(blind, parts.options("models", "mujoco", {}))
    assert MujocoPlant(blind).state().shape == (3,)


def test_states_and_inputs_are_mapped_by_name_whatever_their_order():
    spec = robot.load("cartpole")
    back = spec.model_copy(update={"state": list(reversed(spec.state))})
    build = parts.find("models", "casadi").build
    options = parts.options("models", "casadi", {})
    a, b = build(spec, options), build(back, options)
    start, actions = np.array([0.1, 1.0, -0.4, 2.0]), np.full((2, 3, 1), 0.7)
    np.testing.assert_array_equal(simulate(a, start, actions), simulate(b, start[::-1].copy(), actions)[..., ::-1])


def test_assets_that_ship_all_compile():
    for path in mjcf.assets().glob("*.xml"):
        assert mjcf.read(path).nu > 0
