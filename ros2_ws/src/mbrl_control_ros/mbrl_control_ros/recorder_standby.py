"""A recorder that stands by: it has imported everything, records nothing, and records at once when those before it are gone.

This module imports no ROS at its top: the imports, the greatest part of a start, are done by a thread of the lowest priority.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from mbrl_control.heartbeat import Heartbeat
from mbrl_control.lifeline import follow_parent, orphaned
from mbrl_control.priority import reluctant_thread
from mbrl_control.process_name import RECORDS, STANDS_BY, call_process

if TYPE_CHECKING:
    from mbrl_control_ros.process import Stop

LOOK_S = 0.03
JOINTS = "sensor_msgs/msg/JointState"


def _import() -> None:
    reluctant_thread()
    importlib.import_module("mbrl_control_ros.recorder_node")


def _body(stop: Stop) -> None:
    from rclpy.node import Node  # noqa: PLC0415

    from mbrl_control.data.message_types import definition  # noqa: PLC0415
    from mbrl_control.data.turn import Turn  # noqa: PLC0415
    from mbrl_control_ros import recorder_node  # noqa: PLC0415

    # Others discover a process by its first node, which takes a while; subscriptions of a process that they know are matched at once.
    known = Node(f"recorder_standby_{os.getpid()}", enable_rosout=False, start_parameter_services=False)
    beat = Heartbeat()
    run_dir = recorder_node.run_folder(known)
    turn, first_in_line = Turn(run_dir), Turn(run_dir / "logs")
    definition(JOINTS)  # reads all definitions, which would hold up the first message
    beat()  # before the name: who reads that may rely on this process being known to stand by
    call_process(STANDS_BY)
    while not (first_in_line.take() and turn.take()):
        if stop:
            return
        beat()
        time.sleep(LOOK_S)
    # A recorder that ends because the whole run does needs nobody in its place.
    if stop or orphaned():
        return
    first_in_line.close()
    call_process(RECORDS)
    node = recorder_node.RecorderNode(turn)
    known.destroy_node()
    recorder_node.record(stop, node, beat)


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    follow_parent(signal.SIGKILL)  # until ROS is there to end in order
    slow = threading.Thread(target=_import, name="imports")
    slow.start()
    slow.join()
    from mbrl_control_ros.process import run  # noqa: PLC0415

    run(_body, args)


if __name__ == "__main__":
    main()
