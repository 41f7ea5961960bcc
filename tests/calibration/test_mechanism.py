import casadi as ca
import numpy as np
import pytest
from truths import pendulum_spec

from mbrl_calibration import mechanism
from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec

ROBOTS = ("double_pendulum_c1", "cartpole", "pendulum", "simple_pendulum")


def system(spec: RobotSpec) -> ca.Function:
    known = mechanism.equations_of(spec)
    x, u = ca.SX.sym("x", spec.state_dim), ca.SX.sym("u", spec.action_dim)
    return ca.Function("system", [x, u], [known.system.rate(x, u, known.parameters)])


@pytest.mark.parametrize("name", ROBOTS)
def test_lumped_parameters_move_as_the_system_that_they_stand_for(name):
    spec = robot.load(name)
    m = mechanism.build(spec)
    rng, forward = np.random.default_rng(0), mechanism.forward(m, spec.action_dim)
    for _ in range(20):
        x, u = rng.normal(0, 2, spec.state_dim), rng.normal(0, 2, spec.action_dim)
        np.testing.assert_allclose(np.asarray(forward(x, u, m.start)), np.asarray(system(spec)(x, u)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ROBOTS)
def test_the_regressor_is_what_forward_dynamics_leaves_nothing_of(name):
    spec = robot.load(name)
    m = mechanism.build(spec)
    rng, values = np.random.default_rng(1), mechanism.build(spec).start * np.random.default_rng(2).uniform(1.0, 1.1)
    for _ in range(20):
        x, u = rng.normal(0, 2, spec.state_dim), rng.normal(0, 2, spec.action_dim)
        a = np.asarray(mechanism.forward(m, spec.action_dim)(x, u, values)).ravel()[m.count:]
        matrix, target = mechanism.regressor(m, spec.action_dim)(x[: m.count], x[m.count:], a, u)
        np.testing.assert_allclose(np.asarray(matrix) @ values, np.asarray(target).ravel(), atol=1e-9)


@pytest.mark.parametrize("name", ROBOTS)
def test_parameters_of_the_system_come_back_from_lumped_ones(name):
    spec = robot.load(name)
    m = mechanism.build(spec)
    known = mechanism.equations_of(spec).parameters
    for parameter, value in m.system(dict(zip(m.names, m.start, strict=True))).items():
        assert value == pytest.approx(known[parameter], rel=1e-12, abs=1e-15), parameter


def test_other_lumped_parameters_make_a_system_that_has_them():
    spec = robot.load("double_pendulum_c1")
    m = mechanism.build(spec)
    values = m.start * 1.2
    data = spec.model_dump(exclude_unset=True)
    parameters = m.system(dict(zip(m.names, values, strict=True)))
    other = RobotSpec.model_validate({**data, "nominal": {**data["nominal"], "parameters": parameters}})
    np.testing.assert_allclose(mechanism.build(other).start, values, rtol=1e-12)


def test_a_mass_matrix_that_cannot_be_is_found_out():
    m = mechanism.build(robot.load("double_pendulum_c1"))
    values = m.start.copy()
    assert all(float(c) > 0 for c in m.feasible(m.named(values)))
    values[m.names.index("mu2")] *= 3
    q, v, a = (ca.SX.sym(n, 2) for n in "qva")
    mass = ca.Function("mass", [q], [ca.jacobian(m.effort(q, v, a, m.named(values)), a)])
    definite = min(np.linalg.eigvalsh(np.asarray(mass([0.0, q2])))[0] for q2 in np.linspace(0, np.pi, 50)) > 0
    assert not definite
    assert min(float(c) for c in m.feasible(m.named(values))) < 0


@pytest.mark.parametrize(("nominal", "said"), [
    (None, "has no key 'nominal'"),
    ({"system": "pendulom"}, "nominal.system = 'pendulom' cannot be calibrated; nearest: 'pendulum'"),
])
def test_a_robot_without_equations_is_told_so(nominal, said):
    with pytest.raises(UserError, match=said):
        mechanism.build(pendulum_spec(nominal=nominal))
