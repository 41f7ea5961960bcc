"""The episodes of a run that grow while it is recorded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_control.data.align import Clocks, Stream, align, choose_times
from mbrl_control.data.bag_episodes import version_of
from mbrl_control.data.episodes import Episode
from mbrl_control.data.message_types import decode
from mbrl_control.data.tail import McapTail, TailMessage
from mbrl_control.errors import DataError
from mbrl_control.heartbeat import nothing
from mbrl_control.messages import DECISION_TOPIC, parts, stamp_ns, stamped_command_signals
from mbrl_control.robot import RobotSpec

_PROGRESS_EVERY = 1000
_FORGET_EVERY = 20_000
LEAVING_S = 30.0


class _Growing:
    """Rows that keep coming: times [N] and values [N, K] without copying all of them each time."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._clocks = np.empty((256, 3), np.int64)
        self._values = np.empty((256, width))

    def add(self, clocks: tuple[int, int, int], values: np.ndarray) -> None:
        if self.count == len(self._clocks):
            self._clocks = np.concatenate([self._clocks, np.empty_like(self._clocks)])
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._clocks[self.count], self._values[self.count] = clocks, values
        self.count += 1

    def forget_before(self, receive_ns: int) -> None:
        first = int(np.searchsorted(self._clocks[:self.count, 2], receive_ns))
        if first > self.count // 4:
            self._clocks = self._clocks[first:].copy()
            self._values = self._values[first:].copy()
            self.count -= first
            if not len(self._clocks):
                self._clocks, self._values = np.empty((256, 3), np.int64), np.empty((256, self._values.shape[1]))

    def clocks(self, topic: str) -> Clocks:
        stamp, publish, receive = self._clocks[:self.count].T
        return Clocks(topic, stamp, publish, receive)

    def values(self) -> np.ndarray:
        return self._values[:self.count]


class EpisodeTail:
    """Episodes of a run while it is being recorded, from the robot's state topics and the stamped `mbrl/command`.

    Args:
        path: what the recorder writes (folder or file).
        spec: the robot.
        window_s: older data is forgotten; by default a little after the trainer's window, so that the trainer sees all that leaves it.
        progress: called now and then while much is taken in.
    """

    def __init__(self, path: str | Path, spec: RobotSpec, window_s: float | None = None,
                 progress: Callable[[], None] = nothing) -> None:
        self._progress = progress
        self.spec, self.window_s = spec, window_s or spec.trainer.window_s + LEAVING_S
        anything = np.full(spec.action_dim, np.inf)
        self._states = parts(spec.state, spec.state_low, spec.state_high)
        self._commands = parts(stamped_command_signals(spec), -anything, anything)
        self.tail = McapTail(path, [p.topic for p in (*self._states, *self._commands)] + [DECISION_TOPIC])
        self._parts = {p.topic: p for p in (*self._states, *self._commands)}
        self._rows = {topic: _Growing(len(p.index)) for topic, p in self._parts.items()}
        self._versions = _Growing(1)
        self._topics: dict[str, str | None] = {}
        self._stores: dict[str, Any] = {}
        self._last_ns = 0
        self._backlog: Iterator[TailMessage] | None = None
        self._origin_ns: int | None = None  # kept when old data is forgotten, so that an instant keeps its time
        self.rejected: Counter[str] = Counter()

    @property
    def behind(self) -> bool:
        """The last `poll` ended before all was taken in that had been recorded."""
        return self._backlog is not None

    def poll(self, at_most_s: float = math.inf) -> int:
        """Take in what was recorded since the last call.

        Args:
            at_most_s: end when so much time of the recording was taken in; the next call goes on from there. At most `LEAVING_S` show
                who calls `episodes` after each call every row before it is forgotten.

        Returns:
            How many messages were taken.

        Raises:
            DataError: the file is damaged, or a topic has another type than the spec says.
        """
        taken, begin = 0, self._last_ns
        backlog, self._backlog = self._backlog or chain.from_iterable(self.tail.pieces()), None
        for number, message in enumerate(backlog, start=1):
            taken += self._take(message)
            if number % _PROGRESS_EVERY == 1:
                self._progress()
            if number % _FORGET_EVERY == 0:
                self._forget()
            begin = begin or self._last_ns
            if self._last_ns - begin >= at_most_s * 1e9:
                self._backlog = backlog
                break
        self._forget()
        return taken

    def _forget(self) -> None:
        for rows in (*self._rows.values(), self._versions):
            rows.forget_before(self._last_ns - int(self.window_s * 1e9))

    def _take(self, message: TailMessage) -> bool:
        """Take in a message; whether it was a state or a command that counts."""
        topic = self._topic(message)
        if topic is None:
            return False
        if message.type not in self._stores:
            self._stores[message.type] = self.tail.types.store(message.type)
        decoded = decode(message.type, message.payload, self._stores[message.type])
        clocks = (stamp_ns(decoded) or 0, message.publish_ns, message.log_time_ns)
        self._last_ns = max(self._last_ns, message.log_time_ns)
        if topic == DECISION_TOPIC:
            if (version := version_of(decoded)) is not None:
                self._versions.add(clocks, np.array([version]))
            return False
        reader = self._parts[topic].reader
        fault = reader.read(decoded)
        if fault is not None:
            self.rejected[f"{topic}: {fault}"] += 1
            return False
        self._rows[topic].add(clocks, reader.values)
        return True

    def episodes(self) -> list[Episode]:
        """All episodes so far, the last one still growing; rows are the instants at which commands were sent."""
        everything = [*self._states, *self._commands]
        times, notes = choose_times([self._rows[p.topic].clocks(p.topic) for p in everything])
        streams = [Stream(p.topic, p.index, t, self._rows[p.topic].values()) for p, t in zip(everything, times, strict=True)]
        if self._origin_ns is None and all(len(s.time_ns) for s in streams):
            self._origin_ns = min(int(s.time_ns.min()) for s in streams)
        versions = None
        if self._versions.count:
            versions = Stream(DECISION_TOPIC, np.array([0]), self._versions.clocks(DECISION_TOPIC).stamp_ns, self._versions.values())
        count = len(self._states)
        return align(streams[:count], streams[count:], self.spec, self.tail.path.name, notes, on_commands=True, version=versions,
                     origin_ns=self._origin_ns)

    def _topic(self, message: TailMessage) -> str | None:
        """The spec's name of a recorded topic."""
        if message.topic not in self._topics:
            known = [t for t in (*self._parts, DECISION_TOPIC) if ("/" + message.topic.lstrip("/")).endswith("/" + t.lstrip("/"))]
            name = max(known, key=len, default=None)
            if name in self._parts and self._parts[name].type != message.type:
                raise DataError(f"{self.tail.path}: topic {message.topic} is recorded as {message.type}, but the robot's YAML says "
                                f"{self._parts[name].type}; correct `type` there")
            if name is not None and name in self._topics.values():
                other = next(t for t, n in self._topics.items() if n == name)
                raise DataError(f"{self.tail.path}: '{name}' may be {other} or {message.topic}; record one robot per bag")
            self._topics[message.topic] = name
        return self._topics[message.topic]
