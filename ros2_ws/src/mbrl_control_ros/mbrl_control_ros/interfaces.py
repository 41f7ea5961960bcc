"""Message classes by type name, stamps to seconds and back."""

from __future__ import annotations

import importlib
from typing import Any

from builtin_interfaces.msg import Time
from mbrl_control.errors import UserError


def message_class(name: str) -> type[Any]:
    """The message class of a type name such as `sensor_msgs/msg/JointState`.

    Raises:
        UserError: the package that defines it is not installed.
    """
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise UserError(f"message type '{name}' cannot be loaded ({error}); install the ROS package '{package}'") from error


def stamp_seconds(message: Any) -> float | None:
    """The header's stamp in seconds; None where there is no header or the stamp was never set."""
    header = getattr(message, "header", None)
    if header is None or (header.stamp.sec == 0 and header.stamp.nanosec == 0):
        return None
    return float(header.stamp.sec + header.stamp.nanosec * 1e-9)


def to_stamp(seconds: float) -> Time:
    """Seconds to a ROS time."""
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
