"""The last stage before a command leaves: finite, within the limits, within the rates. Whatever was learned, this holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import look_ahead
from mbrl_control.runtime.braking import BrakingLimits
from mbrl_control.runtime.safe_policy import SafePolicy

UNSAFE = frozenset({"command_unsafe"})
FINE: frozenset[str] = frozenset()


def safe_command(spec: RobotSpec, wanted: np.ndarray, last: np.ndarray, dt: float) -> tuple[np.ndarray, bool]:
    """Limit a command.

    Args:
        spec: limits and greatest rates.
        wanted: [A]; any numbers, also non-finite.
        last: [A] the command before, within the limits.
        dt: seconds since it was sent.

    Returns:
        [A] a command within limits and rates, and whether `wanted` had to be changed. A non-finite axis keeps its last value.
    """
    finite = np.isfinite(wanted)
    out = np.where(finite, wanted, last)
    out = np.clip(out, spec.action_low, spec.action_high)
    step = spec.action_max_rate * max(1e-12, dt)  # not 0: an axis without a rate limit has none at any time, and inf x 0 is no number
    out = np.clip(out, last - step, last + step)
    out = np.clip(out, spec.action_low, spec.action_high)
    return out, not (finite.all() and np.array_equal(out, wanted))


def safe_action(spec: RobotSpec, state: np.ndarray | None, last: np.ndarray) -> np.ndarray:
    """[A] what the robot's YAML asks for when there is nothing better; see `SafePolicy`.

    Args:
        spec: the robot.
        state: [S] the state; without one, or where it is not finite, `brake` on an effort is the zero command.
        last: [A] the command of the tick before.
    """
    known = state if state is not None and np.isfinite(state).all() else None
    return SafePolicy.of(spec).command(known, last, spec.tick_s)


@dataclass(frozen=True)
class Filtered:
    """What the filter let through.

    Attributes:
        command: [A] to send: finite, within limits and rates.
        limited: whether it is not what was wanted.
        faults: codes of `mbrl_control.runtime.faults.FAULTS`.
    """

    command: np.ndarray
    limited: bool
    faults: frozenset[str]


class SafetyFilter:
    """Limits of value, rate and braking distance, and, where the robot's `safety` asks for it, a look ahead with the nominal model.

    A command passes the look ahead when, after it has acted for a tick, the safe action keeps every state within its limits for the
    horizon, and what still moves then would keep within them for as long again. Whoever is outside already may not get further out. So
    after each command that was sent there is a manoeuvre that was found good; it is what is sent when nothing else is (Wabersich and
    Zeilinger, "A predictive safety filter", Automatica 2021; with a fixed backup policy, arXiv:2404.05496).

    Args:
        spec: the robot.
        base: folder that `sim.mjcf` is looked up in first (that of the robot's YAML).

    Raises:
        UserError: the nominal model does not fit the robot.
    """

    def __init__(self, spec: RobotSpec, base: Path | None = None) -> None:
        self.spec = spec
        self.policy = SafePolicy.of(spec)
        self._braking = BrakingLimits(spec)
        self._ahead = look_ahead.build(spec, base) if spec.safety.backup else None
        self._limited = np.flatnonzero(np.isfinite(spec.limit_low))
        self._low, self._high = spec.limit_low[self._limited], spec.limit_high[self._limited]
        rates = dict(spec.rate_pairs)
        limited = [int(i) for i in self._limited]
        self._moving = np.array([k for k, i in enumerate(limited) if i in rates], dtype=np.intp)
        self._rates = np.array([rates[i] for i in limited if i in rates], dtype=np.intp)
        reach = int(look_ahead.Setting.of(spec).delay.max()) if self._ahead else 0
        self._sent = np.tile(spec.action_zero, (reach, 1))

    def begin(self, command: np.ndarray) -> None:
        """Take a command [A] as what was sent all the time before: at activation."""
        self._sent[:] = command

    def apply(self, wanted: np.ndarray, last: np.ndarray, state: np.ndarray | None, dt: float) -> Filtered:
        """The command to send. Call it once a tick: with a dead time it remembers what it let through.

        Args:
            wanted: [A] any numbers.
            last: [A] the command sent before.
            state: [S] as measured; None when there is none to trust: then nothing passes the look ahead but the safe action.
            dt: seconds since `last` was sent.
        """
        known = state if state is not None and np.isfinite(state).all() else None
        before = last if np.isfinite(last).all() else np.where(np.isfinite(last), last, self.spec.action_zero)
        checked = wanted
        if self._ahead is not None and known is None:
            checked = self.policy.command(None, before, self.spec.tick_s)
        command = self._limit(checked, before, known, dt)
        faults = FINE
        if self._ahead is not None and known is not None and not self._passes(self._ahead, known, command):
            command = self._limit(self.policy.command(known, before, self.spec.tick_s), before, known, dt)
            faults = UNSAFE
        if len(self._sent):
            self._sent = np.concatenate((self._sent[1:], command[None]))
        return Filtered(command, not np.array_equal(command, wanted), faults)

    def _limit(self, wanted: np.ndarray, last: np.ndarray, state: np.ndarray | None, dt: float) -> np.ndarray:
        if self._braking:
            low, high = self._braking.bounds(state, last)
            wanted = np.minimum(np.maximum(np.where(np.isfinite(wanted), wanted, last), low), high)
        return safe_command(self.spec, wanted, last, dt)[0]

    def _passes(self, ahead: look_ahead.LookAhead, state: np.ndarray, command: np.ndarray) -> bool:
        states = ahead(state, command, self._sent)
        low, high = np.minimum(self._low, state[self._limited]), np.maximum(self._high, state[self._limited])
        path = states[:, self._limited]
        end = path[-1].copy()
        end[self._moving] += states[-1, self._rates] * self.spec.safety.horizon_s
        # Written so that a number which is none fails.
        return bool((path >= low).all() and (path <= high).all() and (end >= low).all() and (end <= high).all())
