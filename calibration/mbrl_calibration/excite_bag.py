"""Writes what was played as a bag, in the topics of the robot: as a recorder beside it would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mbrl_calibration.mechanism import Mechanism
from mbrl_calibration.playing import Played
from mbrl_control.data import message_types
from mbrl_control.data.mcap_bag import McapBag
from mbrl_control.errors import UserError
from mbrl_control.field_paths import place
from mbrl_control.messages import JOINT_STATE, STAMPED_COMMAND_TOPIC, CommandWriter
from mbrl_control.robot import RobotSpec

BEGIN_NS = 10**9
"""Time of the first message: a stamp of 0 would count as none."""
FIELDS = ("position", "velocity", "effort")


def efforts(spec: RobotSpec, mechanism: Mechanism | None, played: Played) -> np.ndarray:
    """[T, M] what the sensors of `nominal.measured` would say: the efforts that commands in force bring up, by the nominal equations.

    Raises:
        UserError: there are sensors, and no equations to say what they would measure.
    """
    sensors = spec.nominal.measured if spec.nominal is not None else []
    if not sensors:
        return np.empty((len(played.time), 0))
    if mechanism is None:
        raise UserError(f"robot '{spec.name}': nominal.measured names sensors, but no equations that calibration knows say what they would "
                        "measure; set nominal.system, or leave `measured` out of a simulated robot")
    late = np.round(spec.delays * spec.rate_hz).astype(int)
    rows = [[played.command[k - d, a] if k >= d else spec.action_zero[a] for a, d in enumerate(late)] for k in range(len(played.time))]
    values = mechanism.named(mechanism.start)
    brought = np.array([np.array(mechanism.applied(row, values)).ravel() for row in rows])
    joints = [spec.state[i].joint for i in mechanism.positions]
    return np.stack([brought[:, joints.index(sensor.joint)] for sensor in sensors], axis=1)


def _messages(spec: RobotSpec, values: np.ndarray, measured: np.ndarray) -> list[tuple[str, dict[str, Any]]]:
    """(topic, joint states) of a state [S] and sensors [M]; nan for what the robot's YAML does not name."""
    sensors = spec.nominal.measured if spec.nominal is not None else []
    topics: dict[str, dict[str, dict[str, float]]] = {}
    for signal, value in zip((*spec.state, *sensors), (*values, *measured), strict=True):
        if signal.type != JOINT_STATE or signal.joint is None:
            raise UserError(f"signal '{signal.name}' comes as {signal.type}; simulated robots publish {JOINT_STATE} with joint names")
        topics.setdefault(signal.topic, {}).setdefault(place(signal).joint, {})[signal.field] = float(value)
    return [(topic, {"name": list(joints), **{field: [one.get(field, np.nan) for one in joints.values()] for field in FIELDS}})
            for topic, joints in topics.items()]


def write(spec: RobotSpec, played: Played, measured: np.ndarray, folder: Path) -> None:
    """Write a bag.

    Args:
        spec: the robot.
        played: what was played.
        measured: [T, M] of `efforts`.
        folder: of the bag; must not exist.

    Raises:
        DataError: the folder exists or cannot be made.
        UserError: a state signal that is no joint's.
    """
    writer = CommandWriter(spec, message_types.empty)
    kinds = writer.topics()
    bag = McapBag(folder)

    def put(topic: str, kind: str, message: Any, at: int) -> None:
        bag.write(f"/{topic.lstrip('/')}", kind, message_types.encode(kind, message), at, at)

    try:
        for k, time in enumerate(played.time):
            at = BEGIN_NS + round(1e9 * time)
            for topic, message in _messages(spec, played.state[k], measured[k]):
                put(topic, JOINT_STATE, {"header": {"stamp": at}, **message}, at)
            for topic, message in writer.messages(played.command[k], at):
                put(topic, kinds[topic], message, at)
            twin = {"header": {"stamp": at}, "name": list(spec.command_names), "position": played.command[k]}
            put(STAMPED_COMMAND_TOPIC, JOINT_STATE, twin, at)
    finally:
        bag.close()
