"""Tail: what was added to a bag that is still being written; and the episodes that grow from it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbrl_control.data.align import Clocks, Stream, align, choose_times
from mbrl_control.data.bag_episodes import version_of
from mbrl_control.data.episodes import Episode
from mbrl_control.data.expansion import ExpansionError
from mbrl_control.data.mcap_bag import part_of, parts_in
from mbrl_control.data.mcap_records import McapScanner
from mbrl_control.data.message_types import TypeBook, decode
from mbrl_control.errors import DataError
from mbrl_control.heartbeat import nothing
from mbrl_control.messages import DECISION_TOPIC, parts, stamp_ns, stamped_command_signals
from mbrl_control.robot import RobotSpec

_AT_ONCE = 64 << 20
_PROGRESS_EVERY = 1000
LEAVING_S = 30.0


class TailMessage(NamedTuple):
    """A message as recorded: topic, type, times in ns, CDR bytes."""

    topic: str
    type: str
    log_time_ns: int
    publish_ns: int
    payload: bytes


class McapTail:
    """Follows an MCAP file while a recorder writes it. Reads whole records only; a partly written last one is waited for.

    In a recorder's folder it goes on with the next part once there is one: the one before is full, or its recorder was killed, and what
    that left half written will never be whole. Parts that were dropped as too old are passed over.

    Args:
        path: the file, or the folder that the recorder makes; need not exist yet.
        topics: names to return (matched at the end of the recorded name); None: all.

    Attributes:
        part: number of the file that is read, in a folder.
        offset: bytes of it that were read.
    """

    def __init__(self, path: str | Path, topics: list[str] | None = None) -> None:
        self.path = Path(path)
        self.part = self.offset = 0
        self._types = TypeBook()
        self._ends = None if topics is None else tuple("/" + t.lstrip("/") for t in topics)
        self._scanner = self._new_scanner()

    def _new_scanner(self) -> McapScanner:
        ends = self._ends
        return McapScanner(lambda name: ends is None or ("/" + name.lstrip("/")).endswith(ends))

    @property
    def types(self) -> TypeBook:
        """The message types met so far, with the file's own definitions."""
        for channel in self._scanner.channels.values():
            if channel.schema:
                self._types.definitions.setdefault(channel.type, (channel.schema, channel.schema_encoding))
        return self._types

    @property
    def finished(self) -> bool:
        """The recorder closed the file and everything was read."""
        return self._scanner.finished

    def read(self) -> list[TailMessage]:
        """The messages that came since the last call, in file order; empty when nothing did.

        Raises:
            DataError: the file is damaged; everything sound before that was returned by earlier calls.
        """
        out: list[TailMessage] = []
        # Looked for before the reading: when there is a next part, nothing is added to this one any more.
        for following in [number for number in parts_in(self.path) if number > self.part]:
            if not self._scanner.fault:
                out += self._read_part()
            _ = self.types  # those of this part are kept
            self.part, self.offset, self._scanner = following, 0, self._new_scanner()
        return out + self._read_part()

    def _read_part(self) -> list[TailMessage]:
        if self._scanner.fault:
            raise DataError(f"{self.path}: damaged after byte {self.offset}: {self._scanner.fault}; stop and recover it")
        if self._scanner.finished:
            return []
        path = part_of(self.path, self.part) if self.path.is_dir() else self.path
        try:
            with path.open("rb") as file:
                file.seek(self.offset)
                while True:
                    want = max(_AT_ONCE, self._scanner.missing)
                    data = file.read(min(want, max(os.fstat(file.fileno()).st_size - self.offset, 0)))
                    used = self._feed(data, path)
                    if self._scanner.fault:  # what is sound is handed over; the next call tells the fault
                        break
                    self.offset += used
                    if len(data) < want or self._scanner.finished:
                        break
                    file.seek(self.offset)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        channels, fresh = self._scanner.channels, self._scanner.messages
        self._scanner.messages = []
        return [TailMessage(channels[c].topic, channels[c].type, log, publish, payload) for c, log, publish, payload in fresh]

    def _feed(self, data: bytes, path: Path) -> int:
        try:
            return self._scanner.feed(data)
        except ExpansionError as error:
            raise DataError(f"{path}: {error}") from error


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
        self._last_ns = 0
        self._origin_ns: int | None = None  # kept when old data is forgotten, so that an instant keeps its time
        self.rejected: Counter[str] = Counter()

    def poll(self) -> int:
        """Take in what was recorded since the last call.

        Returns:
            How many messages were taken.

        Raises:
            DataError: the file is damaged, or a topic has another type than the spec says.
        """
        taken, fresh = 0, self.tail.read()
        types = self.tail.types
        for number, message in enumerate(fresh):
            if number % _PROGRESS_EVERY == 0:
                self._progress()
            topic = self._topic(message)
            if topic is None:
                continue
            decoded = decode(message.type, message.payload, types.store(message.type))
            clocks = (stamp_ns(decoded) or 0, message.publish_ns, message.log_time_ns)
            self._last_ns = max(self._last_ns, message.log_time_ns)
            if topic == DECISION_TOPIC:
                if (version := version_of(decoded)) is not None:
                    self._versions.add(clocks, np.array([version]))
                continue
            reader = self._parts[topic].reader
            fault = reader.read(decoded)
            if fault is None:
                self._rows[topic].add(clocks, reader.values)
                taken += 1
            else:
                self.rejected[f"{topic}: {fault}"] += 1
        oldest = self._last_ns - int(self.window_s * 1e9)
        for rows in (*self._rows.values(), self._versions):
            rows.forget_before(oldest)
        return taken

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
