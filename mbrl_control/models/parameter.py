"""A parameter of equations of motion as a search for it sees it: where it begins, what is possible, what leaves a trace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One number that logs may tell.

    Attributes:
        name: of it.
        unit: SI.
        meaning: in words, or what it is made of in the system's own parameters.
        start: where the search begins.
        low, high: what is physically possible.
        size: how great it may typically be; 0 where nothing is known but its start.
        linear: whether efforts are linear in it. Others keep their start in least squares; only shooting finds them.
        tries: values that the search for a start looks at.
        unseen: a value that leaves no trace in logs, as a saturation that no command reaches; it is looked for only where one of `tries`
            explains them clearly better. None where there is none.
    """

    name: str
    unit: str
    meaning: str
    start: float
    low: float
    high: float
    size: float = 0.0
    linear: bool = True
    tries: tuple[float, ...] = ()
    unseen: float | None = None
