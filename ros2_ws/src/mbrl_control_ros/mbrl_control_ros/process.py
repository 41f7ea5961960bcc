"""What a node's process needs around rclpy: an orderly stop on signals, and faults of the user told in words."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.exceptions import InvalidParameterException, InvalidParameterTypeException, InvalidParameterValueException
from rclpy.signals import SignalHandlerOptions

from mbrl_control.errors import UserError
from mbrl_control.lifeline import follow_parent

_BAD_PARAMETER = (InvalidParameterException, InvalidParameterTypeException, InvalidParameterValueException)


class Stop:
    """Becomes true with SIGINT or SIGTERM. rclpy's own handlers would end the context before the last command is sent."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def ask(self, *_: object) -> None:
        """Ask the node's loop to end; also the signal handler."""
        self._asked = True


@contextmanager
def ros(args: list[str] | None) -> Iterator[Stop]:
    """rclpy begun and ended, with signals turned into a `Stop`, and so with the end of the process that started this one."""
    stop = Stop()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGINT, stop.ask)
    signal.signal(signal.SIGTERM, stop.ask)
    follow_parent(signal.SIGINT)
    try:
        yield stop
    finally:
        rclpy.try_shutdown()


def run(body: Callable[[Stop], None], args: list[str] | None) -> None:
    """Run a node's `body` under `ros`; what a user can put right is told in a sentence and ends with status 2."""
    try:
        with ros(args) as stop:
            body(stop)
    except (UserError, *_BAD_PARAMETER) as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:  # the base of what rclpy raises
        if "security" not in str(error).lower():
            raise
        print(f"this node was asked to be secure (ROS_SECURITY_ENABLE) and cannot be, so it does not start: "
              f"{' '.join(str(error).split())}; see docs/security.md", file=sys.stderr)
        sys.exit(2)
