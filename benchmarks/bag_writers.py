"""Bags written by an independent library, in every format: what readers are tested, fuzzed and timed on."""

from __future__ import annotations

from pathlib import Path

from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

Row = tuple[str, str, bytes, int]
"""A message: topic, type, CDR bytes, time of receipt in ns."""


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
