"""Writes one MCAP file of a rosbag2 folder, with the definitions of its messages."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from mcap.writer import CompressionType, Writer

from mbrl_control.data.message_types import definition, type_hash

Definitions = dict[str, tuple[str, str]]
"""(text, encoding) of types that are not standard, by type; encoding `ros2msg` or `ros2idl`."""
_FOREVER = {"sec": 9223372036, "nsec": 854775807}
QOS = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "volatile", "deadline": _FOREVER,
       "lifespan": _FOREVER, "liveliness": "automatic", "liveliness_lease_duration": _FOREVER, "avoid_ros_namespace_conventions": False}


class McapPart:
    """One file being written.

    Args:
        path: must not exist.
        chunk_bytes: a chunk is closed when it reaches this size, or by `flush`.
        definitions: of types that are not standard.

    Attributes:
        counts: messages written, by topic.
        first_ns: least time of receipt of a message; 0 before there is one.
        last_ns: greatest.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, chunk_bytes: int, definitions: Definitions) -> None:
        self.path, self._definitions = path, definitions
        self.counts: dict[str, int] = {}
        self.first_ns, self.last_ns = 0, 0
        self._file: BinaryIO = path.open("xb", buffering=1 << 20)
        self._writer: Any = Writer(self._file, chunk_size=chunk_bytes, compression=CompressionType.NONE)
        self._writer.start(profile="ros2", library="mbrl_control")
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Bytes so far, without the chunk at hand."""
        return self._file.tell()

    def write(self, topic: str, kind: str, payload: bytes, receive_ns: int, publish_ns: int) -> None:
        """Write a message into the chunk at hand; a topic has the type of its first message.

        Raises:
            DataError: the type has no definition. Nothing of it is then in the file.
        """
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = self._register(topic, kind)
            if not self.counts:
                self.first_ns = receive_ns
            self.counts[topic] = 0
        self._writer.add_message(channel, receive_ns, payload, publish_ns, self.counts[topic])
        self.counts[topic] += 1
        self.first_ns, self.last_ns = min(self.first_ns, receive_ns), max(self.last_ns, receive_ns)

    def _register(self, topic: str, kind: str) -> int:
        if kind not in self._schemas:
            text, encoding = self._definitions.get(kind) or (definition(kind), "ros2msg")
            self._schemas[kind] = self._writer.register_schema(kind, encoding, text.encode())
        metadata = {"offered_qos_profiles": yaml.safe_dump([QOS], sort_keys=False).strip(), "topic_type_hash": type_hash(kind)}
        return int(self._writer.register_channel(topic, "cdr", self._schemas[kind], metadata))

    def flush(self) -> None:
        """Close the chunk and hand it to the operating system: a killed process loses nothing of it."""
        self._writer.flush()

    def finish(self) -> None:
        """Write the index; nothing more can be written then.

        Raises:
            OSError: the disk would not take it; what was flushed is safe.
        """
        self._writer.finish()
        self._file.flush()

    def sync(self) -> None:
        """Force what was flushed to the disk itself. May be called from another thread."""
        with suppress(OSError, ValueError):
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Give up the file. May be called twice."""
        with suppress(OSError):
            self._file.close()
