"""Parameters as views of one flat vector, so that an optimiser step, a copy or a moving average of all of them is one operation."""

from __future__ import annotations

import math

import numpy as np
import torch

from mbrl_control.errors import SnapshotError

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Flat:
    """Parameters of given shapes, laid out one behind the other.

    Args:
        values: what they start as.

    Attributes:
        vector: [P] all of them.
        parts: the same numbers in their shapes; leaves of autograd.
    """

    def __init__(self, values: list[torch.Tensor]) -> None:
        self.vector = torch.cat([value.reshape(-1) for value in values])
        self.parts, at = [], 0
        for value in values:
            self.parts.append(self.vector[at:at + value.numel()].view(value.shape).requires_grad_())
            at += value.numel()

    def copy(self) -> Flat:
        """Parameters of their own with the same values."""
        return Flat([part.detach() for part in self.parts])

    @torch.no_grad()
    def follow(self, other: Flat, share: float) -> None:
        """Move towards other parameters: p += share (p' - p)."""
        self.vector.lerp_(other.vector, share)

    @torch.no_grad()
    def take(self, vector: np.ndarray) -> None:
        """Take over values [P] in place."""
        self.vector.copy_(torch.from_numpy(vector))


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) on flat parameters; gradients are of these alone, whatever else a loss depends on.

    torch's own takes longer to be called than to do it, for networks as small as these.

    Args:
        flat: what is learned.
        rate: step size.
    """

    def __init__(self, flat: Flat, rate: float) -> None:
        self.flat, self.rate, self.steps = flat, rate, 0
        self._average, self._square = torch.zeros_like(flat.vector), torch.zeros_like(flat.vector)

    def descend(self, loss: torch.Tensor) -> None:
        """One step down the gradient of a scalar."""
        gradients = torch.autograd.grad(loss, self.flat.parts)
        self.step(torch.cat([gradient.reshape(-1) for gradient in gradients]))

    @torch.no_grad()
    def step(self, gradient: torch.Tensor) -> None:
        """One step against a gradient [P]."""
        self.steps += 1
        first, second = BETAS
        self._average.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        below = self._square.sqrt().div_(math.sqrt(1 - second**self.steps)).add_(EPSILON)
        self.flat.vector.addcdiv_(self._average, below, value=-self.rate / (1 - first**self.steps))

    def save(self) -> dict[str, np.ndarray]:
        """Parameters, moments and the count of steps."""
        return {"values": self.flat.vector.numpy().copy(), "average": self._average.numpy().copy(), "square": self._square.numpy().copy(),
                "steps": np.array([self.steps], np.int64)}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `save` gave (checked before, see `fitting`)."""
        self.flat.take(arrays["values"])
        self._average, self._square = (torch.from_numpy(arrays[name].copy()) for name in ("average", "square"))
        self.steps = int(arrays["steps"][0])


def fitting(given: dict[str, np.ndarray], mine: dict[str, np.ndarray], who: str) -> None:
    """Check arrays that are to be taken over against those that they replace.

    Raises:
        SnapshotError: other names, shapes or types, or numbers that are not finite.
    """
    wrong = sorted(set(given) ^ set(mine)) or [n for n, a in given.items() if a.shape != mine[n].shape or a.dtype != mine[n].dtype]
    if wrong:
        raise SnapshotError(f"saved {who}: array '{wrong[0]}' is missing, unknown or of another shape or type; resume with the options it "
                            "was saved with")
    bad = [n for n, a in given.items() if a.dtype.kind == "f" and not math.isfinite(float(a.sum()))]
    if bad:
        raise SnapshotError(f"saved {who}: array '{bad[0]}' holds numbers that are not finite")
