"""Episodes from a bag: the robot's signals found in its topics, put on one clock and one grid."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_control.data.align import Clocks, Stream, align, choose_times
from mbrl_control.data.bags import Columns, Recording, read_bag
from mbrl_control.data.episodes import Episode
from mbrl_control.errors import DataError
from mbrl_control.messages import DECISION_TOPIC, JOINT_STATE, STAMPED_COMMAND_TOPIC, Part, Signal, parts, stamped_command_signals
from mbrl_control.robot import RobotSpec

MODEL_VERSION = "model_version"


def episodes_from_bag(path: str | Path, spec: RobotSpec, remap: Mapping[str, str] | None = None) -> list[Episode]:
    """Read a bag as episodes of a robot.

    Commands come from the stamped twin `mbrl/command` when the bag has it, else from the command topics of the spec.

    Args:
        path: any bag that `read_bag` reads.
        spec: the robot.
        remap: recorded topic by the spec's topic, where the end of the name does not decide.

    Returns:
        Episodes on the control period, split at gaps. Their `notes` tell what was lost, rejected, or timed by receipt.

    Raises:
        DataError: not a bag, topics missing or ambiguous, or nothing in it that makes an episode.
    """
    remap = dict(remap or {})
    state_parts = parts(spec.state, spec.state_low, spec.state_high)
    anything = np.full(spec.action_dim, np.inf)
    raw_parts = parts(spec.command, -anything, anything)
    twin_parts = parts(stamped_command_signals(spec), -anything, anything)
    wanted = [remap.get(p.topic, p.topic) for p in (*state_parts, *raw_parts, *twin_parts)]
    recording = read_bag(path, [*wanted, remap.get(DECISION_TOPIC, DECISION_TOPIC)])
    twin = recording.match(remap.get(STAMPED_COMMAND_TOPIC, STAMPED_COMMAND_TOPIC), JOINT_STATE)
    stamped = twin is not None and recording.topics[twin].type == JOINT_STATE and recording.topics[twin].count > 0
    command_parts = twin_parts if stamped else raw_parts
    notes = list(recording.notes)
    taken = [_columns(recording, p, remap, notes) for p in (*state_parts, *command_parts)]
    names = [p.topic for p in (*state_parts, *command_parts)]
    times, remarks = choose_times([Clocks(n, c.stamp_ns, c.publish_ns, c.receive_ns) for n, c in zip(names, taken, strict=True)])
    notes += remarks
    streams = [Stream(p.topic, p.index, t, c.values) for p, t, c in zip((*state_parts, *command_parts), times, taken, strict=True)]
    count = len(state_parts)
    episodes = align(streams[:count], streams[count:], spec, recording.path.name, notes, on_commands=stamped,
                     version=_versions(recording, remap) if stamped else None)
    if not episodes:
        spans = "; ".join(f"{s.topic}: {len(s.time_ns)} usable messages" for s in streams)
        said = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"{path}: no stretch in which all topics of '{spec.name}' have data at once: {spans}{said}")
    return episodes


def _columns(recording: Recording, part: Part, remap: Mapping[str, str], notes: list[str]) -> Columns:
    asked = remap.get(part.topic, part.topic)
    found = recording.match(asked, part.type)
    if found is None:
        known = sorted(recording.topics)
        near = difflib.get_close_matches(asked, known, n=1, cutoff=0.0)
        raise DataError(f"{recording.path}: no topic '{asked}' for {_signals(part.reader.signals)}; nearest: '{near[0] if near else ''}' "
                        f"(recorded: {', '.join(known)}); correct `topic` in the robot's YAML or remap it")
    columns = recording.topics[found].columns(part.reader)
    left_out = sum(columns.rejected.values())
    if left_out:
        why = ", ".join(f"{n} × {reason}" for reason, n in columns.rejected.most_common(3))
        notes.append(f"{found}: {left_out} of {left_out + len(columns.values)} messages rejected: {why}")
    if not len(columns.values):
        raise DataError(f"{recording.path}: topic {found} has no usable message for {_signals(part.reader.signals)}"
                        + (f": {notes[-1]}" if left_out else ""))
    return columns


def _signals(signals: Sequence[Signal]) -> str:
    return ", ".join(f"'{s.name}'" for s in signals)


def version_of(decision: Any) -> float | None:
    """The model version that a message on `mbrl/decision` tells; None where it tells none."""
    names, numbers = list(decision.name), decision.position
    version = float(numbers[names.index(MODEL_VERSION)]) if MODEL_VERSION in names and len(names) == len(numbers) else math.nan
    return version if math.isfinite(version) else None


def _versions(recording: Recording, remap: Mapping[str, str]) -> Stream | None:
    """The model version of each decision, from `mbrl/decision`."""
    found = recording.match(remap.get(DECISION_TOPIC, DECISION_TOPIC), JOINT_STATE)
    if found is None or not recording.topics[found].payloads:
        return None
    times, values = [], []
    for message in recording.topics[found].messages():
        if (version := version_of(message)) is not None:
            times.append(int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec))
            values.append([version])
    return Stream(found, np.array([0]), np.array(times, np.int64), np.array(values)) if times else None
