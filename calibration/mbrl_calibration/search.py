"""IPOPT on the cost of multiple shooting with the Gauss-Newton Hessian.

The residuals' own curvature is left out of the Hessian, which keeps it positive far from the solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import numpy as np
from scipy import sparse

from mbrl_calibration.problem import Blocks, Problem, cost, gradient, information


class _Outside(ca.Callback):
    """A CasADi function that NumPy works out.

    Args:
        name: of it.
        inputs: lengths of its columns.
        outputs: where its outputs may be other than zero.
        of: columns to the values of each output there.
    """

    def __init__(self, name: str, inputs: Sequence[int], outputs: Sequence[Any], of: Callable[..., tuple[Any, ...]]) -> None:
        ca.Callback.__init__(self)
        self._inputs, self._outputs, self._of = inputs, outputs, of
        self.construct(name, {})

    def get_n_in(self) -> int:
        return len(self._inputs)

    def get_n_out(self) -> int:
        return len(self._outputs)

    def get_sparsity_in(self, i: int) -> Any:
        return ca.Sparsity.dense(self._inputs[i], 1)

    def get_sparsity_out(self, i: int) -> Any:
        return self._outputs[i]

    def eval(self, given: Sequence[Any]) -> list[Any]:
        values = self._of(*(np.asarray(part).ravel() for part in given))
        return [ca.DM(where, value) for where, value in zip(self._outputs, values, strict=True)]


class _Stored:
    """Where a matrix may be other than zero, for CasADi.

    Args:
        example: such a matrix.
    """

    def __init__(self, example: sparse.coo_matrix) -> None:
        self._order = np.lexsort((example.row, example.col))
        rows, columns = example.row[self._order], example.col[self._order]
        self.places = ca.Sparsity.triplet(int(example.shape[0]), int(example.shape[1]), rows.tolist(), columns.tolist())

    def values(self, matrix: sparse.coo_matrix) -> np.ndarray:
        """Of another such matrix, column by column."""
        return np.asarray(matrix.data[self._order])


class Search:
    """A solver that may be asked again and again with other spreads.

    Args:
        problem: whose cost.
        iterations: at most.
    """

    def __init__(self, problem: Problem, iterations: int) -> None:
        self._problem, self._scale = problem, 1.0 / (problem.nodes * problem.length * problem.size)
        self._seen: tuple[bytes, Blocks] = (b"", problem.blocks(problem.begin, np.ones(problem.size)))
        begin = problem.begin
        unknowns, spreads = len(begin), problem.size
        self._hessian = _Stored(information(self._seen[1]))
        self._tangent = _Stored(self._slopes(begin))
        one, column = ca.Sparsity.dense(1, 1), ca.Sparsity.dense(unknowns, 1)
        limits = ca.Sparsity.dense(self._tangent.places.size1(), 1)
        self._raised: list[BaseException] = []
        # CasADi keeps no hold on callbacks: while the solver lives they must.
        self._parts = [_Outside(name, [unknowns, spreads, *more], outputs, self._told(of)) for name, more, outputs, of in (
            ("cost", [], [one], self._cost), ("gradient", [], [one, column], self._gradient),
            ("limits", [], [limits], lambda x, p: (self._limits(x),)), ("tangent", [], [limits, self._tangent.places], self._tangents),
            ("hessian", [1, limits.size1()], [self._hessian.places], self._curvature))]
        x, p = ca.MX.sym("x", unknowns), ca.MX.sym("p", spreads)
        of_cost, of_gradient, of_limits, of_tangent, of_hessian = self._parts
        # Dry friction makes the last digits slow: this little a change of the cost is far inside the intervals.
        enough = {"acceptable_tol": 0.1, "acceptable_iter": 3, "acceptable_obj_change_tol": 0.1 * self._scale,
                  "acceptable_constr_viol_tol": 1e-6}
        options = {"print_level": 0, "sb": "yes", "max_iter": iterations, "tol": 1e-6, "mu_strategy": "adaptive", **enough}
        self._solver = ca.nlpsol("shoot", "ipopt", {"x": x, "p": p, "f": of_cost(x, p), "g": of_limits(x, p)}, {
            "grad_f": of_gradient, "jac_g": of_tangent, "hess_lag": of_hessian, "no_nlp_grad": True, "calc_lam_p": False,
            "print_time": False, "show_eval_warnings": False, **{f"ipopt.{name}": value for name, value in options.items()}})

    def run(self, begin: np.ndarray, spread: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The best column of unknowns.

        Args:
            begin: column where the search begins.
            spread: [2 n] standard deviations of the errors.
            low, high: bounds of the column.

        Raises:
            BaseException: what the problem raised, Ctrl-C among it: IPOPT would go on elsewhere as if a place were no good.
        """
        gaps = len(self._problem.goes_on) * self._problem.size
        most = np.concatenate([np.zeros(gaps), np.full(self._problem.limits, np.inf)])
        try:
            found = np.asarray(self._solver(x0=begin, p=spread, lbx=low, ubx=high, lbg=0.0, ubg=most)["x"]).ravel()
        except RuntimeError:
            if not self._raised:
                raise
        if self._raised:
            raise self._raised.pop()
        return found

    @property
    def status(self) -> tuple[bool, int]:
        """Whether the last search ended by itself, and its iterations."""
        told = self._solver.stats()
        return bool(told["success"]), int(told["iter_count"])

    def _told(self, of: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        """A function that is worked out no more once one has raised something, which is kept."""
        def asked(*given: np.ndarray) -> tuple[Any, ...]:
            if self._raised:
                raise self._raised[0]
            try:
                return of(*given)
            except BaseException as error:
                self._raised.append(error)
                raise
        return asked

    def _blocks(self, column: np.ndarray, spread: np.ndarray) -> Blocks:
        """Those of the last column asked for are remembered: gradient and Hessian want the same."""
        key = column.tobytes() + spread.tobytes()
        if self._seen[0] != key:
            self._seen = key, self._problem.blocks(column, spread)
        return self._seen[1]

    def _cost(self, column: np.ndarray, spread: np.ndarray) -> tuple[float]:
        return (self._scale * cost(self._problem.errors(column, spread), self._problem.known, column),)

    def _gradient(self, column: np.ndarray, spread: np.ndarray) -> tuple[float, np.ndarray]:
        return self._cost(column, spread)[0], self._scale * gradient(self._blocks(column, spread), column)

    def _curvature(self, column: np.ndarray, spread: np.ndarray, weight: np.ndarray, _duals: np.ndarray) -> tuple[np.ndarray]:
        found = self._hessian.values(information(self._blocks(column, spread)))
        return (float(weight[0]) * self._scale * found,)

    def _limits(self, column: np.ndarray) -> np.ndarray:
        return np.concatenate([self._problem.gaps(column).ravel(), self._problem.built(column)[0]])

    def _slopes(self, column: np.ndarray) -> sparse.coo_matrix:
        """Of the gaps, then of what can be built."""
        built = self._problem.built(column)[1]
        gaps = self._problem.tangent(column)
        row, place = np.indices(built.shape)
        rows, places = np.concatenate([gaps.row, gaps.shape[0] + row.ravel()]), np.concatenate([gaps.col, place.ravel()])
        return sparse.coo_matrix((np.concatenate([gaps.data, built.ravel()]), (rows, places)), (gaps.shape[0] + len(built), gaps.shape[1]))

    def _tangents(self, column: np.ndarray, _spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._limits(column), self._tangent.values(self._slopes(column))
