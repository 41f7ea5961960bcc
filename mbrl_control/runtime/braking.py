"""Braking distance: how fast an axis may go, and how far it may be sent, with the distance that is left to a hard limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mbrl_control.robot import RobotSpec


def fastest(distance: float, deceleration: float, reaction_s: float) -> float:
    """The greatest speed from which braking ends within a distance.

    Speeds are held for a tick T and act n T after they are sent; braking takes deceleration * T off each. From v_0 that covers
    T (v_0 + v_1 + …) <= (v_0 + a T / 2)^2 / (2 a), and while n commands are under way, each of them at most a T above the next,
    (v_0 + a T (n + 1/2))^2 / (2 a): hence v = sqrt(2 a d) - a (n + 1/2) T, which is also what the next tick can brake to.

    Args:
        distance: to the limit, m or rad; beyond it, negative.
        deceleration: a, m/s^2 or rad/s^2, > 0.
        reaction_s: (n + 1/2) T, s.

    Returns:
        Speed towards the limit, m/s or rad/s, >= 0.
    """
    return max(0.0, math.sqrt(2.0 * deceleration * max(distance, 0.0)) - deceleration * reaction_s)


@dataclass(frozen=True)
class _Guard:
    """A hard limit and the axis that moves towards it; units are those of the signal."""

    axis: int
    position: int
    speed: bool
    low: float
    high: float
    deceleration: float
    reaction_s: float


def _guards(spec: RobotSpec) -> list[_Guard]:
    out = []
    for k, (axis, command) in enumerate(zip(spec.axes, spec.command, strict=True)):
        signal = None if axis.position is None else spec.state[axis.position]
        if axis.position is None or signal is None or signal.limits is None:
            continue
        speed = axis.kind == "speed"
        deceleration = signal.max_deceleration or math.inf
        # A speed command cannot fall faster than its own rate limit lets it.
        deceleration = min(deceleration, command.max_rate or math.inf) if speed else deceleration
        ticks = math.ceil(command.delay_s * spec.rate_hz - 1e-9) if speed else 0
        out.append(_Guard(k, axis.position, speed, signal.limits[0] + signal.margin, signal.limits[1] - signal.margin, deceleration,
                          (ticks + 0.5) * spec.tick_s))
    return out


class BrakingLimits:
    """Limits of commands that set the speed or the position of a signal with hard limits; those move with the state.

    Args:
        spec: the robot.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._guards = _guards(spec)
        self._tick_s = spec.tick_s
        self._low, self._high = np.full(spec.action_dim, -math.inf), np.full(spec.action_dim, math.inf)

    def __bool__(self) -> bool:
        return bool(self._guards)

    def bounds(self, state: np.ndarray | None, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the commands must keep to now.

        A speed may only be so high that braking ends at the limit; without a state it may only be zero. A position lies within the
        limits and, with a `max_deceleration`, comes to them braking.

        Args:
            state: [S] finite; None when there is none to trust.
            last: [A] the command before, finite.

        Returns:
            [A] least and [A] greatest commands, -inf and inf for axes that have no such limits; valid until the next call.
        """
        for g in self._guards:
            self._low[g.axis], self._high[g.axis] = self._speeds(g, state) if g.speed else self._positions(g, float(last[g.axis]))
        return self._low, self._high

    @staticmethod
    def _speeds(g: _Guard, state: np.ndarray | None) -> tuple[float, float]:
        if state is None:
            return 0.0, 0.0
        at = float(state[g.position])
        return -fastest(at - g.low, g.deceleration, g.reaction_s), fastest(g.high - at, g.deceleration, g.reaction_s)

    def _positions(self, g: _Guard, last: float) -> tuple[float, float]:
        if g.deceleration == math.inf:
            return g.low, g.high
        back = self._tick_s * fastest(last - g.low, g.deceleration, g.reaction_s)
        ahead = self._tick_s * fastest(g.high - last, g.deceleration, g.reaction_s)
        return max(g.low, last - back), min(g.high, last + ahead)
