"""Writes a rosbag2 folder in MCAP: one file with message definitions, and metadata.yaml when closed."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from mcap.writer import CompressionType, Writer

from mbrl_control.data.message_types import definition, type_hash
from mbrl_control.errors import DataError

METADATA = "metadata.yaml"
_FOREVER = {"sec": 9223372036, "nsec": 854775807}
_QOS = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "volatile", "deadline": _FOREVER,
        "lifespan": _FOREVER, "liveliness": "automatic", "liveliness_lease_duration": _FOREVER, "avoid_ros_namespace_conventions": False}


@dataclass
class _Topic:
    type: str
    channel: int
    count: int = 0


def part_of(folder: Path, number: int) -> Path:
    """A file of a bag, as rosbag2 names them: `<folder>/<folder name>_<number>.mcap`."""
    return folder / f"{folder.name}_{number}.mcap"


class McapBag:
    """A rosbag2 folder being written: `<folder>/<folder name>_0.mcap`, readable by other tools like any rosbag2 once closed.

    Args:
        folder: must not exist, unless it is resumed.
        chunk_bytes: a chunk is closed when it reaches this size, or by `flush`.
        definitions: (text, encoding) of types that are not standard, by type; encoding `ros2msg` or `ros2idl`.
        resume: add a part to the folder of a recorder that ended too early. There is then no metadata.yaml: what is in the earlier
            part is not known, and readers look at the files.

    Raises:
        DataError: the folder exists or cannot be made.
    """

    def __init__(self, folder: Path, chunk_bytes: int = 256 << 10, definitions: dict[str, tuple[str, str]] | None = None,
                 resume: bool = False) -> None:
        self.folder, self.definitions = folder, definitions or {}
        self._resumed = resume and folder.exists()
        if folder.exists() and not resume:
            raise DataError(f"{folder}: exists already; recordings are never overwritten, give another name")
        try:
            folder.mkdir(parents=True, exist_ok=self._resumed)
            (folder / METADATA).unlink(missing_ok=True)  # it would hide the new part
            self.path = next(path for path in (part_of(folder, k) for k in itertools.count()) if not path.exists())
            self._file: BinaryIO = self.path.open("xb", buffering=1 << 20)
        except OSError as error:
            raise DataError(f"{folder}: cannot be made: {error.strerror}") from error
        self._writer: Any = Writer(self._file, chunk_size=chunk_bytes, compression=CompressionType.NONE)
        self._writer.start(profile="ros2", library="mbrl_control")
        self._schemas: dict[str, int] = {}
        self._topics: dict[str, _Topic] = {}
        self._first_ns = self._last_ns = 0
        self.count = 0

    @property
    def counts(self) -> dict[str, int]:
        """Messages written, by topic."""
        return {name: t.count for name, t in self._topics.items()}

    def write(self, topic: str, kind: str, payload: bytes, receive_ns: int, publish_ns: int) -> None:
        """Write a message into the chunk at hand.

        Raises:
            DataError: the type has no definition or differs from that of the topic's earlier messages, or the message cannot be
                written at all. Nothing of it is then in the file.
        """
        if not isinstance(payload, bytes):
            raise DataError(f"{self.folder}: a message of {topic} is {type(payload).__name__}, not CDR bytes")
        if not (0 <= receive_ns < 1 << 63 and 0 <= publish_ns < 1 << 63):
            raise DataError(f"{self.folder}: a message of {topic} has the times {receive_ns} and {publish_ns} ns; 0 to 2^63 are possible")
        known = self._topics.get(topic) or self._add(topic, kind)
        if known.type != kind:
            raise DataError(f"{self.folder}: topic {topic} carries {known.type}, not {kind}")
        self._writer.add_message(known.channel, receive_ns, payload, publish_ns, known.count)
        known.count += 1
        self._first_ns = min(self._first_ns, receive_ns) if self.count else receive_ns
        self._last_ns = max(self._last_ns, receive_ns)
        self.count += 1

    def _add(self, topic: str, kind: str) -> _Topic:
        if kind not in self._schemas:
            text, encoding = self.definitions.get(kind) or (definition(kind), "ros2msg")
            self._schemas[kind] = self._writer.register_schema(kind, encoding, text.encode())
        metadata = {"offered_qos_profiles": yaml.safe_dump([_QOS], sort_keys=False).strip(), "topic_type_hash": type_hash(kind)}
        self._topics[topic] = _Topic(kind, self._writer.register_channel(topic, "cdr", self._schemas[kind], metadata))
        return self._topics[topic]

    def flush(self) -> None:
        """Close the chunk and hand it to the operating system: a killed process loses nothing of it."""
        self._writer.flush()

    def sync(self) -> None:
        """Force what was flushed to the disk itself. May be called from another thread."""
        with suppress(OSError, ValueError):
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Write the index and, unless resumed, metadata.yaml.

        Raises:
            OSError: the disk would not take it; what was flushed is safe.
        """
        try:
            self._writer.finish()
            self._file.flush()
            self.sync()
            if self._resumed:
                return
            partial = self.folder / f"{METADATA}.partial"
            text = yaml.dump({"rosbag2_bagfile_information": self._information()}, Dumper=_PlainDumper, sort_keys=False)
            partial.write_text(text, "utf-8")
            partial.replace(self.folder / METADATA)
        finally:
            with suppress(OSError):
                self._file.close()

    def _information(self) -> dict[str, Any]:
        topics = [{"topic_metadata": {"name": name, "type": t.type, "serialization_format": "cdr", "offered_qos_profiles": [_QOS],
                                      "type_description_hash": type_hash(t.type)},
                   "message_count": t.count} for name, t in self._topics.items()]
        span = {"starting_time": {"nanoseconds_since_epoch": self._first_ns}, "duration": {"nanoseconds": self._last_ns - self._first_ns},
                "message_count": self.count}
        return {"version": 9, "storage_identifier": "mcap", **span, "topics_with_message_count": topics, "compression_format": "",
                "compression_mode": "", "relative_file_paths": [self.path.name], "files": [{"path": self.path.name, **span}],
                "custom_data": None, "ros_distro": "unknown"}


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors, which not every reader of metadata.yaml understands."""

    def ignore_aliases(self, data: object) -> bool:
        return True
