"""Bags as recordings: topics with counts, times and numbers as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_control.data.bag_files import read_raw
from mbrl_control.data.layout import Layout, NoLayoutError, as_table, column, lay_out
from mbrl_control.data.message_types import decode
from mbrl_control.errors import DataError
from mbrl_control.messages import EULER, MessageReader, Place, quaternion_angle, stamp_ns
from mbrl_control.schema import StateSignal


@dataclass(frozen=True)
class Columns:
    """Numbers of one topic.

    Attributes:
        values: [N, K] accepted messages only.
        stamp_ns: [N] header stamps; 0 where there is none.
        receive_ns: [N] times of receipt.
        publish_ns: [N] times of sending; 0 where not recorded.
        rejected: messages left out, by reason.
        vectorised: read as one array, not message by message.
    """

    values: np.ndarray
    stamp_ns: np.ndarray
    receive_ns: np.ndarray
    publish_ns: np.ndarray
    rejected: Counter[str]
    vectorised: bool


@dataclass
class Topic:
    """Messages of one topic in order of receipt.

    Attributes:
        name, type: as recorded.
        count: messages in the bag, also when they were not asked for.
        receive_ns, publish_ns: [N] int64; publish time 0 where not recorded.
        payloads: N CDR messages.
        store: rosbags type store that knows the type; None for a type that is nowhere defined.
    """

    name: str
    type: str
    count: int
    receive_ns: np.ndarray
    publish_ns: np.ndarray
    payloads: list[bytes]
    store: Any
    problem: str = ""
    _layout: tuple[Layout, np.ndarray] | None = None
    _tried: bool = False

    def messages(self) -> Iterator[Any]:
        """Every message as an object.

        Raises:
            DataError: the type is not known, or a message is damaged.
        """
        self._require_type()
        for payload in self.payloads:
            yield decode(self.type, payload, self.store)

    def _require_type(self) -> None:
        if self.store is None:
            raise DataError(f"topic {self.name}: {self.problem}")

    def table(self) -> tuple[Layout, np.ndarray] | None:
        """(layout, [N, length] uint8) if all messages have one layout."""
        if not self._tried and self.payloads and self.store is not None:
            try:
                layout = lay_out(self.store, self.type, self.payloads[0])
                table = as_table(layout, self.payloads)
                self._layout = (layout, table) if table is not None else None
            except NoLayoutError:
                self._layout = None
            self._tried = True
        return self._layout

    def columns(self, reader: MessageReader) -> Columns:
        """The numbers that `reader` would take from each message, and when they were measured.

        Args:
            reader: says which fields, and what is plausible.

        Raises:
            DataError: the recorded type is another one, or is not known.
        """
        if reader.type != self.type:
            raise DataError(f"topic {self.name} is recorded as {self.type}, but the robot's YAML says {reader.type}; correct `type` there")
        self._require_type()
        found = self.table()
        columns = self._fast(reader, *found) if found else None
        return columns if columns is not None else self._slow(reader)

    def numbers(self, path: str) -> np.ndarray:
        """[N] float64: one number of each message, by field path; NaN where a message does not have it."""
        self._require_type()
        found = self.table()
        at = found[0].find(path) if found else None
        if found and at:
            return column(found[1], *at).astype(np.float64)
        signal = StateSignal(name="number", unit="1", type=self.type, field=path)
        reader = MessageReader([signal], np.array([-np.inf]), np.array([np.inf]))
        return np.array([reader.values[0] if reader.read(m) is None else np.nan for m in self.messages()])

    def _fast(self, reader: MessageReader, layout: Layout, table: np.ndarray) -> Columns | None:
        values = np.empty((len(table), len(reader.places)))
        for i, where in enumerate(reader.places):
            numbers = _place_column(layout, table, where)
            if numbers is None:
                return None
            values[:, i] = numbers
        with np.errstate(invalid="ignore"):
            plausible = np.isfinite(values) & (values >= reader.low) & (values <= reader.high)
        good = plausible.all(axis=1)
        rejected: Counter[str] = Counter()
        if not good.all():
            for row in np.flatnonzero(~good):
                at = int(np.argmin(plausible[row]))
                kind = "is outside its bounds" if np.isfinite(values[row, at]) else "is not finite"
                rejected[f"signal '{reader.signals[at].name}' {kind}"] += 1
        stamps = np.zeros(len(table), np.int64)
        sec, nanosec = layout.find("header.stamp.sec"), layout.find("header.stamp.nanosec")
        if sec and nanosec:
            stamps = column(table, *sec).astype(np.int64) * 10**9 + column(table, *nanosec)
        if good.all():
            return Columns(values, stamps, self.receive_ns, self.publish_ns, rejected, True)
        return Columns(values[good], stamps[good], self.receive_ns[good], self.publish_ns[good], rejected, True)

    def _slow(self, reader: MessageReader) -> Columns:
        rows, stamps, kept, rejected = [], [], [], Counter[str]()
        for i, payload in enumerate(self.payloads):
            try:
                message = decode(self.type, payload, self.store)
                refusal = reader.read(message)
                fault = refusal.sentence if refusal else None
            except DataError:
                fault = "the message is damaged"
            if fault is None:
                rows.append(reader.values.copy())
                stamps.append(stamp_ns(message) or 0)
                kept.append(i)
            else:
                rejected[_without_value(fault)] += 1
        values = np.array(rows) if rows else np.empty((0, len(reader.places)))
        index = np.array(kept, dtype=np.int64)
        return Columns(values, np.array(stamps, np.int64), self.receive_ns[index], self.publish_ns[index], rejected, False)


def _without_value(fault: str) -> str:
    """`signal 'x' = 4 is outside its bounds […]` without the value, so that equal faults count together."""
    head, middle, tail = fault.partition(" = ")
    return f"{head} is outside its bounds" if middle and "outside its bounds" in tail else fault


def _place_column(layout: Layout, table: np.ndarray, where: Place) -> np.ndarray | None:
    """[N] float64; None where this needs a look at each message."""
    if where.array:
        names = layout.list_of_texts(where.names)
        if names.count(where.joint) != 1 or layout.find(f"{dotted(where.array)}[{len(names)}]"):
            return None
        at = layout.find(f"{dotted(where.array)}[{names.index(where.joint)}]")
    else:
        at = layout.find(dotted(where.steps))
    if at:
        return column(table, *at).astype(np.float64)
    if where.array or len(where.steps) < 2 or where.steps[-1] not in EULER:
        return None
    parts = [layout.find(f"{dotted(where.steps[:-1])}.{axis}") for axis in "xyzw"]
    if not all(parts):
        return None
    q = [column(table, *p).astype(np.float64) for p in parts if p]
    angle = quaternion_angle(str(where.steps[-1]), *q)
    return np.where(sum(c * c for c in q) < 1e-6, np.nan, angle)


def dotted(steps: Iterable[str | int]) -> str:
    """("points", 0, "positions") as `points[0].positions`."""
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).removeprefix(".")


@dataclass
class Recording:
    """A bag in memory.

    Attributes:
        path: where from.
        topics: by recorded name.
        notes: what a person should know of how it was read.
        lost: messages known to be missing; at least so many.
    """

    path: Path
    topics: dict[str, Topic]
    notes: list[str] = field(default_factory=list)
    lost: int = 0

    @property
    def kept(self) -> int:
        """Messages that are in the bag and sound."""
        return sum(t.count for t in self.topics.values())

    def match(self, name: str, kind: str = "") -> str | None:
        """The recorded topic that a relative name means; see `match_topic`."""
        return match_topic(name, {n: t.type for n, t in self.topics.items()}, kind, str(self.path))

    @property
    def start_ns(self) -> int:
        """Receipt of the first message, ns; 0 for an empty recording."""
        firsts = [int(t.receive_ns[0]) for t in self.topics.values() if len(t.receive_ns)]
        return min(firsts, default=0)


def match_topic(name: str, recorded: dict[str, str], kind: str, where: str) -> str | None:
    """The recorded topic that `name` means: the same, or the one that ends in `/name`.

    Args:
        name: `joint_states` (relative) or `/robot1/joint_states` (absolute: taken as it is).
        recorded: type by topic.
        kind: when several match, those of this type are preferred.
        where: how errors name the bag.

    Returns:
        The recorded name, or None.

    Raises:
        DataError: several match.
    """
    if name in recorded or name.startswith("/"):
        return name if name in recorded else None
    found = [n for n in recorded if ("/" + n.lstrip("/")).endswith("/" + name.removeprefix("~/"))]
    if len(found) > 1:
        found = [n for n in found if recorded[n] == kind] or found
    if len(found) > 1:
        exact = [n for n in found if n == "/" + name]
        if not exact:
            found.sort()
            raise DataError(f"{where}: '{name}' may be any of {', '.join(found)}; say which with a remapping, {name}:={found[0]}")
        found = exact
    return found[0] if found else None


def read_bag(path: str | Path, topics: Iterable[str] | None = None) -> Recording:
    """Read a bag of any kind.

    Args:
        path: a rosbag2 folder (with or without metadata.yaml), a .db3 or .mcap file, also one cut off by a crash, or a ROS 1 .bag.
        topics: names (recorded, or relative: matched at the end); payloads of others are skipped but counted. None: all.

    Raises:
        DataError: it cannot be read at all.
    """
    path = Path(path)
    ends = None if topics is None else tuple("/" + t.lstrip("/").removeprefix("~/") for t in topics)
    raw = read_raw(path, lambda name: ends is None or ("/" + name.lstrip("/")).endswith(ends))
    out = {}
    for name, t in raw.topics.items():
        store, problem = None, ""
        if t.payloads:
            try:
                store = raw.types.store(t.type)
            except DataError as error:
                problem = str(error)
        times = np.array(t.receive_ns, np.int64), np.array(t.publish_ns, np.int64)
        out[name] = Topic(name, t.type, t.count, *times, t.payloads, store, problem)
    return Recording(path, out, raw.notes, raw.lost)
