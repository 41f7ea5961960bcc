"""Names and classes of messages, and seconds to stamps."""

from __future__ import annotations

import importlib
from typing import Any

from builtin_interfaces.msg import Time

from mbrl_control.errors import UserError

PLAN_TOPIC = "mbrl/plan"


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


def type_name(kind: type[Any]) -> str:
    """The reverse of `message_class`."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def to_stamp(seconds: float) -> Time:
    """Seconds to a ROS time."""
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
