"""Recorder: writes a bag so that a crash loses at most a moment and the robot never waits for the disk."""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.data.sizes import Sizes
from mbrl_control.errors import DataError

_BATCH = 1000


@dataclass(frozen=True)
class RecorderOptions:
    """How to record.

    Attributes:
        flush_s: what a killed recorder loses at most, about.
        queue: messages that may wait for the disk; more are dropped and counted.
        sync_s: how often data is forced to the disk itself (against power loss); 0: never.
        min_free_bytes: refuse to start below, and stop when reached; where old files may be dropped they go first.
        check_s: how often the free space is looked at.
        resume: go on in the folder of a recorder that ended too early, in a file of its own.
        sizes: of the bag's files.
    """

    flush_s: float = 0.25
    queue: int = 20_000
    sync_s: float = 1.0
    min_free_bytes: int = 1 << 30
    check_s: float = 1.0
    resume: bool = False
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True)
class RecorderEvent:
    """Something that a person should know of.

    Attributes:
        code: `disk_full`, `room_made`, `queue_full`, `write_failed` or `bad_topic`.
        text: one sentence.
    """

    code: str
    text: str


@dataclass(frozen=True)
class _Item:
    topic: str
    type: str
    payload: bytes
    receive_ns: int
    publish_ns: int


class Recorder:
    """Records messages into a rosbag2 folder. `write` only puts into a queue; a thread of its own does the rest.

    Args:
        folder: of the bag; must not exist, unless it is resumed.
        options: see `RecorderOptions`.
        on_event: called from the recorder's thread.
        definitions: `ros2msg` definition text of types that are not standard, by type.

    Attributes:
        dropped: messages that were not recorded.
        events: everything reported so far.

    Raises:
        DataError: the folder exists or cannot be made, or the disk is too full.
    """

    def __init__(self, folder: str | Path, options: RecorderOptions | None = None, on_event: Callable[[RecorderEvent], None] | None = None,
                 definitions: dict[str, str] | None = None) -> None:
        self.folder, self.options = Path(folder), options or RecorderOptions()
        self.dropped = 0
        self.events: list[RecorderEvent] = []
        self._on_event = on_event
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder.parent).free
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be made: {error.strerror}") from error
        if free < self.options.min_free_bytes:
            raise DataError(f"{self.folder}: {free >> 20} MB free on this disk, less than the limit of "
                            f"{self.options.min_free_bytes >> 20} MB; make room or record elsewhere")
        self._bag = McapBag(self.folder, self.options.sizes, {k: (t, "ros2msg") for k, t in (definitions or {}).items()},
                            self.options.resume)
        self._bag.flush()
        self._refused: set[str] = set()
        self._queue: deque[_Item] = deque()
        self._stop = threading.Event()
        self._halted = False
        self._overflow = False
        self._threads = [threading.Thread(target=self._run, name="recorder", daemon=True)]
        if self.options.sync_s > 0:
            # apart from the writing thread: forcing data to a slow disk can take seconds
            self._threads.append(threading.Thread(target=self._sync, name="recorder-sync", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def path(self) -> Path:
        """The file that is written now."""
        return self._bag.path

    @property
    def recording(self) -> bool:
        """Messages still go to disk."""
        return not self._halted and not self._stop.is_set()

    @property
    def counts(self) -> dict[str, int]:
        """Messages written, by topic."""
        return self._bag.counts

    @property
    def written(self) -> int:
        """Messages written."""
        return self._bag.count

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
        if not self.recording:
            self.dropped += 1
            return False
        if len(self._queue) >= self.options.queue:
            self.dropped += 1
            self._overflow = True
            return False
        self._queue.append(_Item(topic, kind, payload, receive_ns, publish_ns or receive_ns))
        return True

    def close(self) -> None:
        """Write what is queued, the index and metadata.yaml. May be called twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        for thread in self._threads:
            thread.join()
        try:
            self._bag.close()
        except Exception as error:  # closing must not bring down a program that has a robot to stop
            why = getattr(error, "strerror", None) or error
            self._report("write_failed", f"{self.path}: could not be closed: {why}; recover it to make it readable again")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _report(self, code: str, text: str) -> None:
        event = RecorderEvent(code, text)
        self.events.append(event)
        if self._on_event:
            self._on_event(event)

    def _halt(self, code: str, text: str) -> None:
        if self._halted:
            return
        self._halted = True
        self.dropped += len(self._queue)
        self._queue.clear()
        with suppress(OSError):
            self._bag.flush()
        self._report(code, text)

    def _run(self) -> None:
        # Short sleeps instead of a wake-up per message: `write` then costs its caller an append and nothing else.
        pause = min(0.02, self.options.flush_s / 4)
        flushed = checked = time.monotonic()
        while True:
            stopping = self._stop.is_set()
            more = False
            try:
                more = self._write_batch()
                now = time.monotonic()
                if now - flushed >= self.options.flush_s:
                    flushed = now
                    self._bag.flush()
                if now - checked >= self.options.check_s:
                    checked = now
                    self._check_disk()
            except Exception as error:  # whatever happens here must be told, not end this thread in silence
                self._halt("write_failed", f"{self.path}: recording stopped: {getattr(error, 'strerror', None) or error}")
            if self._overflow:
                self._overflow = False
                if not any(e.code == "queue_full" for e in self.events):
                    self._report("queue_full", f"{self.folder}: messages come faster than they can be written; some were dropped")
            if more:
                continue
            if stopping:
                return
            self._stop.wait(pause)

    def _write_batch(self) -> bool:
        """Write queued messages; True when more may be waiting."""
        for _ in range(_BATCH):
            try:
                item = self._queue.popleft()
            except IndexError:
                return False
            if item.topic in self._refused:
                self.dropped += 1
                continue
            try:
                self._bag.write(item.topic, item.type, item.payload, item.receive_ns, item.publish_ns)
            except DataError as error:
                self._refused.add(item.topic)
                self.dropped += 1
                self._report("bad_topic", f"{self.folder}: topic {item.topic} is not recorded any further: {error}")
        return True

    def _check_disk(self) -> None:
        free, limit = shutil.disk_usage(self.folder).free, self.options.min_free_bytes
        if free >= limit:
            return
        if not self._bag.make_room(limit - free):
            self._halt("disk_full", f"{self.folder}: recording stopped: {free >> 20} MB free, the limit is {limit >> 20} MB")
        elif not any(e.code == "room_made" for e in self.events):
            self._report("room_made", f"{self.folder}: {free >> 20} MB free, the limit is {limit >> 20} MB; the oldest files are dropped")

    def _sync(self) -> None:
        while not self._stop.wait(self.options.sync_s):
            self._bag.sync()
