"""Both packages build with colcon, and what a sourced installation needs is where it belongs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_colcon_builds_both_packages(tmp_path):
    pytest.importorskip("colcon_ros")
    folders = [f"--{name}-base={tmp_path / name}" for name in ("build", "install")]
    command = [sys.executable, "-m", "colcon", f"--log-base={tmp_path / 'log'}", "build", "--base-paths", ".", "ros2_ws/src", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    install = tmp_path / "install"
    for package in ("mbrl_control", "mbrl_control_ros"):
        assert (install / package / "share/ament_index/resource_index/packages" / package).exists()
        assert (install / package / "share" / package / "package.xml").exists()
    share = install / "mbrl_control_ros/share/mbrl_control_ros"
    assert {p.relative_to(share).as_posix() for p in share.rglob("*.launch.py")} == {"launch/robot.launch.py", "launch/sim.launch.py"}
    assert (share / "config/params.yaml").exists()
    program = install / "mbrl_control_ros/lib/mbrl_control_ros/sim_node"
    assert os.access(program, os.X_OK)
    assert_runs(install, program)


def assert_runs(install, program):
    """The installed program finds the installed library, its robots and its MJCF files, and nothing of the source tree."""
    where = "import mbrl_control, mbrl_control_ros, mbrl_sim as m; print(mbrl_control.__file__, mbrl_control_ros.__file__, m.__file__)"
    found = f"{sys.executable} -c \"{where}\""
    run = f"{program} --ros-args -p robot:=cartpole -p duration_s:=0.1"
    script = f"source {install}/setup.bash && cd / && {found} && {run}"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "AMENT_PREFIX_PATH", "COLCON_PREFIX_PATH")}
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "simulated 0.1 s" in ran.stdout + ran.stderr
    assert all(place.startswith(str(install)) for place in ran.stdout.splitlines()[0].split())
