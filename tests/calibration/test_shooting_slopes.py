"""Slopes, gradient and Hessian of shooting are those of what they belong to, by CasADi's own differentiation or by differences."""

import casadi as ca
import numpy as np
import pytest

from mbrl_calibration import mechanism, problem, shooting, slopes
from mbrl_calibration.problem import Problem
from mbrl_calibration.segments import Segments, Settings
from mbrl_control import robot

SPREAD = np.array([1e-3, 2e-3, 0.02, 0.03])


@pytest.fixture(scope="module")
def m():
    return mechanism.build(robot.load("double_pendulum_c1"))


def made_up(m, segments, steps, substeps, rng):
    """Segments of no robot: slopes are to be right anywhere."""
    state = rng.normal(size=(segments, 1, 4)) + 0.05 * rng.normal(size=(segments, steps + 1, 4)).cumsum(1)
    inputs, slope = rng.normal(size=(2, segments, steps * substeps, 2))
    return Segments(state, inputs, slope, np.arange(segments) % 2)


def test_slopes_of_free_runs_are_those_that_casadi_finds(m):
    rng = np.random.default_rng(0)
    runs, steps, free = slopes.TOGETHER + 2, 6, np.arange(0, len(m.start), 2)
    inputs, slope = rng.normal(size=(2, runs, steps, 2))
    starts, delays = rng.normal(size=(runs, 4)), np.array([0.004, -0.002])
    found = slopes.FreeRuns(m, inputs, slope, 0.005, 2, free, np.array([1]))
    one, x, p, d = mechanism.step(m, 2, 0.005, 1), ca.SX.sym("x", 4), ca.SX.sym("p", len(m.start)), ca.SX.sym("d", 2)
    for run in (0, runs - 1):
        y, states = x, []
        for k in range(steps):
            y = one(y, inputs[run, k] + slope[run, k] * d, p)
            states += [y] if k % 2 else []
        wanted = ca.vertcat(x, *(p[int(i)] for i in free), d[1])
        exact = ca.Function("exact", [x, p, d], [ca.horzcat(*states), ca.jacobian(ca.vertcat(*states), wanted)])
        state, by = (np.asarray(part) for part in exact(starts[run], m.start, delays))
        np.testing.assert_allclose(found.states(starts, m.start, delays)[run], state.T, rtol=1e-12)
        np.testing.assert_allclose(found.slopes(starts, m.start, delays)[run].reshape(12, -1), by, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("nodes", "zero"), [(1, 0.0), (1, 0.05), (2, 0.05)])
def test_gradient_and_hessian_are_those_of_the_cost(m, nodes, zero):
    rng = np.random.default_rng(1)
    s = Settings(0.04, nodes, 0.01, 2, delays=True, known=("Ir", "b1"), zero=zero)
    of = Problem(made_up(m, 3, 4, 2, rng), m, m.start, s)
    at = of.begin + 0.01 * rng.normal(size=len(of.begin))

    def errors(column):
        return np.concatenate([of.errors(column, SPREAD).ravel(), of.known * column[: len(of.known)]])

    jacobian = np.stack([(errors(at + h) - errors(at - h)) / 2e-6 for h in 1e-6 * np.eye(len(at))], axis=1)
    b = of.blocks(at, SPREAD)
    assert problem.cost(b.errors, of.known, at) == pytest.approx(0.5 * (errors(at) ** 2).sum(), rel=1e-12)
    np.testing.assert_allclose(problem.gradient(b, at), jacobian.T @ errors(at), rtol=1e-5, atol=1e-3)
    full = jacobian.T @ jacobian
    np.testing.assert_allclose(problem.information(b).toarray(), np.triu(full), rtol=1e-5, atol=1e-5 * np.abs(full).max())
    gaps = np.stack([(of.gaps(at + h) - of.gaps(at - h)).ravel() / 2e-6 for h in 1e-6 * np.eye(len(at))], axis=1)
    assert gaps.shape[0] == 4 * 3 * (nodes - 1)
    np.testing.assert_allclose(of.tangent(at).toarray(), gaps, rtol=1e-6, atol=1e-6)


def test_what_is_stored_of_a_hessian_is_in_the_same_places_everywhere(m):
    rng = np.random.default_rng(2)
    of = Problem(made_up(m, 2, 2, 2, rng), m, m.start, Settings(0.02, 1, 0.01, 2, zero=0.05))
    first, second = (problem.information(of.blocks(of.begin + by, SPREAD)) for by in (0.0, 0.01))
    np.testing.assert_array_equal(first.row, second.row)
    np.testing.assert_array_equal(first.col, second.col)
    assert (first.row <= first.col).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no more")])
@pytest.mark.parametrize("part", ["errors", "blocks", "built"])
def test_what_is_raised_in_the_midst_of_a_search_ends_it(m, part, error, monkeypatch, capfd):
    data, s = made_up(m, 2, 4, 2, np.random.default_rng(3)), Settings(0.04, 1, 0.01, 2)
    asked, real = [], getattr(Problem, part)

    def interrupted(self, *given):
        asked.append(given)
        if len(asked) == 4:
            raise error
        return real(self, *given)

    monkeypatch.setattr(Problem, part, interrupted)
    with pytest.raises(type(error)):
        shooting.fit(data, m, m.start, s)
    assert len(asked) == 4
    assert capfd.readouterr().out == ""
