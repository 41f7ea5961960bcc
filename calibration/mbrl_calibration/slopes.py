"""Free runs of a mechanism and their exact slopes in starts, parameters and delays, for many runs of one length at once.

The slopes are those of the integration itself: each step's own (a few numbers, found for all steps of all runs at once, as the states
are known by then), multiplied up along the runs (Bock 1981: internal numerical differentiation).
"""

from __future__ import annotations

from collections.abc import Callable

import casadi as ca
import numpy as np
import torch

from mbrl_calibration.mechanism import Mechanism, step
from mbrl_control.models.casadi_torch import translate

TOGETHER = 32
"""Runs whose steps' slopes are held at a time."""

IN_CACHE = 8192
"""So many steps at a time that what lies between two instructions stays in a core's own cache."""


class FreeRuns:
    """Free runs with inputs that are known up to delays.

    Args:
        m: the mechanism.
        inputs: [N, K, A] mean input over each integration step at the delays as they were thought to be.
        slope: [N, K, A] its derivative in each axis' delay, per s.
        step_s: integration step, s.
        every: so many of them from one comparison to the next.
        free: [F] indices of the parameters in which slopes are wanted; `late` [D] of the axes in whose delay they are.

    Attributes:
        axes: A.
    """

    def __init__(self, m: Mechanism, inputs: np.ndarray, slope: np.ndarray, step_s: float, every: int, free: np.ndarray,
                 late: np.ndarray) -> None:
        self._inputs, self._slope, self._every, self._late = inputs, slope, every, late
        self.axes, self._size, self._free = inputs.shape[2], 2 * m.count, free
        one = step(m, inputs.shape[2], step_s, 1)
        self._run = one.mapaccum("run", inputs.shape[1]).map(inputs.shape[0])
        x, u, p = (ca.SX.sym(name, one.size1_in(i)) for i, name in enumerate("xup"))
        then = one(x, u, p)
        unknowns = ca.vertcat(x, *(u[int(i)] for i in late), *(p[int(i)] for i in self._free))
        slopes = ca.cse(ca.jacobian(then, unknowns))
        # CasADi itself works off one step after the other, an instruction at a time: five to seven times slower.
        self._of_step = translate(ca.Function("of_step", [x, u, p], [slopes.nz[:]]))
        self._shape, self._places = slopes.shape, (slopes.sparsity().row(), slopes.sparsity().get_col())
        self._seen: dict[str, tuple[bytes, np.ndarray]] = {}

    def _last(self, what: str, made: Callable[..., np.ndarray], *given: np.ndarray) -> np.ndarray:
        """`made(*given)`, remembered until it is asked for with something else: cost, slopes and curvature all want the same."""
        key = b"".join(part.tobytes() for part in given)
        if what not in self._seen or self._seen[what][0] != key:
            self._seen[what] = key, made(*given)
        return self._seen[what][1]

    def _fine(self, starts: np.ndarray, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        """[N, K, 2 n] states after each integration step."""
        runs, steps, axes = self._inputs.shape
        given = (self._inputs + self._slope * delays).reshape(-1, axes).T
        found = self._run(starts.T, given, np.tile(p[:, None], runs * steps))
        return np.asarray(found).T.reshape(runs, steps, self._size)

    def states(self, starts: np.ndarray, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        """[N, L, 2 n] states at each comparison.

        Args:
            starts: [N, 2 n] states (q, v) at the begin of each run.
            p: [P] parameters.
            delays: [A] what is added to the delays, s.
        """
        return self._last("states", self._fine, starts, p, delays)[:, self._every - 1 :: self._every]

    def slopes(self, starts: np.ndarray, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        """[N, L, 2 n, 2 n + F + D] slopes of `states` in the start, the F free parameters and the D delays; arguments as there."""
        return self._last("slopes", self._all, starts, p, delays)

    def _all(self, starts: np.ndarray, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        return np.concatenate([self._some(slice(begin, begin + TOGETHER), starts, p, delays) for begin in range(0, len(starts), TOGETHER)])

    def _some(self, which: slice, starts: np.ndarray, p: np.ndarray, delays: np.ndarray) -> np.ndarray:
        states, begin = self._last("states", self._fine, starts, p, delays)[which], starts[which]
        before = np.concatenate([begin[:, None], states[:, :-1]], axis=1).reshape(-1, self._size)
        given = (self._inputs[which] + self._slope[which] * delays).reshape(-1, self.axes)
        late, size = len(self._late), self._size
        by = self._each(before, given, p).reshape(*states.shape[:2], *self._shape)
        by_delay = by[..., size : size + late] * self._slope[which][:, :, None, self._late]
        return _along(by[..., :size], np.concatenate([by[..., size + late:], by_delay], axis=-1), self._every)

    @torch.no_grad()
    def _each(self, before: np.ndarray, given: np.ndarray, p: np.ndarray) -> np.ndarray:
        """[M, 2 n, 2 n + D + F] slopes of single steps in their starts, late inputs and free parameters.

        Args:
            before: [M, 2 n] states that the steps begin with.
            given: [M, A] inputs in them.
            p: [P] parameters.
        """
        out, (x, u, known) = np.zeros((len(before), *self._shape)), (torch.as_tensor(part.T) for part in (before, given, p[None]))
        for begin in range(0, len(before), IN_CACHE):
            now = slice(begin, begin + IN_CACHE)
            found = self._of_step(x[:, now], u[:, now], known.expand(-1, len(before))[:, now])
            out[now, self._places[0], self._places[1]] = found.T.numpy()
        return out


def _along(by_start: np.ndarray, by_unknowns: np.ndarray, every: int) -> np.ndarray:
    """[N, L, 2 n, 2 n + F + D] slopes at each comparison from those [N, K, 2 n, …] of each step."""
    runs, steps, size, unknowns = by_unknowns.shape
    now = np.zeros((runs, size, size + unknowns))
    now[:, np.arange(size), np.arange(size)] = 1.0
    out = np.empty((runs, steps // every, size, size + unknowns))
    for k in range(steps):
        now = by_start[:, k] @ now
        now[:, :, size:] += by_unknowns[:, k]
        if (k + 1) % every == 0:
            out[:, (k + 1) // every - 1] = now
    return out
