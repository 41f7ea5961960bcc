"""Stribeck friction, dead band, saturation and gain: what was put into made-up logs is found, or told to be undetermined."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest
import torch
from truths import multisine, run_of, simulate

from mbrl_calibration import dynamics, mechanism, regression
from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.models import equations, extras
from mbrl_control.models.casadi_torch import translate
from mbrl_control.robot import RobotSpec

NOISE = np.array([5e-4, 1e-2])


def spec_of(kinds, name="pendulum", parameters=None, **nominal):
    data = robot.load(name).model_dump(exclude_unset=True)
    system = {"pendulum": "pendulum", "cartpole": "cartpole", "double_pendulum_c1": "double_pendulum"}[name]
    own = {"b": 0.05, "cf": 0.02} if name == "pendulum" else {}
    given = {**data.get("nominal", {}), "system": system, "extras": kinds, "parameters": {**own, **(parameters or {})}, **nominal}
    return RobotSpec.model_validate({**data, "nominal": given})


def found(spec, truth, seconds=12.0, amplitude=2.0, seed=0, **settings):
    """What is found of a robot that differs from its YAML in `truth`."""
    m, rng = mechanism.build(spec), np.random.default_rng(seed)
    values = m.starting(truth).start
    runs = []
    for part in range(2):
        time, command = multisine(seconds, 100.0, [amplitude], rng)
        states = simulate(m, values, time, command, np.zeros(1), np.array([np.pi, 0.0]))
        runs.append(run_of(m, time, states, command, NOISE, rng, f"run {part}"))
    return dynamics.identify(runs, [], m, np.zeros(1), dynamics.Settings(**settings))


def inside(identified, truth):
    """Within intervals that leave out one in a thousand; how often those of 95 % hold, docs/calibration.md tells."""
    low, high = identified.estimate.interval(0.999)
    names = identified.estimate.names
    return {n: bool(low[names.index(n)] <= value <= high[names.index(n)]) for n, value in truth.items()}


@pytest.mark.parametrize(("kinds", "truth", "amplitude", "known"), [
    (["stribeck"], {"stiction_theta_dot": 0.15, "stribeck_theta_dot": 0.4, "cf": 0.05}, 1.5, []),
    (["dead_band"], {"dead_band_torque": 0.3}, 2.0, []),
    (["saturation"], {"saturation_torque": 1.1}, 2.0, []),
    (["gain"], {"gain_torque": 0.8}, 2.0, ["I"]),
])
def test_what_was_put_into_the_log_lies_in_the_interval(kinds, truth, amplitude, known):
    identified = found(spec_of(kinds, known=known), truth, amplitude=amplitude, known=tuple(known))
    assert inside(identified, truth) == dict.fromkeys(truth, True), identified.estimate
    assert not set(truth) & set(identified.estimate.vague()), identified.estimate


def test_all_of_a_drive_together():
    kinds, truth = ["dead_band", "saturation", "gain"], {"dead_band_torque": 0.2, "saturation_torque": 1.2, "gain_torque": 0.85}
    identified = found(spec_of(kinds, known=["I"]), truth, known=("I",))
    for name, value in truth.items():
        at = identified.estimate.names.index(name)
        assert identified.values[at] == pytest.approx(value, rel=0.03), name
        assert identified.estimate.std[at] < 0.03 * value


def test_a_saturation_that_is_not_reached_is_not_determined():
    identified = found(spec_of(["saturation"]), {}, amplitude=0.6)
    assert "saturation_torque" in identified.estimate.vague()
    assert any("'saturation_torque' is not determined" in note for note in identified.notes)
    assert "mu" not in identified.estimate.vague()
    assert identified.estimate.by_name()["saturation_torque"] == 2.0, "what nobody knows is left as it was"


def test_a_stribeck_speed_without_stiction_is_not_determined():
    identified = found(spec_of(["stribeck"]), {})
    assert "stribeck_theta_dot" in identified.estimate.vague()


def test_without_extras_equations_and_hash_are_what_they_were():
    spec = spec_of([])
    plain = equations.of(spec, equations.Options(), "test")
    assert plain.extras == extras.Extras()
    assert plain.system.parameters.keys() == {"m", "l", "I", "g", "b", "cf", "gear", "offset"}


PARAMETERS = {
    "pendulum": {"stiction_theta_dot": 0.1, "stribeck_theta_dot": 0.5, "dead_band_torque": 0.1, "saturation_torque": 1.0,
                 "gain_torque": 0.9},
    "cartpole": {"stiction_x_dot": 0.2, "stribeck_x_dot": 0.3, "stiction_theta_dot": 0.01, "dead_band_force": 0.05, "saturation_force": 0.6,
                 "gain_force": 1.1},
    "double_pendulum_c1": {"stiction_q1_dot": 0.1, "stiction_q2_dot": 0.05, "dead_band_torque1": 0.2, "saturation_torque2": 3.0,
                           "gain_torque1": 0.8, "offset_torque2": 0.1},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_found_is_what_is_used(name):
    """The mechanism that is searched and the equations that nominal model, look ahead and grey box read move alike."""
    kinds = ["stribeck", "dead_band", "saturation", "gain", *(["offset"] if name != "pendulum" else [])]
    known = {"pendulum": "I", "cartpole": "M", "double_pendulum_c1": "mu1"}[name]
    spec = spec_of(kinds, name, PARAMETERS[name], known=[known])
    m, known_equations = mechanism.build(spec), equations.of(spec, equations.Options(), "test")
    x, u = ca.SX.sym("x", spec.state_dim), ca.SX.sym("u", spec.action_dim)
    system = ca.Function("system", [x, u], [known_equations.system.rate(x, u, known_equations.parameters)])
    forward, rng = mechanism.forward(m, spec.action_dim), np.random.default_rng(0)
    torched = translate(system)
    for _ in range(20):
        at, push = rng.normal(0, 1, spec.state_dim), rng.normal(0, 2, spec.action_dim)
        wanted = np.asarray(system(at, push)).ravel()
        np.testing.assert_allclose(np.asarray(forward(at, push, m.start)).ravel(), wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(torched(torch.tensor(at), torch.tensor(push)).numpy(), wanted, rtol=1e-9, atol=1e-9)
    told = m.system(dict(zip(m.names, m.start, strict=True)))
    assert {n: told[n] for n in PARAMETERS[name]} == pytest.approx(PARAMETERS[name])
    acceleration = np.asarray(forward(at, push, m.start)).ravel()[m.count:]
    matrix, target = mechanism.regressor(m, spec.action_dim)(at[: m.count], at[m.count:], acceleration, push)
    np.testing.assert_allclose(np.asarray(matrix) @ m.start, np.asarray(target).ravel(), atol=1e-9)


def test_the_drive_does_what_its_terms_say():
    """Beyond the dead band, cut at the saturation, times the gain, plus the offset; corners rounded over a hundredth."""
    spec = spec_of(["dead_band", "saturation", "gain", "offset"], "cartpole", known=["M"])
    drive = equations.of(spec, equations.Options(), "test").extras
    p = {"dead_band_force": 0.2, "saturation_force": 0.5, "gain_force": 2.0, "offset_force": 0.1}
    for command, wanted in ((0.0, 0.1), (0.1, 0.1), (-0.5, 0.1 - 0.6), (0.9, 0.1 + 1.0), (-5.0, 0.1 - 1.0)):
        assert drive.acting([command], p)[0] == pytest.approx(wanted, abs=2e-3), command


def test_least_squares_keep_what_is_not_linear_at_a_good_start():
    spec = spec_of(["saturation"])
    m, rng = mechanism.build(spec), np.random.default_rng(0)
    time, command = multisine(10.0, 100.0, [2.0], rng)
    values = m.starting({"saturation_torque": 0.9}).start
    run = run_of(m, time, simulate(m, values, time, command, np.zeros(1), np.array([np.pi, 0.0])), command, NOISE, rng)
    begun, unseen = regression.begin([run], m, np.zeros(1), False)
    assert unseen == ()
    start = begun.named(begun.start)["saturation_torque"]
    assert start == pytest.approx(0.9, rel=0.25)
    estimate = regression.solve([regression.rows(run, begun, np.zeros(1), False)], begun)
    assert estimate.by_name()["saturation_torque"] == start
    assert m.names.index("saturation_torque") in estimate.held


@pytest.mark.parametrize(("kinds", "name", "more", "said"), [
    (["gain"], "pendulum", {}, "a drive's gain cannot be told apart from all masses and friction together; name one of I, mu"),
    (["offset"], "pendulum", {}, "have a parameter 'offset' of their own"),
    (["stribeck"], "pendulum", {"parameters": {"stribeck_theta": 1.0}}, "has no parameter 'stribeck_theta'; nearest: 'stribeck_theta_dot'"),
])
def test_extras_that_cannot_be_are_told(kinds, name, more, said):
    with pytest.raises(UserError, match=said):
        mechanism.build(spec_of(kinds, name, **more))


def test_other_equations_know_no_extras():
    data = robot.load("rc_car").model_dump(exclude_unset=True)
    spec = RobotSpec.model_validate({**data, "nominal": {**data["nominal"], "extras": ["gain"]}})
    with pytest.raises(UserError, match=r"know no nominal\.extras"):
        equations.of(spec, equations.Options(), "test")


def test_simulation_and_look_ahead_have_the_drive_too():
    """A push within the dead band moves neither the cart of the MJCF nor that of the look ahead; twice the gain is twice the push."""
    from mbrl_sim.plant import MujocoPlant

    def moved(command, **parameters):
        spec = spec_of(["dead_band", "gain"], "cartpole", parameters, known=["M"])
        plant = MujocoPlant(spec)
        plant.place(np.array([0.0, np.pi, 0.0, 0.0]))
        return plant.step(np.array([command]), 10 * spec.tick_s)[0]

    assert abs(moved(0.1, dead_band_force=0.2)) < 0.01 * moved(0.1)
    assert moved(0.1, gain_force=2.0) == pytest.approx(moved(0.2), rel=1e-3)


def test_the_known_model_of_the_mjcf_moves_as_its_plant():
    from mbrl_control.models import mujoco as known
    from mbrl_sim.plant import MujocoPlant

    spec = spec_of(["dead_band", "gain"], "cartpole", {"dead_band_force": 0.1, "gain_force": 1.5}, known=["M"])
    start, command = np.array([0.0, 1.0, 0.0, 0.0]), 0.4
    model, plant = known.build(spec, known.Options()), MujocoPlant(spec)
    plant.place(start)
    after = plant.step(np.array([command]), spec.model_dt)
    np.testing.assert_allclose(model.simulate(start[None], np.full((1, 1, 1), command))[0, 0], after, atol=1e-9)
