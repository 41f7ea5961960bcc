"""Node parameters: declared with description, range and read-only flag, in one line each. All are read once, at start."""

from __future__ import annotations

import math
from typing import Any

from rcl_interfaces.msg import IntegerRange, ParameterDescriptor, ParameterType
from rclpy.node import Node

from mbrl_control.errors import UserError

_GREATEST = 1e12


def text(node: Node, name: str, description: str, default: str | None = None) -> str:
    """A string.

    Args:
        node: where it is declared.
        name: of the parameter.
        description: shown by `ros2 param describe`.
        default: None makes it mandatory.

    Raises:
        UserError: mandatory and not given.
    """
    value: str = _declare(node, name, default or "", ParameterDescriptor(description=description, read_only=True))
    if default is None and not value:
        raise UserError(
            f"parameter '{name}' of node {node.get_fully_qualified_name()} is not set ({description}); set it with "
            f"-p {name}:=... or in a parameter file under the key '/**/{node.get_name()}'"
        )
    return value


def flag(node: Node, name: str, default: bool, description: str) -> bool:
    """A bool."""
    value: bool = _declare(node, name, default, ParameterDescriptor(description=description, read_only=True))
    return value


def number(node: Node, name: str, default: float, description: str, least: float = 0.0) -> float:
    """A finite float of at least `least`; a whole number may be written without a point.

    Raises:
        UserError: no number, or below `least`.
    """
    value = _declare(node, name, default, ParameterDescriptor(description=description, read_only=True, dynamic_typing=True))
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= least):
        where = f"parameter '{name}' of node {node.get_fully_qualified_name()}"
        raise UserError(f"{where} = {value!r} must be a number of at least {least} ({description})")
    return float(value)


def integer(node: Node, name: str, default: int, description: str, least: int = 0) -> int:
    """An int of at least `least`."""
    span = [IntegerRange(from_value=least, to_value=int(_GREATEST))]
    value: int = _declare(node, name, default, ParameterDescriptor(description=description, read_only=True, integer_range=span))
    return value


def _declare(node: Node, name: str, default: Any, descriptor: ParameterDescriptor) -> Any:
    # rclpy's own: a controller whose clock another node could switch would take every state for stale, or none.
    if not node.describe_parameter("use_sim_time").read_only:
        fixed = ParameterDescriptor(type=ParameterType.PARAMETER_BOOL, description="take the time from /clock", read_only=True)
        node.set_descriptor("use_sim_time", fixed)
    return node.declare_parameter(name, default, descriptor).value
