"""A child process can import rclpy whatever part of the wheels' environment it inherits."""

import os
import subprocess
import sys

import pytest
from mbrl_control_ros.process import child_environment

pytest.importorskip("rclpy")
GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"


def test_the_mark_goes_only_where_the_library_path_is_missing():
    assert GUARD not in child_environment({GUARD: "1", "A": "b"})
    both = {GUARD: "1", "LD_LIBRARY_PATH": "/x"}
    assert child_environment(both) == both


def test_a_child_without_library_path_imports_rclpy():
    parent = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"} | {GUARD: "1"}
    environment = child_environment(parent)
    subprocess.run([sys.executable, "-c", "import rclpy"], env=environment, check=True, timeout=60)
