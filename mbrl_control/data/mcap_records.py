"""MCAP record by record: what is whole is read, what was cut off is told apart. Serves readers, the tail and recovery alike."""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader

from mbrl_control.data.expansion import Expansion, ExpansionError
from mbrl_control.errors import DataError

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 1, 2, 3, 4, 5, 6, 15
BLOCK = 8 << 20
MAX_CHUNK = 1 << 30
TIME_BITS = 62  # of a time in ns, so that differences of any two fit into 64 bits
_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<BQHIQQ")
_CHUNK = struct.Struct("<QQQI")


class _Damaged(Exception):
    """A record that is all there but does not hold what it must."""


@dataclass(frozen=True)
class Channel:
    """A topic of an MCAP file.

    Attributes:
        topic: name as recorded.
        type: message type, e.g. `sensor_msgs/msg/JointState`.
        encoding: encoding of messages; `cdr` in ROS 2.
        schema: definition text of the type; may be empty.
        schema_encoding: `ros2msg` or `ros2idl`.
        metadata: as recorded; rosbag2 keeps QoS here.
    """

    topic: str
    type: str
    encoding: str
    schema: str
    schema_encoding: str
    metadata: dict[str, str]


# (channel id, log time ns, publish time ns, payload)
RawMessage = tuple[int, int, int, bytes]


@dataclass
class McapScanner:
    """Takes the bytes of an MCAP file in order, in pieces of any size, and collects the messages of its whole records.

    Attributes:
        wanted: which topics to keep the messages of; the others are only counted.
        channels: by id, as met so far.
        messages: kept messages in file order; the caller may empty this list.
        counts: messages met, by channel id.
        begun: it is an MCAP file.
        finished: the footer was met: the file was closed properly.
        fault: why reading stopped before the end; empty while all is well. What was collected before it is sound.
        missing: bytes still wanting of the record at hand.
    """

    wanted: Callable[[str], bool] = lambda topic: True
    channels: dict[int, Channel] = field(default_factory=dict)
    messages: list[RawMessage] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    begun: bool = False
    finished: bool = False
    fault: str = ""
    missing: int = 0
    _expansion: Expansion = field(default_factory=Expansion)
    _schemas: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    _kept: dict[int, bool] = field(default_factory=dict)

    def feed(self, data: bytes) -> int:
        """Read whole records from the start of `data`.

        Args:
            data: bytes that follow the ones consumed so far.

        Returns:
            How many bytes were consumed; give the rest again, with more behind it.

        Raises:
            ExpansionError: chunks that unpack to far more than they are; nothing of such a file should be used.
        """
        start = 0
        if not self.begun:
            if len(data) < len(MAGIC):
                return 0
            if not data.startswith(MAGIC):
                self.fault = "it does not begin as an MCAP file"
                return 0
            self.begun, start = True, len(MAGIC)
        try:
            return self._records(data, start, inside=False)
        except _Damaged as error:
            self.fault = str(error)
            return len(data)

    def _records(self, data: bytes, start: int, inside: bool) -> int:
        at, end = start, len(data)
        messages, kept = self.messages, self._kept
        self.missing = 0
        while at + 9 <= end and not self.finished:
            kind, length = _RECORD.unpack_from(data, at)
            stop = at + 9 + length
            if kind == 0 or length > MAX_CHUNK:
                raise _Damaged(f"there is no valid record where one must begin (kind {kind}, length {length})")
            if stop > end:
                self.missing = stop - end
                break
            if kind == MESSAGE:
                if length < 22:
                    raise _Damaged("a message record is too short")
                _, _, channel, _, log_time, publish_time = _MESSAGE.unpack_from(data, at)
                keep = kept.get(channel)
                if keep is None or (log_time | publish_time) >> TIME_BITS:
                    raise _Damaged(f"a message belongs to channel {channel}, which was never announced, or is from beyond the year 2116")
                self.counts[channel] += 1
                if keep:
                    messages.append((channel, log_time, publish_time, data[at + 31:stop]))
            elif kind == FOOTER and not inside:
                stop += len(MAGIC)
                if stop > end:
                    self.missing = stop - end
                    break
                if data[stop - len(MAGIC):stop] != MAGIC:
                    raise _Damaged("it does not end as an MCAP file")
                self.finished = True
            elif kind in (SCHEMA, CHANNEL, CHUNK):
                self._other(kind, data[at + 9:stop], inside)
            at = stop
        if inside and at != end:
            raise _Damaged("a chunk does not end with a whole record")
        return at

    def _other(self, kind: int, body: bytes, inside: bool) -> None:
        try:
            if kind == SCHEMA:
                name, at = _text(body, 2)
                encoding, at = _text(body, at)
                self._schemas[int.from_bytes(body[:2], "little")] = (name, encoding, _text(body, at)[0])
            elif kind == CHANNEL:
                self._channel(body)
            elif kind == CHUNK and not inside:
                self._records(_chunk_data(body, self._expansion), 0, inside=True)
        except (struct.error, UnicodeDecodeError, IndexError) as error:
            raise _Damaged(f"a record of kind {kind} is malformed: {error}") from error

    def _channel(self, body: bytes) -> None:
        number, schema = struct.unpack_from("<HH", body, 0)
        topic, at = _text(body, 4)
        encoding, at = _text(body, at)
        end, at = at + 4 + int.from_bytes(body[at:at + 4], "little"), at + 4
        metadata = {}
        while at < end:
            key, at = _text(body, at)
            metadata[key], at = _text(body, at)
        name, schema_encoding, text = self._schemas.get(schema, ("", "", ""))
        self.channels[number] = Channel(topic, name, encoding, text, schema_encoding, metadata)
        self._kept[number] = self.wanted(topic)


