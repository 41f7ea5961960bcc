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

import zstandard
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag1.reader import ReaderError as Ros1Error
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from mbrl_control import strict_yaml
from mbrl_control.data.expansion import Expansion, ExpansionError
from mbrl_control.data.mcap_records import TIME_BITS, read_mcap
from mbrl_control.data.message_types import DEFINITION_ERRORS, TypeBook, closed, parse_definition, standard_store
from mbrl_control.errors import DataError, SpecError

METADATA = strict_yaml.Limits("the metadata of a bag", 4_000_000, 100_000)
STORAGE = {".mcap": "mcap", ".db3": "sqlite3", ".bag": "ros1"}
Wanted = Callable[[str], bool]
_STEPS = 10_000
_RECORD_BYTES = 32
_ROS1_ERRORS = (Ros1Error, SerdeError, OSError, ValueError, LookupError, AssertionError, RuntimeError, EOFError, struct.error)


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
        info = strict_yaml.read(path, METADATA).data["rosbag2_bagfile_information"]
        return {"files": [folder / Path(str(f)).name for f in info["relative_file_paths"]],
                "mode": str(info.get("compression_mode") or "").lower(),
                "count": int(info["message_count"]),
                "topics": {str(t["topic_metadata"]["name"]): str(t["topic_metadata"]["type"]) for t in info["topics_with_message_count"]}}
    except SpecError as error:
        raise DataError(f"{error}; delete it to read the files alone") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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
                    Expansion().unzstd_file(packed, out)
            except (OSError, zstandard.ZstdError) as error:
                bag.notes.append(f"{file}: cannot be decompressed to its end ({error})")
            except ExpansionError as error:
                raise DataError(f"{file}: {error}") from error
            _read_file(bag, plain, wanted, "" if mode == "file" else mode)
        return
    before = {name: len(t.payloads) for name, t in bag.topics.items()}
    {"mcap": _read_mcap, "sqlite3": _read_sqlite, "ros1": _read_ros1}[storage](bag, file, wanted)
    if mode == "message":
        expansion = Expansion()
        for name, topic in bag.topics.items():
            start = before.get(name, 0)
            try:
                topic.payloads[start:] = [expansion.unzstd(p) for p in topic.payloads[start:]]
            except (zstandard.ZstdError, ExpansionError) as error:
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
            merged = sum(part.stat().st_size for part in Path(folder).iterdir())
            _read_tables(bag, file, sqlite3.connect(Path(folder) / file.name), wanted, merged)
    else:
        _read_tables(bag, file, sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True), wanted, size)


def _claimed_pages(file: Path) -> tuple[int, int]:
    """(bytes of a page, number of pages) that the header of an SQLite file tells; (1, 0) for another file."""
    with file.open("rb") as opened:
        head = opened.read(100)
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        return 1, 0
    page = int.from_bytes(head[16:18], "big")
    return 65536 if page == 1 else max(page, 1), int.from_bytes(head[28:32], "big")


class _Reading:
    """Statements on a database of somebody else: bounded in steps, so that a file made for it cannot keep one busy for ever.

    Args:
        database: is not trusted: nothing in its schema is run but plain tables.
        size: bytes of its file.
    """

    def __init__(self, database: sqlite3.Connection, size: int) -> None:
        self.database, self.size, self._calls = database, size, 0
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, 1 << 20))
        database.set_progress_handler(self._step, _STEPS)

    def _step(self) -> bool:
        """True, which interrupts the statement, when it takes more steps than rows could fit into the file."""
        self._calls += 1
        return self._calls * _STEPS > 3 * self.size + 10 * _STEPS  # a row has 6 bytes at least, and takes about as many steps

    def __call__(self, statement: str, *values: object) -> sqlite3.Cursor:
        self._calls = 0
        return self.database.execute(statement, values)

    def columns(self, table: str) -> set[str]:
        """Names of the stored columns of a plain table; empty for a view or a virtual table, whose rows are made up by statements."""
        plain = self("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name = ?", table).fetchone()[0]
        return {row[1] for row in self(f"PRAGMA table_info({table})")} if plain else set()


