"""Episode: the one class for logged data, whatever it came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mbrl_control.errors import DataError


@dataclass(frozen=True)
class Episode:
    """A stretch of data without a gap, on an even or uneven time grid.

    Attributes:
        time: [T] s, strictly increasing.
        state: [T, S] as measured at `time`, SI units, angles not unwrapped.
        action: [T, A] command applied from `time[t]` until `time[t + 1]` (as sent; delays are not removed).
        reward: [T] or None.
        terminated: the task ended here (no bootstrap past it).
        truncated: cut by a time limit, a gap or the end of the log (bootstrap past it).
        model_version: [T] version of the model that the command came from; 0 for none.
        name: where it came from.
    """

    time: np.ndarray
    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray | None = None
    terminated: bool = False
    truncated: bool = True
    model_version: np.ndarray | None = None
    name: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.time)
        if self.state.shape[0] != n or self.action.shape[0] != n:
            raise DataError(f"episode '{self.name}': {n} times, {self.state.shape[0]} states and {self.action.shape[0]} actions; "
                            "they must agree")
        if n > 1 and not np.all(np.diff(self.time) > 0):
            raise DataError(f"episode '{self.name}': time does not increase at row {int(np.argmin(np.diff(self.time)) + 1)}")
        for what, array in (("state", self.state), ("action", self.action)):
            if not np.isfinite(array).all():
                row, column = np.argwhere(~np.isfinite(array))[0]
                raise DataError(f"episode '{self.name}': {what} column {column} is not finite at row {row}")

    def __len__(self) -> int:
        return len(self.time)

    @property
    def duration(self) -> float:
        """Seconds from the first to the last sample."""
        return float(self.time[-1] - self.time[0]) if len(self.time) else 0.0

    def cut(self, start: int, stop: int) -> Episode:
        """Rows `start:stop` as an episode of their own (truncated unless it holds the end)."""
        last = stop >= len(self.time)
        return Episode(self.time[start:stop], self.state[start:stop], self.action[start:stop],
                       None if self.reward is None else self.reward[start:stop], self.terminated and last,
                       self.truncated or not last,
                       None if self.model_version is None else self.model_version[start:stop], self.name, self.notes)
