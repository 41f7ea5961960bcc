"""Whether positions can have moved as a message says: no farther than their rate's bounds allow, and not stuck while the rate is high."""

from __future__ import annotations

import numpy as np

from mbrl_control.refusal import Refusal
from mbrl_control.robot import RobotSpec, wrap_angle

MARGIN = 3.0
"""A position may move so many times as far as its rate's bounds allow: rates are bounded roughly, and stamps jitter."""
CONSISTENT = 3
"""So many refused messages in a row that agree with each other are where the robot is: it was carried there, or reset."""
STUCK_SAMPLES = 10
STUCK_SHARE = 0.05
"""A rate beyond this share of its bound, of one sign over all those samples, is a movement. Noise of a rate at rest and the resolution of a
position sensor are far below it, so a robot at rest is never called stuck; one that is stuck while it moves slowly is not seen."""


class MotionCheck:
    """The positions of one topic; those without a `rate_of` signal that has bounds are not checked.

    Args:
        spec: the robot.
        index: [K] places of the topic's signals in the state vector.
    """

    def __init__(self, spec: RobotSpec, index: list[int]) -> None:
        here = {at: k for k, at in enumerate(index)}
        pairs = [(p, r) for p, r in spec.rate_pairs if p in here and spec.state[r].bounds is not None]
        self._at = np.array([here[p] for p, _ in pairs], dtype=int)
        self._speed = np.array([max(abs(spec.state_low[r]), abs(spec.state_high[r])) for _, r in pairs])
        self._wraps = np.array([bool(spec.wraps[p]) for p, _ in pairs], dtype=bool)
        self._names = [spec.state_names[p] for p, _ in pairs]
        beside = [(k, here[r]) for k, (_, r) in enumerate(pairs) if r in here]  # of another topic, the rate is from another instant
        self._paired = np.array([k for k, _ in beside], dtype=int)
        self._rate_at = np.array([r for _, r in beside], dtype=int)
        self._least_s = spec.tick_s
        self._last: np.ndarray | None = None
        self._last_s = 0.0
        self._elsewhere: np.ndarray | None = None
        self._elsewhere_s = 0.0
        self._agreed = 0
        self._direction = np.zeros(len(beside))
        self._same = np.zeros(len(beside), dtype=int)

    def check(self, time_s: float, values: np.ndarray) -> Refusal | None:
        """Why a message is not taken, or None; then its positions are what the next is compared with.

        Args:
            time_s: when it was measured, monotonic.
            values: [K] its numbers.
        """
        if not len(self._at):
            return None
        place = values[self._at]
        if self._last is not None and ((refusal := self._jump(time_s, place)) or (refusal := self._stuck(place, values))):
            return refusal
        self._last, self._last_s = place, time_s
        self._elsewhere, self._agreed = None, 0
        return None

    def _too_far(self, place: np.ndarray, time_s: float, before: np.ndarray, before_s: float) -> np.ndarray:
        """[P] how many times as far as it can each position moved."""
        moved = place - before
        if self._wraps.any():
            moved = np.where(self._wraps, wrap_angle(moved), moved)
        # Messages without stamps come in bursts: what lies within a tick counts as a tick.
        ratio: np.ndarray = np.abs(moved) / (self._speed * max(time_s - before_s, self._least_s))
        return ratio

    def _jump(self, time_s: float, place: np.ndarray) -> Refusal | None:
        assert self._last is not None
        ratio = self._too_far(place, time_s, self._last, self._last_s)
        at = int(ratio.argmax())
        if ratio[at] <= MARGIN:
            return None
        near = self._elsewhere is not None and bool(
            (self._too_far(place, time_s, self._elsewhere, self._elsewhere_s) <= MARGIN).all())
        if near and self._agreed >= CONSISTENT:
            self._same[:] = 0
            return None
        self._agreed = self._agreed + 1 if near else 1
        self._elsewhere, self._elsewhere_s = place, time_s
        return Refusal("jump", f"signal '{self._names[at]}' moved from {self._last[at]:g} to {place[at]:g} in "
                               f"{1e3 * (time_s - self._last_s):.1f} ms: {ratio[at]:.3g} times what the bounds of its rate allow")

    def _stuck(self, place: np.ndarray, values: np.ndarray) -> Refusal | None:
        assert self._last is not None
        if not len(self._paired):
            return None
        rates = values[self._rate_at]
        direction = np.sign(rates) * (np.abs(rates) > STUCK_SHARE * self._speed[self._paired])
        same = (place[self._paired] == self._last[self._paired]) & (direction != 0) & (direction == self._direction)
        self._same = np.where(same, self._same + 1, (direction != 0).astype(int))
        self._direction = direction
        at = int(self._same.argmax())
        if self._same[at] < STUCK_SAMPLES:
            return None
        name = self._names[self._paired[at]]
        return Refusal("stuck", f"signal '{name}' = {place[self._paired[at]]:g} stands still to the last bit for {self._same[at]} messages "
                                f"while its rate is {rates[at]:g}")
