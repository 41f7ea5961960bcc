"""Writes a rosbag2 folder in MCAP: files of a bounded size, of which the oldest may be dropped, and metadata.yaml when closed."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from mbrl_control.data.mcap_part import QOS, Definitions, McapPart
from mbrl_control.data.message_types import type_hash
from mbrl_control.data.sizes import Sizes
from mbrl_control.errors import DataError

METADATA = "metadata.yaml"


def part_of(folder: Path, number: int) -> Path:
    """A file of a bag, as rosbag2 names them: `<folder>/<folder name>_<number>.mcap`."""
    return folder / f"{folder.name}_{number}.mcap"


def parts_in(folder: Path) -> list[int]:
    """Numbers of the files of a bag that are there, in order; none where there is no such folder."""
    start, end = f"{folder.name}_", ".mcap"
    try:
        names = [path.name[len(start):-len(end)] for path in folder.iterdir() if path.name.startswith(start) and path.name.endswith(end)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if name.isdecimal())


@dataclass(frozen=True)
class _Content:
    """What a file holds: messages by topic, and the times of receipt of the first and the last."""

    path: Path
    counts: dict[str, int]
    first_ns: int
    last_ns: int

    @classmethod
    def of(cls, part: McapPart) -> Self:
        return cls(part.path, dict(part.counts), part.first_ns, part.last_ns)

    @property
    def count(self) -> int:
        return sum(self.counts.values())


class McapBag:
    """A rosbag2 folder being written, `<folder>/<folder name>_0.mcap` and so on; readable by other tools like any rosbag2 once closed.

    Args:
        folder: must not exist, unless it is resumed.
        sizes: of its files.
        definitions: of types that are not standard.
        resume: add to the folder of a recorder that ended too early. There is then no metadata.yaml: what is in the earlier
            files is not known, and readers look at the files.

    Raises:
        DataError: the folder exists or cannot be made.
    """

    def __init__(self, folder: Path, sizes: Sizes | None = None, definitions: Definitions | None = None, resume: bool = False) -> None:
        self.folder, self.sizes, self._definitions = folder, sizes or Sizes(), definitions or {}
        self._resumed = resume and folder.exists()
        if folder.exists() and not resume:
            raise DataError(f"{folder}: exists already; recordings are never overwritten, give another name")
        try:
            folder.mkdir(parents=True, exist_ok=self._resumed)
            (folder / METADATA).unlink(missing_ok=True)  # it would hide the new file
            self._part = self._begin()
        except OSError as error:
            raise DataError(f"{folder}: cannot be made: {error.strerror}") from error
        self._types: dict[str, str] = {}
        self._full: list[_Content] = []
        self._unsynced: list[Path] = []

    def _begin(self) -> McapPart:
        number = max(parts_in(self.folder), default=-1) + 1
        return McapPart(part_of(self.folder, number), self.sizes.chunk_bytes, self._definitions)

    @property
    def path(self) -> Path:
        """The file that is written now."""
        return self._part.path

    @property
    def counts(self) -> dict[str, int]:
        """Messages written, by topic; those of dropped files too."""
        total: Counter[str] = Counter()
        for part in (*self._full, _Content.of(self._part)):
            total.update(part.counts)
        return dict(total)

    @property
    def count(self) -> int:
        """Messages written."""
        return sum(self.counts.values())

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
        known = self._types.get(topic, kind)
        if known != kind:
            raise DataError(f"{self.folder}: topic {topic} carries {known}, not {kind}")
        self._part.write(topic, kind, payload, receive_ns, publish_ns)
        self._types[topic] = kind

    def flush(self) -> None:
        """Close the chunk and hand it to the operating system: a killed process loses nothing of it. Begins the next file when due.

        Raises:
            OSError: the disk would not take it.
        """
        self._part.flush()
        if self._part.size < self.sizes.part_bytes:
            return
        self._part.finish()  # before the next one is there: readers leave a file for good when they see it
        self._part.close()
        self._full.append(_Content.of(self._part))
        self._unsynced.append(self._part.path)
        self._part = self._begin()
        self._part.flush()
        if self.sizes.keep_bytes:
            self._drop(sum(map(_size, self._files())) - self.sizes.keep_bytes)

    def make_room(self, wanted: int) -> bool:
        """Drop the oldest files, if that is allowed (`keep_bytes`), until there are so many bytes more on the disk.

        Returns:
            Whether there are. Nothing is dropped in vain.
        """
        old = [path for path in self._files() if path != self.path]
        if not self.sizes.keep_bytes or sum(map(_size, old)) < wanted:
            return False
        self._drop(wanted)
        return True

    def _files(self) -> list[Path]:
        return [part_of(self.folder, number) for number in parts_in(self.folder)]

    def _drop(self, wanted: int) -> None:
        for path in self._files():
            if wanted <= 0 or path == self.path:
                break
            wanted -= _size(path)
            path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Force what was flushed to the disk itself. May be called from another thread."""
        while self._unsynced:
            with suppress(OSError), self._unsynced.pop(0).open("rb") as file:
                os.fdatasync(file.fileno())
        self._part.sync()

    def close(self) -> None:
        """Write the index and, unless resumed, metadata.yaml.

        Raises:
            OSError: the disk would not take it; what was flushed is safe.
        """
        try:
            self._part.finish()
            self.sync()
            if self._resumed:
                return
            there = set(self._files())
            parts = [part for part in (*self._full, _Content.of(self._part)) if part.path in there]
            partial = self.folder / f"{METADATA}.partial"
            text = yaml.dump({"rosbag2_bagfile_information": self._information(parts)}, Dumper=_PlainDumper, sort_keys=False)
            partial.write_text(text, "utf-8")
            partial.replace(self.folder / METADATA)
        finally:
            self._part.close()

    def _information(self, parts: list[_Content]) -> dict[str, Any]:
        topics = [{"topic_metadata": {"name": name, "type": kind, "serialization_format": "cdr", "offered_qos_profiles": [QOS],
                                      "type_description_hash": type_hash(kind)},
                   "message_count": sum(part.counts.get(name, 0) for part in parts)} for name, kind in self._types.items()]
        files = [{"path": part.path.name, **_span([part])} for part in parts]
        return {"version": 9, "storage_identifier": "mcap", **_span(parts), "topics_with_message_count": topics, "compression_format": "",
                "compression_mode": "", "relative_file_paths": [part.path.name for part in parts], "files": files,
                "custom_data": None, "ros_distro": "unknown"}


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it has gone meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _span(parts: list[_Content]) -> dict[str, Any]:
    """When the messages of files were received, and how many there are, as metadata.yaml says it."""
    filled = [part for part in parts if part.count]
    first = min((part.first_ns for part in filled), default=0)
    last = max((part.last_ns for part in filled), default=0)
    return {"starting_time": {"nanoseconds_since_epoch": first}, "duration": {"nanoseconds": last - first},
            "message_count": sum(part.count for part in filled)}


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors, which not every reader of metadata.yaml understands."""

    def ignore_aliases(self, data: object) -> bool:
        return True
