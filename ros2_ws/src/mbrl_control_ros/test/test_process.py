"""A child process can import rclpy whatever part of the wheels' environment it inherits."""

import subprocess
import sys

import pytest

from mbrl_control.runtime.process_link import child_environment

pytest.importorskip("rclpy", exc_type=ImportError)
GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"


def test_a_child_that_lost_the_library_path_imports_rclpy(monkeypatch):
    monkeypatch.setenv(GUARD, "1")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert GUARD not in child_environment()
    subprocess.run([sys.executable, "-c", "import rclpy"], env=child_environment(), check=True, timeout=60)


def test_the_mark_stays_where_the_library_path_is_inherited(monkeypatch):
    monkeypatch.setenv(GUARD, "1")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/x")
    assert child_environment()[GUARD] == "1"
