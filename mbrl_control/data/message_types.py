"""Message types: the standard ones, a small table of common others, and those that a bag brings along; CDR without ROS."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

from mbrl_control.errors import DataError

# Not part of any ROS distribution's default set, but what cars speak; bags older than 2023 do not carry definitions.
EXTRA_TYPES: dict[str, str] = {
    "ackermann_msgs/msg/AckermannDrive":
        "float32 steering_angle\nfloat32 steering_angle_velocity\nfloat32 speed\nfloat32 acceleration\nfloat32 jerk\n",
    "ackermann_msgs/msg/AckermannDriveStamped":
        "std_msgs/Header header\nackermann_msgs/AckermannDrive drive\n",
}


MAX_DEFINITION, MAX_STATEMENTS = 1 << 20, 4000  # characters and statements; the largest of MoveIt's types has about 500
MAX_PARTS, MAX_NESTING = 100_000, 30
_TYPE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)+")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _new_store() -> Any:
    store = get_typestore(Stores.ROS2_KILTED)
    for name, text in EXTRA_TYPES.items():
        store.register(get_types_from_msg(text, name))
    return store


@functools.cache
def standard_store() -> Any:
    """The standard message types and `EXTRA_TYPES` (a rosbags type store); shared, not to be added to."""
    return _new_store()


@dataclass
class TypeBook:
    """The message types of one bag: its own definitions where it has them, the standard ones otherwise.

    Attributes:
        definitions: (text, encoding) by type, as found in the bag; parsed only when the type is used.
    """

    definitions: dict[str, tuple[str, str]] = field(default_factory=dict)
    _stores: dict[str, Any] = field(default_factory=dict)

    def store(self, kind: str) -> Any:
        """The rosbags type store that knows the type `kind`.

        Raises:
            DataError: the type is neither standard nor defined in the bag.
        """
        if kind not in self._stores:
            self._stores[kind] = self._find(kind)
        return self._stores[kind]

    def adopt(self, kind: str, store: Any) -> None:
        """Use this store for the type `kind` from now on."""
        self._stores[kind] = store

    def _find(self, kind: str) -> Any:
        standard = standard_store()
        text, encoding = self.definitions.get(kind, ("", ""))
        if text:
            try:
                types = parse_definition(kind, text, encoding)
                if kind in types:
                    same = all(name in standard.fielddefs and _layout(standard.fielddefs[name]) == _layout(d) for name, d in types.items())
                    if same:
                        return standard
                    # a definition of the bag's own, or one that differs from today's: the bag knows best how it was written
                    own = get_typestore(Stores.EMPTY)
                    own.register(closed(kind, types, standard.fielddefs))
                    return own
            except DEFINITION_ERRORS as error:
                if kind not in standard.fielddefs:
                    raise DataError(f"the definition of message type {kind} in the bag cannot be understood: {_line(error)}") from error
        if kind in standard.fielddefs:
            return standard
        raise DataError(f"message type {kind} is neither a standard one nor defined in the bag; record with a recorder that stores "
                        "definitions (MCAP, or rosbag2 of ROS 2 Iron and later)")


DEFINITION_ERRORS = (TypesysError, ValueError, LookupError, AssertionError, RecursionError, TypeError, AttributeError, SyntaxError)
"""What the parser of definitions raises on a text that is none; `SyntaxError` too, as it makes Python of the definitions."""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _layout(definition: Any) -> list[tuple[str, Any]]:
    return [(name.lower(), kind) for name, kind in definition[1]]


def closed(kind: str, types: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The definitions that `kind` is made of: those in `types`, and what they leave out from `others`."""
    out: dict[str, Any] = {}
    waiting = [kind]
    while waiting:
        name = waiting.pop()
        if name not in out:
            out[name] = types[name] if name in types else others[name]
            waiting += [what for _, what, _ in _nested(out[name])]
    _parts(kind, out, {}, 0)
    return out


def _nested(definition: Any) -> list[tuple[str, str, int]]:
    """(field, type, how many of it at least) of the messages inside a message."""
    out = []
    for name, (node, detail) in definition[1]:
        (inner, what), count = (detail[0], detail[1] if node == Nodetype.ARRAY else 1) if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (
            (node, detail), 1)
        if inner == Nodetype.NAME:
            out.append((name, what, count))
    return out


def _parts(kind: str, types: Mapping[str, Any], known: dict[str, int], depth: int) -> int:
    """How many fields a message has at least, those of messages inside counted; refuses what would never end or takes all memory.

    Raises:
        ValueError: a type inside itself, too deep, too many, or an array of nothing.
    """
    if depth > MAX_NESTING:
        raise ValueError(f"{kind} lies more than {MAX_NESTING} messages deep, or inside itself")
    if kind not in known:
        total = len(types[kind][1])
        for _, (node, detail) in types[kind][1]:
            if node == Nodetype.ARRAY and detail[1] < 1:
                raise ValueError(f"{kind} has an array of length {detail[1]}")
        for _, what, count in _nested(types[kind]):
            total += count * _parts(what, types, known, depth + 1)
        if total > MAX_PARTS:
            raise ValueError(f"{kind} has more than {MAX_PARTS} parts")
        known[kind] = total
    return known[kind]


