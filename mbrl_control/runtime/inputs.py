"""Watch over the state topics: what of their messages may be acted on, how old the state is, and which faults that makes.

NumPy only, and no clock of its own: arrivals and the tick tell the time, so it runs on a virtual clock as well.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from mbrl_control.refusal import JOINTS, Reason, Refusal
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.faults import FAULTS
from mbrl_control.runtime.motion_check import MotionCheck
from mbrl_control.runtime.stamps import LEAST_STEP_S, RosClock, TopicStamps

FUTURE_IN_A_ROW = 5
REFUSED_IN_A_ROW = 3
DISORDER_SHARE = 0.1
LEAST_DISORDERED = 2
WINDOW_S = 1.0
_BUCKETS = 20
_DISORDER = frozenset({"stamp_duplicate", "stamp_disordered"})


class Share:
    """Which share of the messages of the last second were of a kind; counted by twentieths of it, so that a flood takes no memory."""

    def __init__(self) -> None:
        self._all = np.zeros(_BUCKETS, dtype=np.int64)
        self._kind = np.zeros(_BUCKETS, dtype=np.int64)
        self._slot = 0

    def _move_to(self, now_s: float) -> int:
        slot = math.floor(now_s * _BUCKETS / WINDOW_S)
        for passed in range(max(self._slot + 1, slot - _BUCKETS + 1), slot + 1):
            self._all[passed % _BUCKETS] = self._kind[passed % _BUCKETS] = 0
        self._slot = max(slot, self._slot)
        return self._slot % _BUCKETS

    def add(self, now_s: float, of_kind: bool) -> None:
        """Count a message."""
        at = self._move_to(now_s)
        self._all[at] += 1
        self._kind[at] += int(of_kind)

    def above(self, now_s: float, share: float, least: int) -> bool:
        """Whether more than `share` of the last second's messages, and at least `least`, were of the kind."""
        self._move_to(now_s)
        count = int(self._kind.sum())
        return count >= least and count > share * int(self._all.sum())


@dataclass
class _Topic:
    stamps: TopicStamps
    motion: MotionCheck
    measured_s: float = -math.inf
    joints_s: float = -math.inf
    future: int = 0
    refused: int = 0
    joints: int = 0
    disorder: Share = field(default_factory=Share)


class InputWatch:
    """What the messages of the state topics are worth.

    Each topic is judged by itself: a good message of one does not excuse another, order and shares are those of one topic, and the
    state is as old as the topic that is longest without news.

    Args:
        spec: the robot.
        sim_time: ROS time is that of a simulator. It goes on in steps of its period then, so stamps may lie further ahead by one of them
            and only steps beyond half a second count as the clock being set.

    Attributes:
        counts: messages that were not taken, by code of the refusal.
    """

    def __init__(self, spec: RobotSpec, sim_time: bool = False) -> None:
        self._clock = RosClock(0.5 if sim_time else max(0.5 * spec.tick_s, LEAST_STEP_S))
        ahead = spec.tick_s + (1.0 / spec.sim.state_hz if sim_time and spec.sim else 0.0)
        index: dict[str, list[int]] = {}
        for at, signal in enumerate(spec.state):
            index.setdefault(signal.topic, []).append(at)
        self._topics = {topic: _Topic(TopicStamps(self._clock, ahead), MotionCheck(spec, here)) for topic, here in index.items()}
        self.counts: Counter[Reason] = Counter()

    @property
    def clock_steps(self) -> int:
        """How often the ROS clock was set since the start."""
        return self._clock.steps

    def clock(self, ros_ns: int, now_s: float) -> None:
        """Compare ROS time with the monotonic clock, read one right after the other; before each message, best in each tick too."""
        step = self._clock.look(ros_ns, now_s)
        if step:
            for topic in self._topics.values():
                topic.stamps.stepped(step, now_s)

    def took(self, topic: str, stamp_ns: int | None, arrival_s: float, values: np.ndarray) -> Refusal | None:
        """Judge a message that could be read.

        Args:
            topic: as the spec names it.
            stamp_ns: its header stamp; None without one, or when it is not to be trusted: then its arrival counts alone.
            arrival_s: monotonic.
            values: [K] the numbers of the topic's signals, in the order of the spec; finite and within bounds.

        Returns:
            None, or why it must not be acted on. It is counted; do not give it to `refused` again.
        """
        here = self._topics[topic]
        measured: float | Refusal = arrival_s if stamp_ns is None else here.stamps.measured(stamp_ns, arrival_s)
        refusal = measured if isinstance(measured, Refusal) else here.motion.check(measured, values)
        if refusal is not None or isinstance(measured, Refusal):
            assert refusal is not None
            self.refused(topic, refusal.code, arrival_s)
            return refusal
        here.disorder.add(arrival_s, False)
        here.measured_s = measured
        here.future = here.refused = here.joints = 0
        return None

    def refused(self, topic: str, code: Reason, arrival_s: float) -> None:
        """Count a message that was refused, by its code.

        Args:
            topic: as the spec names it.
            code: of the refusal.
            arrival_s: monotonic.
        """
        here = self._topics[topic]
        self.counts[code] += 1
        if code == "joint_foreign":
            return
        here.disorder.add(arrival_s, code in _DISORDER)
        if code in JOINTS:
            here.joints += 1
            here.joints_s = arrival_s
        elif code == "stamp_future":
            here.future += 1
        elif code not in _DISORDER:
            here.refused += 1

    def age(self, now_s: float) -> float:
        """Age of the state in s: since it was measured, or since it arrived where that is longer; inf until every topic was heard."""
        return now_s - self.measured_s

    @property
    def measured_s(self) -> float:
        """When the oldest part of the state was measured, on the monotonic clock; -inf until every topic was heard."""
        return min(t.measured_s for t in self._topics.values())

    def faults(self, now_s: float) -> frozenset[str]:
        """Codes of the faults present now; how old the state is, the tick judges by itself."""
        found = set()
        for topic in self._topics.values():
            if topic.future >= FUTURE_IN_A_ROW:
                found.add("stamps_future")
            if topic.refused >= REFUSED_IN_A_ROW:
                found.add("state_refused")
            # One wrong message of a slow topic must not latch: it takes two, or a fast topic.
            if topic.joints > 1 or (topic.joints == 1 and now_s - topic.joints_s < FAULTS["joints_wrong"].latch_s - 1e-9):
                found.add("joints_wrong")
            if topic.disorder.above(now_s, DISORDER_SHARE, LEAST_DISORDERED):
                found.add("stamps_disordered")
        return frozenset(found)