def _text(body: bytes, at: int) -> tuple[str, int]:
    length = struct.unpack_from("<I", body, at)[0]
    if at + 4 + length > len(body):
        raise IndexError("a text runs past its record")
    return body[at + 4:at + 4 + length].decode(), at + 4 + length


def _chunk_data(body: bytes, expansion: Expansion) -> bytes:
    """The records inside a chunk, checked against its checksum."""
    _, _, size, checksum = _CHUNK.unpack_from(body, 0)
    compression, at = _text(body, 28)
    packed = body[at + 8:]
    if size > MAX_CHUNK:
        raise _Damaged(f"a chunk claims {size} bytes; at most {MAX_CHUNK} are read")
    if compression:
        expansion.add(len(packed), size)
    try:
        if compression == "zstd":
            if zstandard.frame_content_size(packed) > size:  # a small file must not be able to ask for all memory
                raise _Damaged("a chunk is larger than it says")
            raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        elif compression == "lz4":
            raw = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size)
        elif compression == "":
            raw = packed
        else:
            raise _Damaged(f"chunks are compressed with '{compression}'; zstd, lz4 and none can be read")
    except (zstandard.ZstdError, RuntimeError) as error:
        raise _Damaged(f"a chunk cannot be decompressed: {error}") from error
    if len(raw) != size or (checksum and zlib.crc32(raw) != checksum):
        raise _Damaged("a chunk does not match its checksum")
    return raw


@dataclass(frozen=True)
class McapContent:
    """What an MCAP file holds.

    Attributes:
        scanner: channels, messages and counts.
        whole: the file was closed properly and every record was sound.
        reason: why not, if not whole.
        lost: messages that are known to be missing; at least so many.
        verified_bytes: length of the sound part.
    """

    scanner: McapScanner
    whole: bool
    reason: str
    lost: int
    verified_bytes: int


def read_mcap(path: Path, wanted: Callable[[str], bool] = lambda topic: True) -> McapContent:
    """Read the longest sound part of an MCAP file: whole records, chunks that match their checksums.

    Args:
        path: the file.
        wanted: which topics to keep the messages of.

    Returns:
        Messages and what is missing.

    Raises:
        DataError: no MCAP file at all, or not readable.
    """
    scanner = McapScanner(wanted)
    try:
        with path.open("rb") as file:
            consumed, rest = _drain(scanner, file, path)
            if not rest and not consumed:
                raise DataError(f"{path}: the file is empty; nothing was recorded")
            if not scanner.begun:
                raise DataError(f"{path}: {scanner.fault or 'it is too short for an MCAP file'}")
            reason = scanner.fault or ("" if scanner.finished else "the file ends before it was closed (the recorder was killed)")
            lost = 0
            if reason:
                claimed = _claimed(file)
                lost = claimed - sum(scanner.counts.values()) if claimed is not None else _cut_messages(rest)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return McapContent(scanner, not reason, reason, max(lost, 0), consumed)


def _drain(scanner: McapScanner, file: BinaryIO, path: Path) -> tuple[int, bytes]:
    consumed, rest, size = 0, b"", os.fstat(file.fileno()).st_size
    while not scanner.fault and not scanner.finished:
        # No more than there is: a record may claim any length, and so much memory would be taken before it is missed.
        block = file.read(min(max(BLOCK, scanner.missing), size - file.tell()))
        if not block:
            break
        rest += block
        try:
            used = scanner.feed(rest)
        except ExpansionError as error:
            raise DataError(f"{path}: {error}") from error
        if scanner.fault:
            break
        consumed, rest = consumed + used, rest[used:]
    return consumed, rest


def _claimed(file: BinaryIO) -> int | None:
    """Messages that the summary at the end of a damaged file claims, if it still has one."""
    try:
        file.seek(0)
        summary = make_reader(file).get_summary()
    except (McapError, zstandard.ZstdError, RuntimeError, ValueError, struct.error, OSError, OverflowError, MemoryError):
        return None  # RuntimeError: what lz4 raises
    return summary.statistics.message_count if summary and summary.statistics else None


def _cut_messages(rest: bytes) -> int:
    """Messages begun in the cut-off record at the end of a file: exact for chunks without compression, else at least 1."""
    if len(rest) < 9 or rest[0] not in (CHUNK, MESSAGE):
        return 0
    if rest[0] == MESSAGE or len(rest) < 9 + 32:
        return 1
    at = 9 + 28
    length = int.from_bytes(rest[at:at + 4], "little")
    if length:
        return 1
    at += 4 + 8
    found = 0
    while at < len(rest):
        found += rest[at] == MESSAGE
        at += 9 + int.from_bytes(rest[at + 1:at + 9], "little")
    return max(found, 1)
