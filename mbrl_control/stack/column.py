"""Column: numbers, or rows of numbers, that keep coming, in a tenth of the memory that Python's lists of them take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

FIRST, SHARE = 1024, 4
"""Room at the beginning, and the part by which it grows when it is full."""


class Column(Sequence[Any]):
    """A list as far as it is used as one: `append`, indices, slices (as arrays), iteration, length.

    Args:
        dtype: of the numbers.
    """

    def __init__(self, dtype: DTypeLike = float) -> None:
        self._dtype, self._count = np.dtype(dtype), 0
        self._rows: np.ndarray = np.empty(0, self._dtype)

    def append(self, value: Any) -> None:
        """Add a number, or a row [K] of as many numbers as the first one had."""
        if self._count == len(self._rows):
            grown = np.empty((self._count + self._count // SHARE + FIRST, *np.shape(value)), self._dtype)
            if self._count:
                grown[: self._count] = self._rows
            self._rows = grown
        self._rows[self._count] = value
        self._count += 1

    @property
    def values(self) -> np.ndarray:
        """[count] or [count, K] themselves, not a copy; only to be used until the next `append` or `select`."""
        return self._rows[: self._count]

    def select(self, chosen: np.ndarray) -> None:
        """Keep the numbers or rows for which `chosen` [count] is true."""
        self._rows = self._rows[: self._count][chosen]
        self._count = len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._rows[: self._count], dtype, copy=copy)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        found = self._rows[: self._count][index]
        return found.item() if np.ndim(found) == 0 else found.copy()

    def __setitem__(self, index: int, value: Any) -> None:
        self._rows[: self._count][index] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows[: self._count].tolist() if self._rows.ndim == 1 else self._rows[: self._count])
