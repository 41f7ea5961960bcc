"""A CasADi expression as torch operations on whole batches: differentiable, in any precision, on any device."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import casadi as ca
import torch

from mbrl_control.errors import UserError


def _tensors(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[Any, Any], torch.Tensor]:
    """The function with one of its arguments allowed to be a number."""

    def called(a: Any, b: Any) -> torch.Tensor:
        like = a if isinstance(a, torch.Tensor) else b
        return function(*(v if isinstance(v, torch.Tensor) else like.new_full((), v) for v in (a, b)))

    return called


def _truth(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], torch.Tensor]:
    """A comparison as CasADi has it: 1 or 0."""

    def called(a: Any, b: Any) -> torch.Tensor:
        like = a if isinstance(a, torch.Tensor) else b
        found: torch.Tensor = function(a, b).to(like.dtype)
        return found

    return called


UNARY: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    ca.OP_NEG: torch.neg, ca.OP_EXP: torch.exp, ca.OP_LOG: torch.log, ca.OP_SQRT: torch.sqrt, ca.OP_SQ: torch.square,
    ca.OP_TWICE: lambda a: a + a, ca.OP_INV: torch.reciprocal, ca.OP_SIN: torch.sin, ca.OP_COS: torch.cos, ca.OP_TAN: torch.tan,
    ca.OP_ASIN: torch.asin, ca.OP_ACOS: torch.acos, ca.OP_ATAN: torch.atan, ca.OP_SINH: torch.sinh, ca.OP_COSH: torch.cosh,
    ca.OP_TANH: torch.tanh, ca.OP_ASINH: torch.asinh, ca.OP_ACOSH: torch.acosh, ca.OP_ATANH: torch.atanh, ca.OP_ERF: torch.erf,
    ca.OP_LOG1P: torch.log1p, ca.OP_EXPM1: torch.expm1, ca.OP_FABS: torch.abs, ca.OP_SIGN: torch.sign, ca.OP_FLOOR: torch.floor,
    ca.OP_CEIL: torch.ceil, ca.OP_NOT: lambda a: (a == 0).to(a.dtype),
}
BINARY: dict[int, Callable[[Any, Any], Any]] = {
    ca.OP_ADD: operator.add, ca.OP_SUB: operator.sub, ca.OP_MUL: operator.mul, ca.OP_DIV: operator.truediv, ca.OP_POW: operator.pow,
    ca.OP_CONSTPOW: operator.pow, ca.OP_ATAN2: _tensors(torch.atan2), ca.OP_HYPOT: _tensors(torch.hypot),
    ca.OP_FMIN: _tensors(torch.minimum), ca.OP_FMAX: _tensors(torch.maximum), ca.OP_LT: _truth(operator.lt),
    ca.OP_LE: _truth(operator.le), ca.OP_EQ: _truth(operator.eq), ca.OP_NE: _truth(operator.ne),
    ca.OP_AND: _tensors(lambda a, b: ((a != 0) & (b != 0)).to(a.dtype)), ca.OP_OR: _tensors(lambda a, b: ((a != 0) | (b != 0)).to(a.dtype)),
    ca.OP_IF_ELSE_ZERO: _tensors(lambda a, b: torch.where(a != 0, b, torch.zeros_like(b))),
}


Work = list[Any]
Instruction = Callable[[Work, tuple[torch.Tensor, ...], Work], None]
"""Reads and writes the work vector; takes components of inputs, [...] each, from the second argument and puts outputs in the third."""


def translate(function: Any) -> Callable[..., torch.Tensor]:
    """A CasADi function as one of tensors.

    Its instructions are those of CasADi's own virtual machine: a work vector whose places are written and read, so that a value which is
    needed twice is worked out once.

    Args:
        function: of scalar expressions (SX), with dense column vectors [n_i] as inputs and one of them, [m], as output.

    Returns:
        A function of tensors [n_i, ...] (the components first, all else alike) that gives [m, ...].

    Raises:
        UserError: it holds an operation that torch has no counterpart to.
    """
    program = [_instruction(function, k) for k in range(function.n_instructions())]
    room, size = function.sz_w(), function.nnz_out(0)

    def called(*inputs: torch.Tensor) -> torch.Tensor:
        work: Work = [None] * room
        out: Work = [None] * size
        for instruction in program:
            instruction(work, inputs, out)
        like = inputs[0][0]
        return torch.stack([value if isinstance(value, torch.Tensor) else torch.full_like(like, value) for value in out])

    return called


def _instruction(function: Any, k: int) -> Instruction:
    code, given, made = function.instruction_id(k), function.instruction_input(k), function.instruction_output(k)
    if code == ca.OP_INPUT:
        return _read(made[0], *given)
    if code == ca.OP_OUTPUT:
        return _write(made[1], given[0])
    if code == ca.OP_CONST:
        return _number(made[0], function.instruction_constant(k))
    if code in UNARY:
        return _one(UNARY[code], made[0], given[0])
    if code in BINARY:
        return _two(BINARY[code], made[0], *given)
    name = next((n for n in dir(ca) if n.startswith("OP_") and getattr(ca, n) == code), code)
    raise UserError(f"'{function.name()}': {name} of CasADi has no counterpart in torch here; write the expression without it")


def _read(place: int, which: int, component: int) -> Instruction:
    def run(work: Work, inputs: tuple[torch.Tensor, ...], out: Work) -> None:
        work[place] = inputs[which][component]

    return run


def _write(component: int, place: int) -> Instruction:
    def run(work: Work, inputs: tuple[torch.Tensor, ...], out: Work) -> None:
        out[component] = work[place]

    return run


def _number(place: int, value: float) -> Instruction:
    def run(work: Work, inputs: tuple[torch.Tensor, ...], out: Work) -> None:
        work[place] = value

    return run


def _one(operation: Callable[[torch.Tensor], torch.Tensor], place: int, a: int) -> Instruction:
    def run(work: Work, inputs: tuple[torch.Tensor, ...], out: Work) -> None:
        work[place] = operation(work[a])

    return run


def _two(operation: Callable[[Any, Any], Any], place: int, a: int, b: int) -> Instruction:
    def run(work: Work, inputs: tuple[torch.Tensor, ...], out: Work) -> None:
        work[place] = operation(work[a], work[b])

    return run