def parse_definition(kind: str, text: str, encoding: str = "ros2msg") -> dict[str, Any]:
    """The types that a definition text of somebody else holds, by name. rosbags makes Python of them: only plain names may get there.

    Raises:
        ValueError, or another of `DEFINITION_ERRORS`: not understood, or too large.
    """
    statements = sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")) + text.count(";")
    if len(text) > MAX_DEFINITION or statements > MAX_STATEMENTS:
        raise ValueError(f"{len(text)} characters in {statements} statements; at most {MAX_DEFINITION} in {MAX_STATEMENTS} are read")
    types = _parse(kind, text, encoding)
    for name, (constants, fields) in types.items():
        plain = [n for n, *_ in (*constants, *fields)]
        if not _TYPE_NAME.fullmatch(name) or not all(_FIELD_NAME.fullmatch(n) for n in plain):
            raise ValueError(f"{name[:80]!r} or a field of it is no plain name")
    return types


def _parse(kind: str, text: str, encoding: str) -> dict[str, Any]:
    if encoding == "ros2idl":
        types: dict[str, Any] = {}
        separator = "=" * 80 + "\n"
        parts = text.split(separator)[1:] if text.startswith(separator) else [text]
        for part in parts:
            types.update(get_types_from_idl(part.split("\n", 1)[1] if part.startswith("IDL: ") else part))
        return types
    return dict(get_types_from_msg(text, kind))


def decode(kind: str, payload: bytes, store: Any = None) -> Any:
    """A message object from its CDR bytes; arrays are numpy arrays.

    Raises:
        DataError: the bytes are no message of this type.
    """
    try:
        return (store or standard_store()).deserialize_cdr(payload, kind)
    except (SerdeError, LookupError, ValueError, TypeError, ArithmeticError, struct.error, MemoryError) as error:
        raise DataError(f"a message is no valid {kind}: {_line(error)}") from error


def empty(kind: str, store: Any = None) -> Any:
    """A message of type `kind` with every field zero or empty.

    Raises:
        DataError: unknown type.
    """
    store = store or standard_store()
    if kind not in store.fielddefs:
        raise DataError(f"message type {kind} is not known here; standard ROS 2 types and {', '.join(EXTRA_TYPES)} are")
    return store.types[kind](**{name: _zero(kind_, store) for name, kind_ in store.fielddefs[kind][1]})


_NUMPY = {"bool": np.bool_, "byte": np.uint8, "octet": np.uint8, "char": np.uint8}


def _zero(kind: Any, store: Any) -> Any:
    node, detail = kind
    if node == Nodetype.BASE:
        name = detail[0]
        return "" if "string" in name else 0.0 if name.startswith("float") else False if name == "bool" else 0
    if node == Nodetype.NAME:
        return empty(detail, store)
    (inner, what), length = detail
    count = length if node == Nodetype.ARRAY else 0
    if inner == Nodetype.BASE and "string" not in what[0]:
        return np.zeros(count, _NUMPY.get(what[0], what[0]))
    return [_zero((inner, what), store) for _ in range(count)]


def encode(kind: str, message: Any) -> bytes:
    """CDR bytes of a message, without ROS.

    Args:
        kind: message type.
        message: a message object (of rosbags, or `empty`), or a mapping of field to value: nested mappings for nested messages,
            lists or arrays for sequences; what is left out is zero. `header.stamp` may be given as integer nanoseconds.

    Raises:
        DataError: unknown type or field, or a value that does not fit.
    """
    if isinstance(message, Mapping):
        filled = empty(kind)
        _assign(kind, filled, message)
        message = filled
    try:
        return bytes(standard_store().serialize_cdr(message, kind))
    except (SerdeError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(f"this is no valid {kind}: {_line(error)}") from error


def _assign(kind: str, message: Any, values: Mapping[str, Any]) -> None:
    fields = dict(standard_store().fielddefs[kind][1])
    for name, value in values.items():
        if name not in fields:
            raise DataError(f"message type {kind} has no field '{name}' (fields: {', '.join(fields)})")
        setattr(message, name, _fit(fields[name], value))


def _fit(kind: Any, value: Any) -> Any:
    node, detail = kind
    if node == Nodetype.NAME:
        if detail == "builtin_interfaces/msg/Time" and isinstance(value, (int, np.integer)):
            value = {"sec": int(value) // 10**9, "nanosec": int(value) % 10**9}
        if not isinstance(value, Mapping):
            return value
        nested = empty(detail)
        _assign(detail, nested, value)
        return nested
    if node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        inner, what = detail[0]
        if inner == Nodetype.BASE and "string" not in what[0]:
            return np.asarray(value, _NUMPY.get(what[0], what[0]))
        return [_fit((inner, what), item) for item in value]
    return value


def definition(kind: str, text: str = "") -> str:
    """The `ros2msg` definition text of a type with all types inside it, as MCAP schemas hold it.

    Args:
        kind: message type.
        text: definition of a type that is not standard, in the same form; checked.

    Raises:
        DataError: the type is neither standard nor defined by `text`.
    """
    if text:
        TypeBook({kind: (text, "ros2msg")}).store(kind)
        return text
    try:
        return re.sub(r"\r\n?", "\n", standard_store().generate_msgdef(kind, ros_version=2)[0])
    except (TypesysError, KeyError) as error:
        raise DataError(f"message type {kind} is not standard; give its definition with it") from error


def type_hash(kind: str) -> str:
    """The RIHS01 hash of a standard type; empty for others."""
    store = standard_store()
    return str(store.hash_rihs01(kind)) if kind in store.fielddefs else ""
