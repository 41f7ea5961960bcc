"""Recorder: a rosbag2 folder in MCAP, written so that a crash loses at most a moment and the robot never waits for the disk."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import yaml
from mcap.writer import CompressionType, Writer

from mbrl_control.data.message_types import definition, type_hash
from mbrl_control.errors import DataError

_FOREVER = {"sec": 9223372036, "nsec": 854775807}
_QOS = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "volatile", "deadline": _FOREVER, "lifespan": _FOREVER,
        "liveliness": "automatic", "liveliness_lease_duration": _FOREVER, "avoid_ros_namespace_conventions": False}


@dataclass(frozen=True)
class RecorderOptions:
    """How to record.

    Attributes:
        flush_s: what a killed recorder loses at most, about.
        chunk_bytes: a chunk is closed when it reaches this size.
        queue: messages that may wait for the disk; more are dropped and counted.
        sync_s: how often data is forced to the disk itself (against power loss); 0: never.
        min_free_bytes: refuse to start below, and stop when reached.
        check_s: how often the free space is looked at.
    """

    flush_s: float = 0.25
    chunk_bytes: int = 256 << 10
    queue: int = 20_000
    sync_s: float = 1.0
    min_free_bytes: int = 500 << 20
    check_s: float = 1.0


@dataclass(frozen=True)
class RecorderEvent:
    """Something that a person should know of.

    Attributes:
        code: `disk_full`, `queue_full`, `write_failed` or `bad_type`.
        text: one sentence.
    """

    code: str
    text: str


@dataclass
class RecorderCounts:
    """What became of the messages so far."""

    written: int = 0
    dropped: int = 0
    by_topic: dict[str, int] = field(default_factory=dict)


# topic, type, CDR bytes, receive ns, publish ns
_Item = tuple[str, str, bytes, int, int]


class Recorder:
    """Writes messages to `<folder>/<folder name>_0.mcap`, and metadata.yaml when closed; other tools read it like any rosbag2.

    `write` only puts into a queue; a thread of its own does the rest.

    Args:
        folder: of the bag; must not exist.
        options: see `RecorderOptions`.
        on_event: called from the recorder's thread.
        definitions: definition text of types that are not standard, by type.

    Raises:
        DataError: the folder exists or cannot be made, or the disk is too full.
    """

    def __init__(self, folder: str | Path, options: RecorderOptions | None = None, on_event: Callable[[RecorderEvent], None] | None = None,
                 definitions: dict[str, str] | None = None) -> None:
        self.folder, self.options = Path(folder), options or RecorderOptions()
        self.counts = RecorderCounts()
        self.events: list[RecorderEvent] = []
        self._on_event = on_event
        self._definitions = definitions or {}
        if self.folder.exists():
            raise DataError(f"{self.folder}: exists already; recordings are never overwritten, give another name")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder.parent).free
            if free < self.options.min_free_bytes:
                raise DataError(f"{self.folder}: {free >> 20} MB free on this disk, less than the limit of "
                                f"{self.options.min_free_bytes >> 20} MB; make room or record elsewhere")
            self.folder.mkdir()
            self.path = self.folder / f"{self.folder.name}_0.mcap"
            self._file: BinaryIO = self.path.open("wb", buffering=1 << 20)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be made: {error.strerror}") from error
        self._writer = Writer(self._file, chunk_size=self.options.chunk_bytes, compression=CompressionType.NONE)
        self._writer.start(profile="ros2", library="mbrl_control")
        self._flush()
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, tuple[int, str]] = {}
        self._span = (0, 0)
        self._queue: deque[_Item] = deque()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._stopped_early = False
        self._full = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._sync = threading.Thread(target=self._sync_loop, name="recorder-sync", daemon=True)
        self._thread.start()
        if self.options.sync_s > 0:
            self._sync.start()

    @property
    def recording(self) -> bool:
        """Messages still go to disk."""
        return not self._stopped_early and not self._stop.is_set()

    def write(self, topic: str, kind: str, payload: bytes, receive_ns: int, publish_ns: int = 0) -> bool:
        """Record a message; never waits.

        Args:
            topic: absolute name.
            kind: message type.
            payload: CDR bytes.
            receive_ns: when it was received.
            publish_ns: when it was sent; 0: not known, the time of receipt is written.

        Returns:
            False when it was dropped: the queue is full or recording has stopped.
        """
        if not self.recording or len(self._queue) >= self.options.queue:
            self.counts.dropped += 1
            self._full = True
            return False
        self._queue.append((topic, kind, payload, receive_ns, publish_ns or receive_ns))
        return True

    def close(self) -> None:
        """Write what is queued, the index and metadata.yaml. May be called twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if self.options.sync_s > 0:
            self._sync.join()
        try:
            self._writer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._write_metadata()
        except OSError as error:
            self._report("write_failed", f"{self.path}: could not be closed properly: {error.strerror}; `recover` makes it readable again")
        finally:
            with suppress(OSError):
                self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _report(self, code: str, text: str) -> None:
        event = RecorderEvent(code, text)
        self.events.append(event)
        if self._on_event:
            self._on_event(event)

    def _run(self) -> None:
        options = self.options
        # Short sleeps instead of a wake-up per message: `write` then costs its caller an append and nothing else.
        pause = min(0.02, options.flush_s / 4)
        flushed = checked = time.monotonic()
        while True:
            stopping = self._stop.is_set()
            try:
                pending = self._drain()
                now = time.monotonic()
                if now - flushed >= options.flush_s:
                    self._flush()
                    flushed = now
                if now - checked >= options.check_s:
                    checked = now
                    free = shutil.disk_usage(self.folder).free
                    if free < options.min_free_bytes:
                        self._halt("disk_full", f"{self.folder}: recording stopped: {free >> 20} MB free, the limit is "
                                                f"{options.min_free_bytes >> 20} MB")
            except OSError as error:
                self._halt("write_failed", f"{self.path}: recording stopped: {error.strerror}")
                pending = False
            if self._full:
                self._full = False
                if self.recording and not any(e.code == "queue_full" for e in self.events):
                    self._report("queue_full", f"{self.folder}: the disk is too slow; messages were dropped (see the counts)")
            if stopping and not pending:
                return
            if not pending:
                self._wake.wait(pause)

    def _halt(self, code: str, text: str) -> None:
        if self._stopped_early:
            return
        self._stopped_early = True
        self._queue.clear()
        with suppress(OSError):
            self._flush()
        self._report(code, text)

    def _drain(self) -> bool:
        """Write up to 1000 queued messages; True when there were that many."""
        for _ in range(1000):
            try:
                topic, kind, payload, receive_ns, publish_ns = self._queue.popleft()
            except IndexError:
                return False
            channel = self._channel(topic, kind)
            if channel is None:
                self.counts.dropped += 1
                continue
            self._writer.add_message(channel, receive_ns, payload, publish_ns, self.counts.by_topic[topic])
            first, last = self._span if self.counts.written else (receive_ns, receive_ns)
            self._span = (min(first, receive_ns), max(last, receive_ns))
            self.counts.by_topic[topic] += 1
            self.counts.written += 1
        return True

    def _channel(self, topic: str, kind: str) -> int | None:
        known = self._channels.get(topic)
        if known:
            return known[0] if known[1] == kind else None
        try:
            if kind not in self._schemas:
                self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", definition(kind, self._definitions.get(kind, "")).encode())
        except DataError as error:
            self._channels[topic] = (-1, "")
            self._report("bad_type", f"{self.folder}: topic {topic} is not recorded: {error}")
            return None
        metadata = {"offered_qos_profiles": yaml.safe_dump([_QOS], sort_keys=False).strip(), "topic_type_hash": type_hash(kind)}
        self._channels[topic] = (self._writer.register_channel(topic, "cdr", self._schemas[kind], metadata), kind)
        self.counts.by_topic[topic] = 0
        return self._channels[topic][0]

    def _flush(self) -> None:
        self._writer.flush()

    def _sync_loop(self) -> None:
        # Apart from the writing thread: forcing data to a slow disk can take seconds.
        while not self._stop.wait(self.options.sync_s):
            with suppress(OSError, ValueError):
                os.fdatasync(self._file.fileno())

    def _write_metadata(self) -> None:
        first, last = self._span
        topics = [{"topic_metadata": {"name": topic, "type": kind, "serialization_format": "cdr", "offered_qos_profiles": [_QOS],
                                      "type_description_hash": type_hash(kind)},
                   "message_count": self.counts.by_topic[topic]} for topic, (number, kind) in self._channels.items() if number >= 0]
        span = {"starting_time": {"nanoseconds_since_epoch": first}, "duration": {"nanoseconds": last - first}, "message_count": self.counts.written}
        information = {"version": 9, "storage_identifier": "mcap", **span, "topics_with_message_count": topics, "compression_format": "",
                       "compression_mode": "", "relative_file_paths": [self.path.name], "files": [{"path": self.path.name, **span}],
                       "custom_data": None, "ros_distro": "unknown"}
        partial = self.folder / "metadata.yaml.partial"
        partial.write_text(_plain_yaml({"rosbag2_bagfile_information": information}), "utf-8")
        partial.replace(self.folder / "metadata.yaml")


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors, which the C++ side of rosbag2 need not understand."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _plain_yaml(data: object) -> str:
    return str(yaml.dump(data, Dumper=_PlainDumper, sort_keys=False))
