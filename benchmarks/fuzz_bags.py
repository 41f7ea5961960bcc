"""Damaged bags for the fuzzer: every format, damaged in its bytes, its metadata, single messages and type definitions."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from bag_writers import Row, write_ros1, write_rosbag2
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from mutations import damage, damage_text, damage_tree

from mbrl_control import robot, strict_yaml
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.message_types import definition, encode
from mbrl_control.data.recover import recover

JOINTS, ARRAY = "sensor_msgs/msg/JointState", "std_msgs/msg/Float64MultiArray"
Case = Callable[[np.random.Generator], None]
ARM = """
name: arm
rate_hz: 50
state:
  - {name: q1, joint: shoulder, field: position, unit: rad, wraps: true}
  - {name: v1, joint: shoulder, field: velocity, unit: rad/s, rate_of: q1}
command:
  - {name: u1, unit: "N*m", field: "data[0]", limits: [-5, 5]}
cost: {kind: quadratic}
"""
MARKER = "my_msgs/msg/Own"
OWN = "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nPart[2] parts\n" + "=" * 80
OWN += "\nMSG: my_msgs/Part\nuint8 a\n"


def rows_of_arm(count: int = 40) -> list[Row]:
    """Messages of a small robot: topic, type, CDR bytes, time."""
    rows: list[Row] = []
    for i in range(count):
        at = 10**9 + i * 10**7
        state = {"header": {"stamp": at}, "name": ["shoulder", "elbow"], "position": [0.1 * i, 1.0], "velocity": [1.0, 2.0]}
        rows.append(("/joint_states", JOINTS, encode(JOINTS, state), at))
        if i % 2 == 0:
            rows.append(("/commands", ARRAY, encode(ARRAY, {"data": [0.1 * i]}), at + 1))
    return rows


def write_mcap(path: Path, rows: list[Row], compression: CompressionType = CompressionType.NONE, schema: str = "",
               crc: bool = True) -> bytes:
    """An MCAP file; `schema` is the definition that it brings along for JointState."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=1500, compression=compression, enable_crcs=crc)
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for topic, kind, payload, at in rows:
            if topic not in channels:
                text = schema if schema and kind == JOINTS else definition(kind)
                number = writer.register_schema(kind, "ros2msg", text.encode("utf-8", "replace"))
                channels[topic] = writer.register_channel(topic, "cdr", number)
            writer.add_message(channels[topic], at, payload, at)
        writer.finish()
    return path.read_bytes()


def bag_files(folder: Path, rows: list[Row]) -> dict[str, bytes]:
    """The same messages as files of every kind, by name."""
    files = {"plain.mcap": write_mcap(folder / "a.mcap", rows), "zstd.mcap": write_mcap(folder / "b.mcap", rows, CompressionType.ZSTD),
             "lz4.mcap": write_mcap(folder / "c.mcap", rows, CompressionType.LZ4),
             "loose.mcap": write_mcap(folder / "d.mcap", rows, crc=False)}
    kinds = (("sqlite", "sqlite3", ""), ("message", "sqlite3", "message"), ("file", "mcap", "file"))
    for name, storage, mode in kinds:
        for path in write_rosbag2(folder / name, rows, storage, mode).iterdir():
            files[f"{name}/{path.name}"] = path.read_bytes()
    for compression in ("", "BZ2", "LZ4"):
        path = write_ros1(folder / f"ros1_{compression or 'plain'}.bag", rows, compression)
        files[path.name] = path.read_bytes()
    return files


def mend_chunks(data: bytes) -> bytes:
    """An MCAP file whose chunks (not compressed) have the checksums of what is in them, so that damage inside is looked at."""
    out, at = bytearray(data), 8
    while at + 9 < len(out):
        length = int.from_bytes(out[at + 1:at + 9], "little")
        if out[at] == 6 and at + 9 + 40 <= len(out):
            begin = at + 9 + 32 + int.from_bytes(out[at + 37:at + 41], "little") + 8
            out[at + 33:at + 37] = zlib.crc32(out[begin:at + 9 + length]).to_bytes(4, "little")
        at += 9 + length
    return bytes(out)


def bags(folder: Path) -> Case:
    """Bags of every format: bytes, metadata, single messages and type definitions damaged; read as episodes, and recovered."""
    spec = robot.validate(strict_yaml.parse(ARM, "arm.yaml"))
    rows = rows_of_arm()
    files = bag_files(folder, rows)
    load_episodes(folder / "a.mcap", spec)  # imports what every case needs
    others, names = list(files.values()), list(files)
    metadata = {name: yaml.safe_load(data) for name, data in files.items() if name.endswith("metadata.yaml")}
    texts = [definition(JOINTS), OWN, "float64[1000000000] a\n", "Own[30] a\n" + "=" * 80 + "\nMSG: my_msgs/Own\nOwn[30] b\n",
             "uint8 a=1\n"]

    def case(rng: np.random.Generator) -> None:
        place = folder / "case"
        place.mkdir(exist_ok=True)
        for old in place.iterdir():
            old.unlink()
        name, draw = names[rng.integers(len(names))], rng.random()
        if draw < 0.15:
            damaged = [(t, k, damage(p, rng, [rows[0][2]]) if rng.random() < 0.2 else p, at) for t, k, p, at in rows]
            write_mcap(place / "bag.mcap", damaged)
        elif draw < 0.3:
            write_mcap(place / "bag.mcap", rows, schema=damage_text(texts[rng.integers(len(texts))], rng, texts))
        elif draw < 0.4:
            head, inside = files["plain.mcap"][:200], files["plain.mcap"][200:]
            (place / "bag.mcap").write_bytes(mend_chunks(head + damage(inside, rng, others)))
        elif "/" in name:
            family = name.split("/")[0] + "/"
            for part in (n for n in names if n.startswith(family)):
                data = files[part]
                if part == name:
                    tree = part in metadata and rng.random() < 0.7
                    data = yaml.safe_dump(damage_tree(metadata[part], rng)).encode() if tree else damage(data, rng, others)
                (place / Path(part).name).write_bytes(data)
        else:
            (place / f"bag{Path(name).suffix}").write_bytes(damage(files[name], rng, others))
        try:
            load_episodes(place, spec)
        finally:
            if rng.random() < 0.1:
                out = folder / f"saved{rng.integers(2**60)}"
                for file in place.iterdir():
                    if file.suffix == ".mcap":
                        recover(file, out)

    return case
