"""What the tests of bags share: a small robot, synthetic bags in every format, and where the real logs are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from bag_writers import Row, write_ros1, write_rosbag2

from mbrl_control import robot, strict_yaml
from mbrl_control.data.message_types import encode
from mbrl_control.robot import RobotSpec

JOINTS = "sensor_msgs/msg/JointState"
ARRAY = "std_msgs/msg/Float64MultiArray"
__all__ = ["Row", "write_ros1", "write_rosbag2"]

ARM = """
name: arm
rate_hz: 50
state:
  - {name: q1, joint: shoulder, field: position, unit: rad, wraps: true}
  - {name: q2, joint: elbow, field: position, unit: rad, bounds: [-3, 3]}
  - {name: v1, joint: shoulder, field: velocity, unit: rad/s, rate_of: q1}
  - {name: v2, joint: elbow, field: velocity, unit: rad/s, rate_of: q2}
command:
  - {name: u1, unit: "N*m", field: "data[0]", limits: [-5, 5]}
  - {name: u2, unit: "N*m", field: "data[1]", limits: [-5, 5]}
cost: {kind: quadratic}
"""


def spec_of(text: str = ARM) -> RobotSpec:
    return robot.validate(strict_yaml.parse(text, "test.yaml"))


def changed(**keys: object) -> RobotSpec:
    data = yaml.safe_load(ARM)
    data.update(keys)
    return spec_of(yaml.safe_dump(data))


def data_folder() -> Path | None:
    for candidate in (os.environ.get("MBRL_DATA"), Path(__file__).resolve().parents[1] / ".." / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


def real(name: str) -> Path:
    """A real robot's log. Skips without it: the logs are others' and large, and do not ship; `MBRL_DATA` names them."""
    folder = data_folder()
    if folder is None or not (folder / name).exists():
        pytest.skip("the real logs are not here (set MBRL_DATA)")
    return folder / name


def joint_state(stamp: int, q: Iterable[float], v: Iterable[float], names: Iterable[str] = ("shoulder", "elbow")) -> bytes:
    return encode(JOINTS, {"header": {"stamp": stamp}, "name": list(names), "position": list(q), "velocity": list(v)})


def array(*values: float) -> bytes:
    return encode(ARRAY, {"data": values})


def run_of_arm(n: int = 100, dt_ns: int = 10_000_000, start: int = 1_000_000_000, prefix: str = "") -> tuple[list[Row], np.ndarray]:
    """A 100 Hz state with 50 Hz commands: rows for a bag, and the [n, 4] states written."""
    t = np.arange(n) * dt_ns / 1e9
    states = np.column_stack([np.sin(3 * t), np.cos(2 * t), 3 * np.cos(3 * t), -2 * np.sin(2 * t)])
    rows: list[Row] = []
    for i, s in enumerate(states):
        at = start + i * dt_ns
        rows.append((prefix + "/joint_states", JOINTS, joint_state(at, s[:2], s[2:]), at + 200_000))
        if i % 2 == 0:
            rows.append((prefix + "/commands", ARRAY, array(float(i), -float(i)), at + 300_000))
    return rows, states


def own_run(n: int = 200, gap: Sequence[int] = ()) -> list[Row]:
    """A run as the stack records it: 100 Hz states, 50 Hz stamped commands and decisions."""
    rows: list[Row] = []
    for i in range(n):
        at = 10**9 + 10_000_000 * i
        if i in gap:
            continue
        rows.append(("/joint_states", JOINTS, joint_state(at, (np.sin(i / 20), 0.1), (0, i)), at + 100_000))
        if i % 2:
            sent = {"header": {"stamp": at + 3_000_000}, "name": ["u1", "u2"], "position": [i, -i]}
            chosen = {"header": {"stamp": at + 3_000_000}, "name": ["model_version"], "position": [i // 50]}
            rows.append(("/mbrl/command", JOINTS, encode(JOINTS, sent), at + 3_100_000))
            rows.append(("/mbrl/decision", JOINTS, encode(JOINTS, chosen), at + 3_200_000))
    return rows
