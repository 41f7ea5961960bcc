"""Message types: the standard ones, a small table of common others, and those that a bag brings along; CDR without ROS."""

from __future__ import annotations

import functools
import re
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
                types = _parse(kind, text, encoding)
                if kind in types:
                    same = all(name in standard.fielddefs and _layout(standard.fielddefs[name]) == _layout(d) for name, d in types.items())
                    if same:
                        return standard
                    # a definition of the bag's own, or one that differs from today's: the bag knows best how it was written
                    own = get_typestore(Stores.EMPTY)
                    own.register(_closed(kind, types, standard.fielddefs))
                    return own
            except (TypesysError, ValueError, KeyError, AssertionError) as error:
                if kind not in standard.fielddefs:
                    raise DataError(f"the definition of message type {kind} in the bag cannot be understood: {_line(error)}") from error
        if kind in standard.fielddefs:
            return standard
        raise DataError(f"message type {kind} is neither a standard one nor defined in the bag; record with a recorder that stores "
                        "definitions (MCAP, or rosbag2 of ROS 2 Iron and later)")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _layout(definition: Any) -> list[tuple[str, Any]]:
    return [(name.lower(), kind) for name, kind in definition[1]]


def _closed(kind: str, types: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The definitions that `kind` is made of: those in `types`, and what they leave out from `others`."""
    out: dict[str, Any] = {}
    waiting = [kind]
    while waiting:
        name = waiting.pop()
        if name not in out:
            out[name] = types[name] if name in types else others[name]
            for _, (node, detail) in out[name][1]:
                inner, what = detail[0] if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (node, detail)
                if inner == Nodetype.NAME:
                    waiting.append(what)
    return out


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
    except (SerdeError, KeyError) as error:
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
