"""Evaluate a CasADi function for many arguments at once: each of its instructions for all of them, by NumPy.

CasADi itself works off one argument after the other, an instruction at a time; for thousands of them that is five to seven times slower.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import numpy as np

MOST = 4096
"""So many arguments at a time that what lies between two instructions stays in a core's own cache."""

Value = Any
"""A number for all lanes, or [N] one for each."""

_TWO: dict[int, Callable[[Value, Value], Value]] = {
    ca.OP_ADD: np.add, ca.OP_SUB: np.subtract, ca.OP_MUL: np.multiply, ca.OP_DIV: np.divide, ca.OP_POW: np.power,
    ca.OP_CONSTPOW: np.power, ca.OP_FMIN: np.fmin, ca.OP_FMAX: np.fmax, ca.OP_ATAN2: np.arctan2, ca.OP_COPYSIGN: np.copysign,
    ca.OP_IF_ELSE_ZERO: lambda yes, value: np.where(yes, value, 0.0), ca.OP_HYPOT: np.hypot,
}
_ONE: dict[int, Callable[[Value], Value]] = {
    ca.OP_ASSIGN: np.positive, ca.OP_NEG: np.negative, ca.OP_SQ: np.square, ca.OP_TWICE: lambda value: value + value,
    ca.OP_INV: lambda value: 1.0 / value, ca.OP_SQRT: np.sqrt, ca.OP_EXP: np.exp, ca.OP_LOG: np.log, ca.OP_LOG1P: np.log1p,
    ca.OP_EXPM1: np.expm1, ca.OP_SIN: np.sin, ca.OP_COS: np.cos, ca.OP_TAN: np.tan, ca.OP_ASIN: np.arcsin, ca.OP_ACOS: np.arccos,
    ca.OP_ATAN: np.arctan, ca.OP_SINH: np.sinh, ca.OP_COSH: np.cosh, ca.OP_TANH: np.tanh, ca.OP_FABS: np.abs, ca.OP_SIGN: np.sign,
    ca.OP_FLOOR: np.floor, ca.OP_CEIL: np.ceil,
}
_TRUTH: dict[int, Callable[..., Value]] = {
    ca.OP_LT: np.less, ca.OP_LE: np.less_equal, ca.OP_EQ: np.equal, ca.OP_NE: np.not_equal, ca.OP_AND: np.logical_and,
    ca.OP_OR: np.logical_or, ca.OP_NOT: np.logical_not,
}
"""CasADi's truth is 1.0 or 0.0, which one may calculate with."""


class Lanes:
    """A function of scalars for many arguments at once.

    Args:
        function: a CasADi function of symbols of type SX.

    Attributes:
        places: of each output, [E, 2] rows and columns of the elements that may be other than zero, in their order.

    Raises:
        ValueError: it holds an operation that is not known here.
    """

    def __init__(self, function: Any) -> None:
        self.places = [np.stack([s.row(), s.get_col()], axis=1).astype(int).reshape(-1, 2)
                       for s in (function.sparsity_out(i) for i in range(function.n_out()))]
        # Places to work in, then all elements of the inputs, of the outputs, and constants.
        self._inputs = _starts([function.nnz_in(i) for i in range(function.n_in())], function.sz_w())
        self._outputs = _starts([function.nnz_out(i) for i in range(function.n_out())], self._inputs[-1])
        self._constants: list[float] = []
        self._steps = [self._step(function, k) for k in range(function.n_instructions())]

    def _step(self, function: Any, k: int) -> tuple[Callable[..., Value], int, tuple[int, ...]]:
        """What an instruction does, where its result goes, and where what it needs lies."""
        kind, given, out = function.instruction_id(k), function.instruction_input(k), function.instruction_output(k)
        if kind == ca.OP_INPUT:
            return _same, out[0], (self._inputs[given[0]] + given[1],)
        if kind == ca.OP_OUTPUT:
            return _same, self._outputs[out[0]] + out[1], (given[0],)
        if kind == ca.OP_CONST:
            self._constants.append(function.instruction_constant(k))
            return _same, out[0], (self._outputs[-1] + len(self._constants) - 1,)
        if kind in _ONE:
            return _ONE[kind], out[0], (given[0],)
        if kind in _TWO:
            return _TWO[kind], out[0], (given[0], given[1])
        if kind in _TRUTH:
            return _as_number(_TRUTH[kind]), out[0], (given[0],) if kind == ca.OP_NOT else (given[0], given[1])
        raise ValueError(f"operation {kind} of CasADi's has no counterpart in NumPy here")

    def __call__(self, *inputs: Sequence[Value]) -> list[np.ndarray]:
        """The outputs.

        Args:
            inputs: for each input its elements that may be other than zero, in their order: a number, or [N] one for each argument.

        Returns:
            For each output [E, N] its elements, see `places`.
        """
        values = [value for given in inputs for value in given]
        count = max((len(v) for v in values if np.ndim(v)), default=1)
        out = [np.empty((len(place), count)) for place in self.places]
        work: list[Value] = [0.0] * (self._outputs[-1] + len(self._constants))
        work[self._outputs[-1]:] = self._constants
        with np.errstate(all="ignore"):  # a search may try anything: what comes of it is no finite number, as with CasADi
            for begin in range(0, count, MOST):
                now = slice(begin, begin + MOST)
                work[self._inputs[0] : self._inputs[-1]] = [v[now] if np.ndim(v) else v for v in values]
                for of, to, places in self._steps:
                    work[to] = of(*[work[place] for place in places])
                for i, (first, last) in enumerate(itertools.pairwise(self._outputs)):
                    for row, place in enumerate(range(first, last)):
                        out[i][row, now] = work[place]
        return out


def _same(value: Value) -> Value:
    return value


def _as_number(of: Callable[..., Value]) -> Callable[..., Value]:
    return lambda *given: 1.0 * of(*given)


def _starts(sizes: Sequence[int], first: int) -> list[int]:
    """Where parts of these sizes begin that follow each other, and where the last one ends."""
    return [first, *(first + int(s) for s in np.cumsum(sizes))]
