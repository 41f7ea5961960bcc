"""What the tests of bags share: a small robot, synthetic bags in every format, and where the real logs are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mbrl_control import robot, strict_yaml
from mbrl_control.data.message_types import encode
from mbrl_control.robot import RobotSpec

JOINTS = "sensor_msgs/msg/JointState"
ARRAY = "std_msgs/msg/Float64MultiArray"
Row = tuple[str, str, bytes, int]

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


def write_rosbag2(path: Path, rows: list[Row], storage: str = "mcap", compression: str = "", store: object = None) -> Path:
    """A bag written by an independent library."""
    store = store or get_typestore(Stores.ROS2_HUMBLE)
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3)
    if compression:
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        known = {}
        for topic, kind, payload, at in rows:
            if topic not in known:
                known[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(known[topic], at, payload)
    return path


def write_ros1(path: Path, rows: list[Row], compression: str = "") -> Path:
    """The same messages as a ROS 1 bag, headers with a sequence number."""
    store = get_typestore(Stores.ROS1_NOETIC)
    ros2 = get_typestore(Stores.ROS2_HUMBLE)
    header, stamp = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    with writer:
        known = {}
        for topic, kind, payload, at in rows:
            message = ros2.deserialize_cdr(payload, kind)
            if hasattr(message, "header"):
                h = message.header
                message = store.types[kind](header(7, stamp(h.stamp.sec, h.stamp.nanosec), h.frame_id), message.name, message.position,
                                            message.velocity, message.effort)
            if topic not in known:
                known[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(known[topic], at, store.serialize_ros1(message, kind))
    return path
