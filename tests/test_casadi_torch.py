"""CasADi expressions in torch against CasADi itself: values of every operation and system, gradients, batches."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest
import torch

from mbrl_control.errors import UserError
from mbrl_control.models.casadi_torch import BINARY, UNARY, translate
from mbrl_control.models.expressions import SYSTEMS

INSIDE = {ca.OP_ASIN: 0.9, ca.OP_ACOS: 0.9, ca.OP_ATANH: 0.9}
POSITIVE = {ca.OP_LOG, ca.OP_SQRT, ca.OP_LOG1P, ca.OP_POW, ca.OP_CONSTPOW}


def unary(code: int) -> ca.Function:
    x = ca.SX.sym("x", 1)
    return ca.Function("f", [x], [ca.SX.unary(code, x)])


def binary(code: int) -> ca.Function:
    x = ca.SX.sym("x", 2)
    return ca.Function("f", [x], [ca.SX.binary(code, x[0], x[1])])


def system(name: str) -> ca.Function:
    known = SYSTEMS[name]
    x, u = ca.SX.sym("x", len(known.states)), ca.SX.sym("u", len(known.inputs))
    return ca.Function(name, [x, u], [known.rate(x, u, known.parameters)])


def inputs(function: ca.Function, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(function.size1_in(i), count)) for i in range(function.n_in())]


def by_casadi(function: ca.Function, given: list[np.ndarray]) -> np.ndarray:
    return function.map(given[0].shape[1])(*given).full()


@pytest.mark.parametrize("code", sorted(UNARY))
def test_every_operation_on_one_number_is_casadis(code):
    function = unary(code)
    x = inputs(function, 40)[0] * (0.5 if code == ca.OP_TAN else 1.0)
    x = np.abs(x) + 1e-3 if code in POSITIVE else np.clip(x, -0.9, 0.9) if code in INSIDE else np.abs(x) + 1 if code == ca.OP_ACOSH else x
    np.testing.assert_allclose(translate(function)(torch.tensor(x)), by_casadi(function, [x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("code", sorted(BINARY))
def test_every_operation_on_two_numbers_is_casadis(code):
    function = binary(code)
    x = inputs(function, 40)[0]
    x[0] = np.abs(x[0]) if code in POSITIVE else x[0]
    x[:, ::5] = np.round(x[:, ::5])  # so that comparisons meet equal numbers, and truth values both
    x[:, 0], x[:, 5] = 0.0 if code not in (ca.OP_DIV, ca.OP_POW, ca.OP_CONSTPOW) else 1.0, 1.0
    x[1, ::5][x[1, ::5] == 0] += 2.0 * (code == ca.OP_DIV)
    np.testing.assert_allclose(translate(function)(torch.tensor(x)), by_casadi(function, [x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_system_is_casadis_to_rounding(name, dtype):
    function = system(name)
    given = [0.5 * g.astype(np.float32).astype(float) for g in inputs(function, 200)]
    wanted = by_casadi(function, given)
    made = translate(function)(*(torch.tensor(g, dtype=dtype) for g in given))
    assert made.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    scale = np.abs(wanted).max(1, keepdims=True)  # sums of terms of that size
    np.testing.assert_allclose(made.numpy() / scale, wanted / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_gradients_are_casadis_jacobians(name):
    function = system(name)
    x, u = function.sx_in()
    slopes = ca.Function("slopes", [x, u], [ca.jacobian(function(x, u), ca.vertcat(x, u))])
    given = inputs(function, 1)
    tensors = tuple(torch.tensor(g[:, 0]) for g in given)
    made = torch.cat(torch.autograd.functional.jacobian(translate(function), tensors), 1)
    np.testing.assert_allclose(made, slopes(*given).full(), rtol=1e-10, atol=1e-10)


def test_leading_axes_are_free_and_outputs_may_be_constant():
    x = ca.SX.sym("x", 2)
    made = translate(ca.Function("f", [x], [ca.vertcat(x[0] * x[1], 3.0)]))(torch.full((2, 4, 5), 2.0))
    assert torch.equal(made, torch.tensor([4.0, 3.0])[:, None, None].expand(2, 4, 5))


def test_numbers_stand_on_either_side_of_an_operation():
    x = ca.SX.sym("x", 1)
    function = ca.Function("f", [x], [ca.vertcat(ca.atan2(2.0, x), ca.fmin(x, 0.5), ca.if_else(x > 0, x, 1 / x), 2**x, 1 - x)])
    given = np.array([[-1.5, 0.25, 2.0]])
    np.testing.assert_allclose(translate(function)(torch.tensor(given)), by_casadi(function, [given]), rtol=1e-12)


def test_an_operation_without_counterpart_is_told():
    x = ca.SX.sym("x", 2)
    with pytest.raises(UserError, match="'odd': OP_REMAINDER of CasADi has no counterpart in torch"):
        translate(ca.Function("odd", [x], [ca.remainder(x[0], x[1])]))
