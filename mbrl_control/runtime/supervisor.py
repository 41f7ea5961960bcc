"""Supervisor: which mode the tick is in, as a pure function of the mode before, the faults present and the time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mbrl_control.runtime.faults import FAULTS, Mode

HEALTHY_S = 1.0
BRAKE_S = 1.0
_NONE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Supervision:
    """The supervisor's state; make the next one with `step`.

    Attributes:
        mode: now.
        since: when it began, s on the caller's monotonic clock.
        present: when each fault that is present began.
        severe_until: when a fault of BRAKE or worse was last present, or the mode last rose to BRAKE or worse.
        reasons: codes that brought the mode to where it is, the worst first; they stay until it falls.
    """

    mode: Mode = Mode.INACTIVE
    since: float = -math.inf
    present: Mapping[str, float] = field(default_factory=lambda: _NONE)
    severe_until: float = -math.inf
    reasons: tuple[str, ...] = ()


def severity(code: str, lasted_s: float) -> Mode:
    """The least mode while a fault is present that has lasted so long."""
    fault = FAULTS[code]
    return Mode.LATCHED if lasted_s >= fault.latch_s - 1e-9 else fault.mode


def step(before: Supervision, base: Mode, codes: Set[str], now: float, reset: bool = False) -> Supervision:
    """The state after a tick.

    Severity rises at once. From BRAKE and HOLD it falls after one second without a fault that asks for BRAKE or worse; from LATCHED only
    by `reset`, to BRAKE, and only when nothing asks for LATCHED any more. BRAKE becomes HOLD after a second.

    Args:
        before: the state before.
        base: what the tick would do without faults: INACTIVE, STANDBY, EXPLORE or ACTIVE.
        codes: faults present now, of `FAULTS`.
        now: s, monotonic.
        reset: whether an operator asks to leave LATCHED.
    """
    present = _NONE if not codes else MappingProxyType({code: before.present.get(code, now) for code in sorted(codes)})
    if base == Mode.INACTIVE:
        return Supervision(Mode.INACTIVE, before.since if before.mode == Mode.INACTIVE else now, present)
    modes = {code: severity(code, now - begin) for code, begin in present.items()}
    worst = max(modes.values(), default=Mode.INACTIVE)
    asked = max(worst, base) if worst >= Mode.DEGRADED else base
    severe_until = now if worst >= Mode.BRAKE else before.severe_until
    mode = _next(before, asked, worst, now, reset, severe_until)
    if before.mode == Mode.LATCHED > mode:
        severe_until = now
    reasons = tuple(sorted((c for c, m in modes.items() if m >= Mode.DEGRADED), key=lambda c: (-modes[c], c)))
    if mode >= Mode.BRAKE and not (reasons and modes[reasons[0]] >= Mode.BRAKE):
        reasons = before.reasons
    since = before.since if mode == before.mode else now
    return replace(before, mode=mode, since=since, present=present, severe_until=severe_until, reasons=reasons)


def _next(before: Supervision, asked: Mode, worst: Mode, now: float, reset: bool, severe_until: float) -> Mode:
    mode = before.mode
    if mode == Mode.LATCHED:
        return Mode.BRAKE if reset and worst < Mode.LATCHED else Mode.LATCHED
    if asked == Mode.LATCHED:
        return Mode.LATCHED
    if mode < Mode.BRAKE:
        return asked
    if asked < Mode.BRAKE and now - severe_until >= HEALTHY_S - 1e-9:
        return asked
    return Mode.HOLD if mode == Mode.HOLD or now - before.since >= BRAKE_S - 1e-9 else Mode.BRAKE
