"""Tail: what was added to a bag that is still being written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mbrl_control.data.expansion import ExpansionError
from mbrl_control.data.mcap_bag import part_of, parts_in
from mbrl_control.data.mcap_records import McapScanner
from mbrl_control.data.message_types import TypeBook
from mbrl_control.errors import DataError

_AT_ONCE = 8 << 20


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
        return [message for piece in self.pieces() for message in piece]

    def pieces(self) -> Iterator[list[TailMessage]]:
        """As `read`, a piece at a time: of long recordings all messages at once would not fit into the memory."""
        # Looked for before the reading: when there is a next part, nothing is added to this one any more.
        for following in [number for number in parts_in(self.path) if number > self.part]:
            if not self._scanner.fault:
                yield from self._read_part()
            _ = self.types  # those of this part are kept
            self.part, self.offset, self._scanner = following, 0, self._new_scanner()
        yield from self._read_part()

    def _read_part(self) -> Iterator[list[TailMessage]]:
        if self._scanner.fault:
            raise DataError(f"{self.path}: damaged after byte {self.offset}: {self._scanner.fault}; stop and recover it")
        if self._scanner.finished:
            return
        path = part_of(self.path, self.part) if self.path.is_dir() else self.path
        try:
            with path.open("rb") as file:
                more = True
                while more:
                    file.seek(self.offset)
                    want = max(_AT_ONCE, self._scanner.missing)
                    data = file.read(min(want, max(os.fstat(file.fileno()).st_size - self.offset, 0)))
                    used = self._feed(data, path)
                    # What is sound before a fault is handed over; the next call tells the fault.
                    self.offset += 0 if self._scanner.fault else used
                    more = len(data) == want and not self._scanner.finished and not self._scanner.fault
                    yield self._fresh()
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def _fresh(self) -> list[TailMessage]:
        channels, fresh = self._scanner.channels, self._scanner.messages
        self._scanner.messages = []
        return [TailMessage(channels[c].topic, channels[c].type, log, publish, payload) for c, log, publish, payload in fresh]

    def _feed(self, data: bytes, path: Path) -> int:
        try:
            return self._scanner.feed(data)
        except ExpansionError as error:
            raise DataError(f"{path}: {error}") from error
