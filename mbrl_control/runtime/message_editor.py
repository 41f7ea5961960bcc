"""Changed copies of a topic's messages, for the injection of faults: other numbers, arrays and names that do not fit together."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np

from mbrl_control.field_paths import EULER, Signal, getter, place, stamp_ns
from mbrl_control.messages import setter


class MessageEditor:
    """An `Editor` of the messages of one topic.

    Args:
        signals: [K] the signals on it; their numbers are those that it changes, beside other joints in the same arrays.
    """

    def __init__(self, signals: list[Signal]) -> None:
        self._places = [place(s) for s in signals]
        self._arrays = list(dict.fromkeys(p.array for p in self._places if p.array))
        self._names = next((p.names for p in self._places if p.array), "")
        self._plain = [p.steps for p in self._places if not p.array]

    def numbers(self, message: Any) -> np.ndarray:
        """[K'] the arrays one after the other, then the single numbers (of a quaternion its w)."""
        arrays = [np.asarray(getter(a)(message), dtype=np.float64) for a in self._arrays]
        return np.concatenate([*arrays, np.array([float(getter(_raw(s, message))(message)) for s in self._plain])])

    def with_numbers(self, message: Any, numbers: np.ndarray) -> Any:
        """A copy with other numbers [K'] in the order of `numbers`."""
        out, at = copy.deepcopy(message), 0
        for array in self._arrays:
            count = len(getter(array)(out))
            _put_array(out, array, numbers[at:at + count])
            at += count
        for steps, value in zip(self._plain, numbers[at:], strict=True):
            with contextlib.suppress(ValueError, OverflowError):  # a field of whole numbers holds no nan
                setter(out, _raw(steps, out))(float(value))
        return out

    def identity(self, message: Any) -> tuple[int | None, tuple[str, ...], bytes]:
        """By what a message is known again: stamp, names and numbers to the last bit. (Not its bytes: their gaps hold anything.)"""
        return stamp_ns(message), tuple(getattr(message, self._names, ())) if self._names else (), self.numbers(message).tobytes()

    def misshapen(self, message: Any, rng: np.random.Generator) -> Any:
        """A copy with an array too short, too long or empty, or with a joint missing or named twice; plain numbers become nan."""
        out = copy.deepcopy(message)
        if not self._arrays:
            return self.with_numbers(out, np.full(len(self._plain), np.nan))
        names = list(getattr(out, self._names))
        used = names.index(self._places[0].joint) if self._places[0].joint in names else 0
        kind = int(rng.integers(5 if names else 3))
        array = self._arrays[int(rng.integers(len(self._arrays)))]
        values = np.asarray(getter(array)(out), dtype=np.float64)
        if kind < 3:
            _put_array(out, array, (values[:-1], np.append(values, 0.0), values[:0])[kind])
        elif kind == 3:
            setattr(out, self._names, [f"not_{name}" if k == used else name for k, name in enumerate(names)])
        else:
            setattr(out, self._names, [*names, names[used]])
            for each in self._arrays:
                _put_array(out, each, np.append(np.asarray(getter(each)(out), dtype=np.float64), 0.0))
        return out


def restamp(message: Any, stamp_ns: int) -> None:
    """Set the header stamp, where there is a header."""
    header = getattr(message, "header", None)
    if header is not None:
        header.stamp.sec, header.stamp.nanosec = stamp_ns // 10**9, stamp_ns % 10**9


def _raw(steps: tuple[str | int, ...], message: Any) -> tuple[str | int, ...]:
    """The path of a number that is there: an angle of a quaternion is read, but its w is what can be written."""
    if steps[-1] in EULER and len(steps) > 1 and hasattr(getter(steps[:-1])(message), "w"):
        return (*steps[:-1], "w")
    return steps


def _put_array(message: Any, steps: tuple[str | int, ...], values: np.ndarray) -> None:
    holder = getter(steps[:-1])(message) if len(steps) > 1 else message
    now = getattr(holder, str(steps[-1]))
    setattr(holder, str(steps[-1]), values.astype(now.dtype) if isinstance(now, np.ndarray) else values.tolist())
