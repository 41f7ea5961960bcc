"""What the topic `mbrl/decision` says of a tick, read from a message that anybody may have sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mbrl_control.runtime.faults import Mode

MOST = 2**53
"""Beyond it not every whole number is a number of a message."""


@dataclass(frozen=True)
class LoggedDecision:
    """What became of a tick.

    Attributes:
        mode: of the controller.
        model_version: version of the model that the plan was made with; 0 for none.
        faults: behind the mode, as `faults.mask` writes them.
    """

    mode: Mode
    model_version: int
    faults: int


def parse(names: Sequence[str], numbers: Sequence[float]) -> LoggedDecision | None:
    """Read a decision.

    Args:
        names: [K] as in `Decision.NAMES`, in any order, others besides; all but `mode` may be missing.
        numbers: [K] what each is.

    Returns:
        None for what is no decision: lengths differ, the mode is none, or a number that must be whole is not.
    """
    if len(names) != len(numbers):
        return None
    known = {name: float(number) for name, number in zip(names, numbers, strict=True)}
    version, faults = _whole(known.get("model_version", 0.0)), _whole(known.get("faults", 0.0))
    try:
        mode = Mode(known.get("mode", math.nan))  # type: ignore[arg-type]  # the members equal floats, and nan equals none
    except ValueError:
        return None
    return None if version is None or faults is None else LoggedDecision(mode, version, faults)


def _whole(number: float) -> int | None:
    return int(number) if 0 <= number < MOST and number.is_integer() else None
