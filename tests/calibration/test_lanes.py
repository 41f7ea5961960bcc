"""CasADi functions worked out by NumPy give what CasADi's own machine gives."""

import casadi as ca
import numpy as np
import pytest

from mbrl_calibration.lanes import MOST, Lanes

X, Y = ca.SX.sym("x", 2), ca.SX.sym("y")
A, B = X[0], X[1]
EXPRESSIONS = {
    "sums": A + B * Y - A / (2 + B * B), "powers": ca.constpow(A, 3) + (2 + A * A) ** B + ca.sqrt(1 + A * A) + 2 * A + 1 / (3 + B),
    "waves": ca.sin(A) * ca.cos(B) + ca.tan(0.3 * A), "arcs": ca.asin(0.3 * A) + ca.acos(0.3 * B) + ca.atan(A) + ca.atan2(A, B),
    "growth": ca.exp(A) + ca.log(3 + B) + ca.log1p(0.2 * B) + ca.expm1(A), "hyperbolas": ca.sinh(A) + ca.cosh(B) + ca.tanh(A * B),
    "kinks": ca.fabs(A) + ca.sign(B) + ca.floor(A) + ca.ceil(B) + ca.fmin(A, B) + ca.fmax(A, Y) + ca.copysign(A, B),
    "choices": ca.if_else(A < B, A * A, -B) + ca.if_else(ca.logic_and(A <= 0, ca.logic_not(B <= 0)), 3, Y) + (A < 0) + (B < 0),
    "either": ca.if_else(ca.logic_or(A == B, A != Y), A, B) + ca.hypot(A, B),
}


@pytest.mark.parametrize("what", EXPRESSIONS)
@pytest.mark.parametrize("count", [1, 3, MOST + 5])
def test_every_lane_is_what_casadi_gives_for_it(what, count):
    function = ca.Function("f", [X, Y], [EXPRESSIONS[what]])
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (2, count))
    expected = np.asarray(function.map(count)(x, np.full((1, count), 0.7))).ravel()
    for y in ([0.7], np.full((1, count), 0.7)):
        np.testing.assert_allclose(Lanes(function)(x, y)[0].ravel(), expected, rtol=1e-13, atol=1e-13)


def test_only_elements_that_may_be_other_than_zero_are_given_and_their_places_told():
    slope = ca.jacobian(ca.vertcat(A * Y, ca.sin(B), Y), X)
    function = ca.Function("f", [X, Y], [slope, ca.SX(2, 2)])
    lanes, x = Lanes(function), np.array([[0.1, 0.2], [0.3, 0.4]])
    found = lanes(x, [5.0])
    np.testing.assert_array_equal(lanes.places[0], [[0, 0], [1, 1]])
    np.testing.assert_allclose(found[0], [[5.0, 5.0], np.cos(x[1])])
    assert found[1].shape == (0, 2)


def test_numbers_that_are_none_come_out_and_stop_nothing():
    found = Lanes(ca.Function("f", [X, Y], [ca.log(A) / B]))(np.array([[-1.0, 1.0], [1.0, 0.0]]), [0.0])[0]
    assert np.isnan(found[0, 0])
    assert np.isnan(found[0, 1])


def test_an_operation_without_a_counterpart_is_refused():
    with pytest.raises(ValueError, match="operation 33 of CasADi's has no counterpart"):
        Lanes(ca.Function("f", [X, Y], [ca.erf(A)]))
