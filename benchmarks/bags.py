"""How fast 100 000 JointState messages of 7 joints are recorded and read into arrays, for both storages."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bag_writers import write_rosbag2

from mbrl_control import robot, strict_yaml
from mbrl_control.data.bags import read_bag
from mbrl_control.data.message_types import encode
from mbrl_control.data.recorder import Recorder, RecorderOptions
from mbrl_control.data.tail import McapTail
from mbrl_control.messages import MessageReader

KIND = "sensor_msgs/msg/JointState"
JOINTS = [f"panda_joint{i}" for i in range(1, 8)]


def messages(count: int) -> list[tuple[int, bytes]]:
    """(time ns, CDR bytes) at 1 kHz; made from one encoded message so that making them does not take longer than the measurement."""
    rng = np.random.default_rng(0)
    sample = bytearray(encode(KIND, {"header": {"stamp": 1, "frame_id": "base"}, "name": JOINTS, "position": np.arange(7) + 0.5,
                                     "velocity": np.zeros(7), "effort": np.zeros(7)}))
    at = bytes(sample).index((np.arange(7) + 0.5).tobytes())
    out = []
    for i, row in enumerate(rng.normal(size=(count, 7))):
        ns = 10**9 + i * 10**6
        sample[4:12] = np.array([ns // 10**9, ns % 10**9], "<u4").tobytes()
        sample[at:at + 56] = row.tobytes()
        out.append((ns, bytes(sample)))
    return out


def spec() -> robot.RobotSpec:
    """A robot of 7 joints with position, velocity (and no effort)."""
    state = "\n".join(f"  - {{name: {f[0]}{i}, joint: {j}, field: {f}, unit: {u}}}" for f, u in (("position", "rad"), ("velocity", "rad/s"))
                      for i, j in enumerate(JOINTS))
    text = f"name: arm\nstate:\n{state}\ncommand:\n  - {{name: u, unit: N*m, limits: [-1, 1]}}\ncost: {{kind: quadratic}}\n"
    return robot.validate(strict_yaml.parse(text, "benchmark"))


def timed(repeats: int, work: Callable[[], Any]) -> dict[str, float]:
    """Median and extremes of the wall time, and the median of the processor time (which other programs disturb less), s."""
    times, busy = [], []
    for _ in range(repeats):
        begun, before = time.perf_counter(), time.process_time()
        work()
        times.append(time.perf_counter() - begun)
        busy.append(time.process_time() - before)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times), "cpu_median_s": statistics.median(busy)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    rows, arm = messages(arguments.count), spec()
    reader = MessageReader(arm.state, arm.state_low, arm.state_high)
    report: dict[str, Any] = {"schema": 1, "command": "benchmarks/bags.py", "count": arguments.count, "payload_bytes": len(rows[0][1]),
                              "machine": {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine()}}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)

        def read(path: Path) -> None:
            columns = read_bag(path).topics["/joint_states"].columns(reader)
            assert columns.vectorised
            assert columns.values.shape == (arguments.count, 14)

        for name in ("mcap", "sqlite3"):
            begun = time.perf_counter()
            write_rosbag2(base / name, [("/joint_states", KIND, payload, ns) for ns, payload in rows], name)
            report[f"write_{name}_reference_s"] = time.perf_counter() - begun
            report[f"read_{name}"] = timed(arguments.repeats, lambda path=base / name: read(path))
        options = RecorderOptions(queue=arguments.count, min_free_bytes=0)
        begun = time.perf_counter()
        with Recorder(base / "own", options) as recorder:
            slowest = 0.0
            for ns, payload in rows:
                before = time.perf_counter()
                recorder.write("/joint_states", KIND, payload, ns)
                slowest = max(slowest, time.perf_counter() - before)
            report["record_caller_s"] = time.perf_counter() - begun
            report["record_caller_slowest_us"] = slowest * 1e6
        report["record_mcap_s"] = time.perf_counter() - begun
        report["recorded"], report["dropped"] = recorder.written, recorder.dropped
        report["read_own_mcap"] = timed(arguments.repeats, lambda: read(base / "own"))
        report["tail_mcap"] = timed(arguments.repeats, lambda: McapTail(base / "own").read())
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