def _read_tables(bag: RawBag, file: Path, database: sqlite3.Connection, wanted: Wanted, size: int) -> None:
    try:
        read = _Reading(database, size)
        if not ({"id", "name", "type", "serialization_format"} <= read.columns("topics")
                and {"id", "topic_id", "timestamp", "data"} <= read.columns("messages")):
            raise DataError(f"{file}: an SQLite file, but not a bag: it has no table of topics and messages")
        topics = read("SELECT id, name, type, serialization_format FROM topics ORDER BY id").fetchall()
        if read.columns("message_definitions"):
            for kind, encoding, text in read("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"):
                if text and all(isinstance(part, str) for part in (kind, encoding, text)):
                    bag.types.definitions.setdefault(kind, (text, encoding))
        for number, name, kind, encoding in topics:
            if not all(isinstance(part, str) for part in (name, kind, encoding)):
                bag.notes.append(f"{file}: topic number {number} has no name and type; it is left out")
            elif encoding != "cdr":
                bag.notes.append(f"{file}: topic {name} is encoded as '{encoding}', which cannot be read; cdr can")
            else:
                _read_topic(bag, file, read, bag.topic(name, kind, file), number, wanted(name))
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        raise DataError(f"{file}: cannot be read as a bag: {error}") from error
    finally:
        database.close()


def _read_topic(bag: RawBag, file: Path, read: _Reading, topic: RawTopic, number: int, wanted: bool) -> None:
    before, refused, taken = len(topic.payloads), 0, 0
    try:
        if not wanted:
            topic.count += read("SELECT count(*) FROM messages WHERE topic_id = ?", number).fetchone()[0]
            return
        rows = read("SELECT timestamp, data FROM messages WHERE topic_id = ? ORDER BY id", number)
        while batch := rows.fetchmany(1000):
            good = [row for row in batch if type(row[0]) is int and not row[0] >> TIME_BITS and type(row[1]) is bytes]
            refused += len(batch) - len(good)
            taken += sum(len(payload) for _, payload in good)
            if taken > read.size:
                raise sqlite3.DatabaseError("more messages than the file has room for")
            topic.receive_ns += [stamp for stamp, _ in good]
            topic.payloads += [payload for _, payload in good]
    except sqlite3.Error as error:
        bag.notes.append(f"{file}: topic {topic.topic} is damaged ({error}); {len(topic.payloads) - before} messages before that are kept")
    if refused:
        bag.lost += refused
        bag.notes.append(f"{file}: {refused} rows of topic {topic.topic} are no messages")
    topic.count += len(topic.payloads) - before
    topic.publish_ns += [0] * (len(topic.payloads) - before)


def _read_ros1(bag: RawBag, file: Path, wanted: Wanted) -> None:
    """ROS 1 messages become CDR, so that everything after this is the same for both."""
    try:
        with Ros1Reader(file) as reader:
            for connection in reader.connections:
                bag.topic(connection.topic, connection.msgtype, file).count += connection.msgcount
            kept = [c for c in reader.connections if wanted(c.topic)]
            expansion, copied = Expansion(), Expansion(packed=file.stat().st_size)
            reader.chunks = {at: chunk._replace(decompressor=expansion.bounded(chunk.decompressor)) for at, chunk in reader.chunks.items()}
            stores = {c.msgtype: _ros1_store(c.msgtype, c.msgdef.data, file) for c in kept}
            for kind, store in stores.items():
                bag.types.adopt(kind, store)
            for connection, stamp, raw in reader.messages(connections=kept) if kept else ():
                payload = bytes(stores[connection.msgtype].ros1_to_cdr(raw, connection.msgtype))
                copied.add(0, _RECORD_BYTES + len(payload))
                topic = bag.topics[connection.topic]
                topic.receive_ns.append(stamp)
                topic.publish_ns.append(0)
                topic.payloads.append(payload)
    except ExpansionError as error:
        raise DataError(f"{file}: {error}") from error
    except _ROS1_ERRORS as error:
        raise DataError(f"{file}: cannot be read as a ROS 1 bag ({' '.join(str(error).split())[:200]}); if it was cut off, reindex it with "
                        "ROS 1's `rosbag reindex`") from error


def _ros1_store(kind: str, text: str, file: Path) -> Any:
    """A type store for a ROS 1 type, with headers as in ROS 2: without the sequence number, which the conversion to CDR drops."""
    try:
        types = parse_definition(kind, text)
        types["std_msgs/msg/Header"] = standard_store().fielddefs["std_msgs/msg/Header"]
        for name in ("builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration"):
            types.setdefault(name, standard_store().fielddefs[name])
        store = get_typestore(Stores.EMPTY)
        store.register(closed(kind, types, {}))
        return store
    except DEFINITION_ERRORS as error:
        raise DataError(f"{file}: the definition of message type {kind} cannot be understood: {' '.join(str(error).split())}") from error
