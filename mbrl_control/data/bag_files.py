"""The files of a bag: rosbag2 (sqlite3, MCAP; folders, single and split files, compressed) and ROS 1, each to raw messages."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
import zstandard
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag1.reader import ReaderError as Ros1Error
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from mbrl_control.data.mcap_records import read_mcap
from mbrl_control.data.message_types import TypeBook, standard_store
from mbrl_control.errors import DataError

STORAGE = {".mcap": "mcap", ".db3": "sqlite3", ".bag": "ros1"}
Wanted = Callable[[str], bool]


@dataclass
class RawTopic:
    """Messages of one topic as they lie in the files.

    Attributes:
        topic, type: as recorded.
        count: messages in the files, also when their payloads were not wanted.
        receive_ns, publish_ns: per kept message; publish time is 0 where the format has none.
        payloads: CDR bytes.
    """

    topic: str
    type: str
    count: int = 0
    receive_ns: list[int] = field(default_factory=list)
    publish_ns: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)


@dataclass
class RawBag:
    """What the files of a bag hold.

    Attributes:
        topics: by name.
        types: message types, with the bag's own definitions.
        notes: what is wrong with the files, in sentences.
        lost: messages known to be missing; at least so many.
    """

    topics: dict[str, RawTopic] = field(default_factory=dict)
    types: TypeBook = field(default_factory=TypeBook)
    notes: list[str] = field(default_factory=list)
    lost: int = 0

    def topic(self, name: str, kind: str, where: Path) -> RawTopic:
        """The topic `name`, made if new.

        Raises:
            DataError: met before with another type.
        """
        found = self.topics.setdefault(name, RawTopic(name, kind))
        if found.type != kind:
            raise DataError(f"{where}: topic {name} is recorded with two types, {found.type} and {kind}; split the bag")
        return found


def _metadata(folder: Path) -> dict[str, Any] | None:
    path = folder / "metadata.yaml"
    if not path.exists():
        return None
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
        info = data["rosbag2_bagfile_information"]
        return {"files": [folder / Path(str(f)).name for f in info["relative_file_paths"]],
                "mode": str(info.get("compression_mode") or "").lower(),
                "count": int(info["message_count"]),
                "topics": {str(t["topic_metadata"]["name"]): str(t["topic_metadata"]["type"]) for t in info["topics_with_message_count"]}}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{path}: not the metadata of a bag ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
                        "delete it to read the files alone") from error


def _natural(path: Path) -> tuple[int, str]:
    """Split files in the order they were written: bag_2 before bag_10."""
    digits = path.name.split(".")[0].rsplit("_", 1)[-1]
    return (int(digits) if digits.isdigit() else -1, path.name)


def read_raw(path: Path, wanted: Wanted = lambda topic: True) -> RawBag:
    """Read a bag.

    Args:
        path: a rosbag2 folder (with or without metadata.yaml), a .db3, .mcap or .bag file (a trailing .zst or .zstd is undone).
        wanted: topics to keep the payloads of; the others are only counted.

    Raises:
        DataError: no bag, or nothing in it can be read.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    bag, mode, claimed = RawBag(), "", None
    if path.is_dir():
        info = _metadata(path)
        if info:
            files, mode, claimed = info["files"], info["mode"], info["count"]
            for name, kind in info["topics"].items():
                bag.topic(name, kind, path)
            absent = [f.name for f in files if not f.exists()]
            if absent:
                bag.notes.append(f"{path}: metadata.yaml names {', '.join(absent)}, which is not there; its messages are missing")
            files = [f for f in files if f.exists()]
        else:
            files = sorted((f for f in path.iterdir() if _storage(f)), key=_natural)
            bag.notes.append(f"{path}: no metadata.yaml (the recorder was not closed); read from {len(files)} data files")
        if not files:
            raise DataError(f"{path}: no .db3, .mcap or .bag file in this folder; give the folder of a bag")
    else:
        files = [path]
    for file in _begun(bag, files):
        _read_file(bag, file, wanted, mode)
    kept = sum(t.count for t in bag.topics.values())
    if claimed is not None and claimed > kept:
        bag.lost = claimed - kept
    if bag.lost:
        bag.notes.append(f"{path}: {kept} messages kept, at least {bag.lost} lost")
    for topic in bag.topics.values():
        _sort(topic)
    return bag


