"""Where each number sits in the CDR bytes of a message, found on one sample: so that many equal ones are read as one array."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

_SIZES = {"bool": "u1", "byte": "u1", "octet": "u1", "char": "u1", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
          "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8"}
_MAX_RUNS = 5000
_INDEX = re.compile(r"\[(\d+)\]$")


class NoLayoutError(Exception):
    """The sample cannot be laid out; read its topic message by message."""


@dataclass(frozen=True)
class Run:
    """Equal numbers one after the other.

    Attributes:
        offset: of the first, in bytes from the start of the payload.
        dtype: numpy name with byte order, e.g. `<f8`.
        count: how many; None for a single field.
    """

    offset: int
    dtype: str
    count: int | None


@dataclass
class Layout:
    """Places in a payload of a given length.

    Attributes:
        length: bytes of the payload.
        runs: numbers by path, e.g. `position` (an array) or `twist.twist.linear.x`.
        texts: strings by path, e.g. `name[0]`.
        fixed: byte ranges that decide where things are (text lengths, contents, counts): equal in all messages of this layout.
    """

    length: int
    runs: dict[str, Run] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    fixed: list[tuple[int, int]] = field(default_factory=list)

    def find(self, path: str) -> tuple[int, str] | None:
        """(offset, dtype) of one number; None when this layout has no such number."""
        run = self.runs.get(path)
        if run is not None and run.count is None:
            return run.offset, run.dtype
        match = _INDEX.search(path)
        run = self.runs.get(path[:match.start()]) if match else None
        if match is None or run is None or run.count is None or int(match[1]) >= run.count:
            return None
        return run.offset + int(match[1]) * np.dtype(run.dtype).itemsize, run.dtype

    def list_of_texts(self, path: str) -> list[str]:
        """The strings `path[0]`, `path[1]`, …"""
        out: list[str] = []
        while (text := self.texts.get(f"{path}[{len(out)}]")) is not None:
            out.append(text)
        return out


class _Walk:
    def __init__(self, store: Any, payload: bytes) -> None:
        self.store, self.payload, self.at = store, payload, 4
        self.order = "<" if payload[1] & 1 else ">"
        self.layout = Layout(len(payload), fixed=[(0, 2)])

    def align(self, size: int) -> None:
        self.at = 4 + -(-(self.at - 4) // size) * size

    def number(self) -> int:
        self.align(4)
        value: int = struct.unpack_from(self.order + "I", self.payload, self.at)[0]
        self.layout.fixed.append((self.at, self.at + 4))
        self.at += 4
        return value

    def walk(self, kind: str, prefix: str) -> None:
        for name, what in self.store.fielddefs[kind][1]:
            self.one(what, prefix + name)

    def one(self, kind: Any, path: str) -> None:
        node, detail = kind
        if len(self.layout.runs) + len(self.layout.texts) > _MAX_RUNS:
            raise NoLayoutError("too many parts")
        if node == Nodetype.NAME:
            self.walk(detail, path + ".")
        elif node == Nodetype.BASE:
            self.base(detail[0], path, None)
        else:
            inner, count = detail
            if node == Nodetype.SEQUENCE:
                count = self.number()
            if inner[0] == Nodetype.BASE and "string" not in inner[1][0]:
                self.base(inner[1][0], path, count)
            else:
                for i in range(count):
                    self.one(inner, f"{path}[{i}]")

    def base(self, name: str, path: str, count: int | None) -> None:
        if name == "string":
            length = self.number()
            end = self.at + length
            self.layout.texts[path] = self.payload[self.at:end - 1].decode("utf-8", "replace")
            self.layout.fixed.append((self.at, end))
            self.at = end
            return
        if name not in _SIZES:
            raise NoLayoutError(name)
        dtype = np.dtype(self.order + _SIZES[name])
        if count != 0:
            self.align(dtype.itemsize)
        self.layout.runs[path] = Run(self.at, dtype.str, count)
        self.at += dtype.itemsize * (1 if count is None else count)
        if self.at > len(self.payload):
            raise NoLayoutError("the payload is too short")


def lay_out(store: Any, kind: str, payload: bytes) -> Layout:
    """The layout of a CDR payload.

    Args:
        store: rosbags type store that knows `kind`.
        kind: message type.
        payload: a sample.

    Raises:
        NoLayoutError: it cannot be laid out.
    """
    if len(payload) < 4:
        raise NoLayoutError("the payload is too short")
    walk = _Walk(store, payload)
    try:
        walk.walk(kind, "")
    except (KeyError, struct.error, IndexError) as error:
        raise NoLayoutError(str(error)) from error
    # serialisers pad to a multiple of 4 (some of 8); anything more means that the layout is not understood
    if not 0 <= len(payload) - walk.at < 8:
        raise NoLayoutError("the payload is longer than its type")
    return walk.layout


def as_table(layout: Layout, payloads: list[bytes]) -> np.ndarray | None:
    """All payloads as one [N, length] uint8 array; None unless every one has this very layout."""
    if {*map(len, payloads)} != {layout.length}:
        return None
    table = np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), layout.length)
    merged: list[list[int]] = []
    for start, stop in sorted(layout.fixed):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    for start, stop in merged:
        if not (table[:, start:stop] == table[0, start:stop]).all():
            return None
    return table


def column(table: np.ndarray, offset: int, dtype: str) -> np.ndarray:
    """[N] one number of every payload."""
    size = np.dtype(dtype).itemsize
    return np.ascontiguousarray(table[:, offset:offset + size]).view(dtype)[:, 0]
