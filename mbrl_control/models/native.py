"""The planner's inner loop in native code: compiled once on this machine for this processor, with torch as the fallback.

Between matrix products of a few hundred rows, a tensor library spends as long on activations and on calls as on the products. The
kernel in `kernel/` does a whole rollout in one call, on one core, some rows at a time, so that nothing leaves the cache.
"""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path

import numpy as np
import torch

from mbrl_control import native_code
from mbrl_control.costs.base import Squares
from mbrl_control.models.encoding import Encoding
from mbrl_control.models.folding import Folded

SOURCE = Path(__file__).parent / "kernel" / "rollout.cpp"
MAX_DEPTH = 8
LOG2_E = math.log2(math.e)


class _Network(ctypes.Structure):
    """`Network` of kernel/network.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("members", "state", "action", "angles", "rates", "depth", "bf16")),
        ("width", ctypes.c_int32 * MAX_DEPTH), ("angle", ctypes.c_void_p), ("rate", ctypes.c_void_p), ("sharpness", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("first", "moved", "bias", "hidden", "last", "base", "offset")))


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where it cannot be had (see `native_code.loaded`)."""
    found = native_code.loaded(SOURCE)
    if found is None:
        return None
    found.mbrl_unroll.argtypes = [ctypes.POINTER(_Network), ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
                                  ctypes.c_int, ctypes.c_void_p]
    found.mbrl_price.argtypes = [*found.mbrl_unroll.argtypes[:-1], ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_void_p]
    found.mbrl_slopes.argtypes = [ctypes.POINTER(_Network), ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    found.mbrl_unroll.restype = found.mbrl_price.restype = found.mbrl_slopes.restype = None
    return found


class NativeRollout:
    """Rollouts of one ensemble's folded weights.

    Args:
        found: the compiled kernel.
        encoding: of the robot.
        folded: weights; of what may change, only their values (see `take`).

    Raises:
        ValueError: the kernel has no room for such a network, or no such precision; use torch.
    """

    def __init__(self, found: ctypes.CDLL, encoding: Encoding, folded: Folded) -> None:
        limits = (ctypes.c_int32 * 4)()
        found.mbrl_limits(limits)
        most_deep, most_wide, most_inputs, self.lanes = limits
        biases = [folded.first[1], *(bias for _, bias in folded.hidden)]
        widths = [self._whole(b.shape[-1]) for b in biases]
        self.bf16 = bool(folded.hidden) and folded.hidden[0][0].dtype == torch.bfloat16
        if len(widths) > min(most_deep, MAX_DEPTH) or max(widths) > most_wide or encoding.inputs > most_inputs:
            raise ValueError(f"the kernel has room for {most_deep} layers of {most_wide} and {most_inputs} inputs")
        if self.bf16 and not found.mbrl_has_bf16():
            raise ValueError("this processor does not multiply in bfloat16")
        self.found, self.encoding = found, encoding
        self.members, self.size = folded.last.shape[0], encoding.state_dim
        self._index = [index.to(torch.int32).contiguous() for index in (encoding.angles, encoding.rates)]
        self._packed: list[np.ndarray] = []
        self._network = _Network(self.members, self.size, encoding.action_dim, len(self._index[0]), len(self._index[1]), len(widths),
                                 self.bf16, (ctypes.c_int32 * MAX_DEPTH)(*widths), self._index[0].data_ptr(), self._index[1].data_ptr(),
                                 1 / encoding.friction if encoding.friction else 0.0)
        self.take(folded)

    def take(self, folded: Folded) -> None:
        """Use other weights of the same shapes, in place."""
        weights = [weight for weight, _ in folded.hidden]
        biases = [folded.first[1], *(bias for _, bias in folded.hidden)]
        first = folded.first[0].float() * -LOG2_E
        new = [self._tiles(first), self._matrix(first, 2),
               torch.cat([self._columns(bias.float() * -LOG2_E).flatten(1) for bias in biases], 1),
               torch.cat([self._matrix(weight).flatten(1) for weight in weights], 1) if weights else torch.zeros(self.members, 1),
               self._matrix(folded.last / -LOG2_E), self._tiles(folded.base[0]), self._columns(folded.base[1])]
        # numpy knows no bfloat16, and does not mind in which of torch's modes an array is written.
        arrays = [(a.contiguous().view(torch.int16) if a.dtype == torch.bfloat16 else a).numpy() for a in new]
        if self._packed:
            for old, now in zip(self._packed, arrays, strict=True):
                np.copyto(old, now)
            return
        self._packed = [np.array(array, order="C") for array in arrays]
        for name, array in zip(("first", "moved", "bias", "hidden", "last", "base", "offset"), self._packed, strict=True):
            setattr(self._network, name, array.ctypes.data)

    def _whole(self, size: int) -> int:
        return -(-size // self.lanes) * self.lanes

    def _columns(self, array: torch.Tensor) -> torch.Tensor:
        """[..., n] filled up with zeros to whole vectors."""
        return torch.nn.functional.pad(array, (0, self._whole(array.shape[-1]) - array.shape[-1]))

    def _tiles(self, weight: torch.Tensor) -> torch.Tensor:
        """[E, P(out) / lanes, in, lanes]: vectors of columns, one whole depth after the other."""
        return torch.stack(torch.split(self._columns(weight), self.lanes, -1), 1)

    def _matrix(self, weight: torch.Tensor, multiple: int | None = None) -> torch.Tensor:
        """Tiles in the precision of the hidden layers; in bfloat16 of pairs of rows, [E, P(out) / lanes, in / 2, lanes, 2].

        Rows of zeros fill up the depth to a multiple; by default of the lanes, as that of the layer before is.
        """
        tiles = self._tiles(torch.nn.functional.pad(weight, (0, 0, 0, -weight.shape[1] % (multiple or self.lanes))))
        if not self.bf16:
            return tiles.float()
        return torch.stack([tiles[:, :, ::2], tiles[:, :, 1::2]], -1).to(torch.bfloat16)

    def __call__(self, start: torch.Tensor, actions: torch.Tensor, mean: bool) -> torch.Tensor:
        """Unroll; see `planning.rollout.rollout`.

        Args:
            start: [S] or [N, S].
            actions: [N, H, A].
            mean: average the members after every step, instead of a particle for each.

        Returns:
            [E or 1, N, H + 1, S] float32.
        """
        start, actions = start.to(torch.float32).contiguous(), actions.to(torch.float32).contiguous()
        rows, horizon, _ = actions.shape
        path = torch.empty(1 if mean else self.members, rows, horizon + 1, self.size)
        self.found.mbrl_unroll(ctypes.byref(self._network), start.data_ptr(), self.size if start.ndim > 1 else 0, actions.data_ptr(),
                               rows, horizon, int(mean), path.data_ptr())
        return path

    def price(self, start: torch.Tensor, actions: torch.Tensor, mean: bool, squares: Squares) -> torch.Tensor:
        """What the same paths cost; they are not written down.

        Args:
            start: [S] or [N, S].
            actions: [N, H, A].
            mean: as above.
            squares: the cost.

        Returns:
            [E or 1, N] float32, summed over the H steps and the end.
        """
        start, actions = start.to(torch.float32).contiguous(), actions.to(torch.float32).contiguous()
        rows, horizon, _ = actions.shape
        costs = torch.empty(1 if mean else self.members, rows)
        self.found.mbrl_price(ctypes.byref(self._network), start.data_ptr(), self.size if start.ndim > 1 else 0, actions.data_ptr(), rows,
                              horizon, int(mean), squares.target.ctypes.data, squares.weight.ctypes.data, squares.end, costs.data_ptr())
        return costs

    def slopes(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Jacobians of each member's step, the activations' own slopes carried along with the values; None in bfloat16.

        Args:
            states: [E or 1, N, S] where; one set for all members, or one for each.
            actions: [N, A].

        Returns:
            [E, N, S, S] by the state and [E, N, S, A] by the command, float32; the row index is the next state's.
        """
        if self.bf16:
            return None
        states, actions = states.to(torch.float32).contiguous(), actions.to(torch.float32).contiguous()
        points, axes = actions.shape
        found = torch.empty(self.members, points, self.size, self.size + axes)
        self.found.mbrl_slopes(ctypes.byref(self._network), states.data_ptr(), points * self.size if len(states) > 1 else 0,
                               actions.data_ptr(), points, found.data_ptr())
        return found[..., : self.size], found[..., self.size :]


def rollout_of(encoding: Encoding, folded: Folded) -> NativeRollout | None:
    """Native rollouts of an ensemble, or None where they cannot be had."""
    found = kernel()
    if found is None:
        return None
    try:
        return NativeRollout(found, encoding, folded)
    except ValueError:
        return None

