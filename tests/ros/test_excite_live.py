"""`mbrl excite --on twin`: what is designed is what reaches the robot's topics, and calibration reads what was recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mbrl_calibration import runs
from mbrl_control import robot
from mbrl_control.runtime import course
from mbrl_control.runtime.process_link import child_environment

pytestmark = pytest.mark.slow


def excite(domain, folder, *arguments):
    environment = os.environ | child_environment() | {"ROS_DOMAIN_ID": str(domain)}
    return subprocess.run([sys.executable, "-m", "mbrl_control.cli", "excite", *map(str, arguments)], env=environment, cwd=folder,
                          capture_output=True, text=True, timeout=120, check=False)


def test_a_course_is_played_over_topics_and_recorded(domain, tmp_path):
    done = excite(domain, tmp_path, "pendulum", "--seconds", 3, "--on", "twin", "-o", "run", "--json", "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    spec = robot.load("pendulum")
    designed, _ = course.read(tmp_path / "run" / "course.safetensors", spec)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["stopped"] is None
    assert figures["on"] == "twin"
    (found,) = runs.load([tmp_path / "run"], spec)
    commands = found.command[: len(designed.command)]
    assert not designed.closed
    np.testing.assert_allclose(commands, designed.command[: len(commands)], atol=1e-9)
    assert len(designed.command) - 5 <= len(found.time) <= len(designed.command) + 1.6 * spec.rate_hz, "and a second of the safe action"
    assert found.state.std(axis=0).min() > 1e-3
    assert not (tmp_path / "run" / "blackbox").exists(), "the end of a course is no incident"
    assert {"bag", "report.json", "picture.png", "excitation.json", "robot.yaml"} <= {p.name for p in (tmp_path / "run").iterdir()}