def _begun(bag: RawBag, files: list[Path]) -> list[Path]:
    """Without the empty parts of a bag of several: their recorders were killed as they began."""
    empty = [file for file in files if not file.stat().st_size] if len(files) > 1 else []
    bag.notes += [f"{file}: the file is empty; its recorder was killed as it began" for file in empty]
    return [file for file in files if file not in empty]


def _storage(file: Path) -> str:
    name = file.name.removesuffix(".zstd").removesuffix(".zst")
    return STORAGE.get(Path(name).suffix, "")


def _read_file(bag: RawBag, file: Path, wanted: Wanted, mode: str) -> None:
    storage = _storage(file)
    if not storage:
        raise DataError(f"{file}: not a bag; .db3, .mcap and .bag are")
    if file.suffix in (".zstd", ".zst"):
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / file.stem
            try:
                with file.open("rb") as packed, plain.open("wb") as out:
                    zstandard.ZstdDecompressor().copy_stream(packed, out)
            except (OSError, zstandard.ZstdError) as error:
                bag.notes.append(f"{file}: cannot be decompressed to its end ({error})")
            _read_file(bag, plain, wanted, "" if mode == "file" else mode)
        return
    before = {name: len(t.payloads) for name, t in bag.topics.items()}
    {"mcap": _read_mcap, "sqlite3": _read_sqlite, "ros1": _read_ros1}[storage](bag, file, wanted)
    if mode == "message":
        unpack = zstandard.ZstdDecompressor()
        for name, topic in bag.topics.items():
            start = before.get(name, 0)
            try:
                topic.payloads[start:] = [unpack.decompressobj().decompress(p) for p in topic.payloads[start:]]
            except zstandard.ZstdError as error:
                raise DataError(f"{file}: a message of {name} cannot be decompressed: {error}") from error


def _sort(topic: RawTopic) -> None:
    """Into order of receipt (recorders with several threads do not always write so)."""
    times = topic.receive_ns
    if any(a > b for a, b in pairwise(times)):
        order = sorted(range(len(times)), key=times.__getitem__)
        topic.receive_ns = [times[i] for i in order]
        topic.publish_ns = [topic.publish_ns[i] for i in order]
        topic.payloads = [topic.payloads[i] for i in order]


def _read_mcap(bag: RawBag, file: Path, wanted: Wanted) -> None:
    content = read_mcap(file, wanted)
    scanner = content.scanner
    if not content.whole:
        bag.notes.append(f"{file}: {content.reason}; the sound part is read: {sum(scanner.counts.values())} messages, "
                         f"at least {content.lost} lost")
        bag.lost += content.lost
    sinks: dict[int, tuple[Any, Any, Any]] = {}
    for number, channel in scanner.channels.items():
        if channel.encoding != "cdr":
            bag.notes.append(f"{file}: topic {channel.topic} is encoded as '{channel.encoding}', which cannot be read; cdr can")
            continue
        topic = bag.topic(channel.topic, channel.type, file)
        topic.count += scanner.counts[number]
        if channel.schema:
            bag.types.definitions.setdefault(channel.type, (channel.schema, channel.schema_encoding))
        sinks[number] = (topic.receive_ns.append, topic.publish_ns.append, topic.payloads.append)
    for number, log_time, publish_time, payload in scanner.messages:
        sink = sinks.get(number)
        if sink is not None:
            sink[0](log_time)
            sink[1](publish_time)
            sink[2](payload)


def _read_sqlite(bag: RawBag, file: Path, wanted: Wanted) -> None:
    side = [s for s in (file.with_name(file.name + end) for end in ("-wal", "-journal")) if s.exists() and s.stat().st_size]
    page, claimed = (1, 0) if side else _claimed_pages(file)
    size = file.stat().st_size
    if size < page * claimed:
        bag.notes.append(f"{file}: cut off, {page * claimed - size} bytes are missing at its end; the sound part is read")
    if side or size < page * claimed:
        # A recorder that was killed (or still runs) left its last messages beside the file: SQLite merges them. Of a file that is
        # cut off it reads nothing until the size is right again; then it stops at the first page that is missing or, as the cut goes
        # through it, made blank here. Both in a copy.
        with tempfile.TemporaryDirectory() as folder:
            for source in (file, *side):
                shutil.copyfile(source, Path(folder) / source.name)
            if claimed:
                os.truncate(Path(folder) / file.name, size // page * page)
                os.truncate(Path(folder) / file.name, page * claimed)
            _read_tables(bag, file, sqlite3.connect(Path(folder) / file.name), wanted)
    else:
        _read_tables(bag, file, sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True), wanted)


def _claimed_pages(file: Path) -> tuple[int, int]:
    """(bytes of a page, number of pages) that the header of an SQLite file tells; (1, 0) for another file."""
    with file.open("rb") as opened:
        head = opened.read(100)
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        return 1, 0
    page = int.from_bytes(head[16:18], "big")
    return 65536 if page == 1 else max(page, 1), int.from_bytes(head[28:32], "big")


def _read_tables(bag: RawBag, file: Path, database: sqlite3.Connection, wanted: Wanted) -> None:
    try:
        columns = {row[1] for row in database.execute("PRAGMA table_info(topics)")}
        if not {"id", "name", "type", "serialization_format"} <= columns:
            raise DataError(f"{file}: an SQLite file, but not a bag: it has no table of topics")
        topics = database.execute("SELECT id, name, type, serialization_format FROM topics ORDER BY id").fetchall()
        if database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'message_definitions'").fetchone()[0]:
            definitions = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            for kind, encoding, text in database.execute(definitions):
                if text:
                    bag.types.definitions.setdefault(kind, (text, encoding))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        database.close()
        raise DataError(f"{file}: cannot be read as a bag: {error}") from error
    for number, name, kind, encoding in topics:
        if encoding != "cdr":
            bag.notes.append(f"{file}: topic {name} is encoded as '{encoding}', which cannot be read; cdr can")
            continue
        topic = bag.topic(name, kind, file)
        try:
            if not wanted(name):
                topic.count += database.execute("SELECT count(*) FROM messages WHERE topic_id = ?", (number,)).fetchone()[0]
                continue
            before = len(topic.payloads)
            for stamp, payload in database.execute("SELECT timestamp, data FROM messages WHERE topic_id = ? ORDER BY id", (number,)):
                topic.receive_ns.append(stamp)
                topic.payloads.append(payload)
        except sqlite3.Error as error:
            bag.notes.append(f"{file}: topic {name} is damaged ({error}); {len(topic.payloads) - before} messages before that are kept")
        topic.count += len(topic.payloads) - before
        topic.publish_ns += [0] * (len(topic.payloads) - before)
    database.close()


def _read_ros1(bag: RawBag, file: Path, wanted: Wanted) -> None:
    """ROS 1 messages become CDR, so that everything after this is the same for both."""
    try:
        with Ros1Reader(file) as reader:
            for connection in reader.connections:
                bag.topic(connection.topic, connection.msgtype, file).count += connection.msgcount
            kept = [c for c in reader.connections if wanted(c.topic)]
            stores = {c.msgtype: _ros1_store(c.msgtype, c.msgdef.data, file) for c in kept}
            for kind, store in stores.items():
                bag.types.adopt(kind, store)
            for connection, stamp, raw in reader.messages(connections=kept) if kept else ():
                payload = bytes(stores[connection.msgtype].ros1_to_cdr(raw, connection.msgtype))
                topic = bag.topics[connection.topic]
                topic.receive_ns.append(stamp)
                topic.publish_ns.append(0)
                topic.payloads.append(payload)
    except (Ros1Error, SerdeError, OSError, ValueError, KeyError, IndexError, AssertionError, struct.error) as error:
        raise DataError(f"{file}: cannot be read as a ROS 1 bag ({' '.join(str(error).split())[:200]}); if it was cut off, reindex it with "
                        "ROS 1's `rosbag reindex`") from error


def _ros1_store(kind: str, text: str, file: Path) -> Any:
    """A type store for a ROS 1 type, with headers as in ROS 2: without the sequence number, which the conversion to CDR drops."""
    try:
        types = dict(get_types_from_msg(text, kind))
        types["std_msgs/msg/Header"] = standard_store().fielddefs["std_msgs/msg/Header"]
        for name in ("builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration"):
            types.setdefault(name, standard_store().fielddefs[name])
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        return store
    except (TypesysError, KeyError, ValueError) as error:
        raise DataError(f"{file}: the definition of message type {kind} cannot be understood: {' '.join(str(error).split())}") from error
