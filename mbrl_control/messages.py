"""Messages to vectors and back, as a RobotSpec says. Works on messages of rclpy and of rosbags alike; imports neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_control.errors import SpecError
from mbrl_control.field_paths import (
    EULER,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOINT_TRAJECTORY_POINT,
    Place,
    Signal,
    Steps,
    euler_getter,
    getter,
    parse_path,
    place,
    quaternion_angle,
    stamp_ns,
)
from mbrl_control.refusal import Reason, Refusal
from mbrl_control.robot import RobotSpec
from mbrl_control.schema import CommandSignal

__all__ = ["DECISION_TOPIC", "EULER", "JOINT_STATE", "STAMPED_COMMAND_TOPIC", "CommandReader", "CommandWriter", "MessageReader", "Part",
           "Place", "Signal", "StateReader", "VectorReader", "parse_path", "parts", "place", "quaternion_angle", "stamp_ns",
           "stamped_command_signals"]

STAMPED_COMMAND_TOPIC = "mbrl/command"
DECISION_TOPIC = "mbrl/decision"
HUGE = 1e12


class MessageReader:
    """Reads the used numbers of the messages of one topic; a message is taken whole or not at all.

    Args:
        signals: [K] the signals on this topic, all of one type.
        low: [K] least plausible values.
        high: [K] greatest plausible values.
    """

    def __init__(self, signals: Sequence[Signal], low: np.ndarray, high: np.ndarray) -> None:
        self.type = signals[0].type
        self.signals = tuple(signals)
        self.low, self.high = low, high
        self.places = tuple(place(s) for s in signals)
        self.values = np.full(len(signals), np.nan)
        self._scratch = np.empty(len(signals))
        self._named = [(i, p.joint, getter(p.array)) for i, p in enumerate(self.places) if p.array]
        self._names = getter((self.places[self._named[0][0]].names,)) if self._named else None
        self._order: list[str] | None = None
        self._index: list[int] = []
        self._plain = [(i, self._plain_getter(p.steps)) for i, p in enumerate(self.places) if not p.array]

    @staticmethod
    def _plain_getter(steps: Steps) -> Callable[[Any], Any]:
        last = steps[-1]
        return euler_getter(steps, last) if isinstance(last, str) and last in EULER and len(steps) > 1 else getter(steps)

    def read(self, message: Any) -> Refusal | None:
        """Take the numbers of a message into `values`.

        Returns:
            None, or why the message was refused (`values` is then as before).
        """
        new = self._scratch
        try:
            if self._names is not None:
                names = self._names(message)
                if names != self._order:
                    fault = self._match(list(names))
                    if fault:
                        return fault
                for (i, joint, array), at in zip(self._named, self._index, strict=True):
                    numbers = array(message)
                    if len(numbers) != len(names):
                        end = f"; joint '{joint}' has none" if at >= len(numbers) else ", so that none can be told apart"
                        return Refusal("length", f"signal '{self.signals[i].name}': {len(numbers)} values for {len(names)} joints{end}")
                    new[i] = numbers[at]
            for i, get in self._plain:
                new[i] = get(message)
        except (AttributeError, IndexError, TypeError, ValueError, OverflowError) as error:
            return Refusal("malformed", f"the message is no usable {self.type}: {error}")
        if not ((new >= self.low) & (new <= self.high) & np.isfinite(new)).all():
            return self._implausible(new)
        self.values, self._scratch = new, self.values
        return None

    def _implausible(self, new: np.ndarray) -> Refusal:
        at = int(np.argmin((new >= self.low) & (new <= self.high) & np.isfinite(new)))
        name, value = self.signals[at].name, new[at]
        if not np.isfinite(value):
            return Refusal("not_finite", f"signal '{name}' is not finite")
        return Refusal("out_of_bounds", f"signal '{name}' = {value:g} is outside its bounds [{self.low[at]:g}, {self.high[at]:g}]")

    def _match(self, names: list[str]) -> Refusal | None:
        """Find the joints; a message that names others only is of another device on the same topic, which is usual and no fault."""
        index = []
        for _, joint, _ in self._named:
            found = names.count(joint)
            if found > 1:
                return Refusal("joint_twice", f"joint '{joint}' stands {found} times in the message")
            if not found:
                foreign = bool(names) and not any(other in names for _, other, _ in self._named)
                code: Reason = "joint_foreign" if foreign else "joint_missing"
                return Refusal(code, f"joint '{joint}' is not in the message")
            index.append(names.index(joint))
        self._order, self._index = names, index
        return None


@dataclass(frozen=True)
class Part:
    """The signals of a vector that come from one topic.

    Attributes:
        topic: as the spec names it.
        type: message type.
        index: [K] places in the vector.
        reader: reads them.
    """

    topic: str
    type: str
    index: np.ndarray
    reader: MessageReader


def parts(signals: Sequence[Signal], low: np.ndarray, high: np.ndarray) -> list[Part]:
    """Group signals by topic.

    Raises:
        SpecError: one topic with two types.
    """
    groups: dict[str, list[int]] = {}
    for i, signal in enumerate(signals):
        groups.setdefault(signal.topic, []).append(i)
    out = []
    for topic, members in groups.items():
        kinds = sorted({signals[i].type for i in members})
        if len(kinds) > 1:
            raise SpecError([f"topic '{topic}' is given two message types: {' and '.join(kinds)}; a topic has one"])
        index = np.array(members)
        out.append(Part(topic, kinds[0], index, MessageReader([signals[i] for i in members], low[index], high[index])))
    return out


class VectorReader:
    """Fills a vector from the messages of one or more topics.

    Attributes:
        values: [D] the vector; NaN until seen.
        time_ns: by topic, when its values were measured: the header stamp, or else the time of receipt.
    """

    def __init__(self, signals: Sequence[Signal], low: np.ndarray, high: np.ndarray) -> None:
        self.parts = parts(signals, low, high)
        self._by_topic = {p.topic: p for p in self.parts}
        self.values = np.full(len(signals), np.nan)
        self.time_ns: dict[str, int] = {}

    def topics(self) -> dict[str, str]:
        """Message type by topic, as the spec names them."""
        return {p.topic: p.type for p in self.parts}

    def read(self, topic: str, message: Any) -> Refusal | None:
        """Read a message into the reader of its topic, not yet into the vector; see `accept`.

        Args:
            topic: as the spec names it.
            message: with attribute access.
        """
        return self._by_topic[topic].reader.read(message)

    def read_values(self, topic: str) -> np.ndarray:
        """[K] what was last read from a topic, in the order of its signals in the spec; good until the next read."""
        return self._by_topic[topic].reader.values

    def accept(self, topic: str, time_ns: int) -> None:
        """Take over what was last read from a topic, measured at `time_ns`."""
        part = self._by_topic[topic]
        self.values[part.index] = part.reader.values
        self.time_ns[topic] = time_ns

    def update(self, topic: str, message: Any, receive_ns: int = 0) -> Refusal | None:
        """Read and accept a message.

        Args:
            topic: as the spec names it.
            message: with attribute access.
            receive_ns: time of receipt, used when the message has no stamp.

        Returns:
            None, or why the message was refused (nothing of it is taken).
        """
        refusal = self.read(topic, message)
        if refusal is None:
            self.accept(topic, stamp_ns(message) or receive_ns)
        return refusal

    def complete(self) -> bool:
        """Every signal was seen at least once."""
        return len(self.time_ns) == len(self.parts)

    def oldest_ns(self) -> int:
        """Time of the topic that is longest without news; 0 until complete."""
        return min(self.time_ns.values()) if self.complete() else 0


class StateReader(VectorReader):
    """[S] the state, from messages. Values outside a signal's bounds are sensor faults: their message is refused.

    So are numbers beyond `HUGE` where a signal has no bounds: finite as they are, their squares and sums are not.
    """

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec.state, np.maximum(spec.state_low, -HUGE), np.minimum(spec.state_high, HUGE))


class CommandReader(VectorReader):
    """[A] the command, from recorded command messages. Values beyond the limits are kept: they are what was sent."""

    def __init__(self, spec: RobotSpec) -> None:
        everything = np.full(spec.action_dim, np.inf)
        super().__init__(spec.command, -everything, everything)


def stamped_command_signals(spec: RobotSpec) -> list[CommandSignal]:
    """[A] the command signals as they stand in the stamped twin of the command, `mbrl/command`."""
    place = {"topic": STAMPED_COMMAND_TOPIC, "type": JOINT_STATE, "field": "position"}
    return [c.model_copy(update={**place, "joint": c.name}) for c in spec.command]


class CommandWriter:
    """Fills command messages from a command vector.

    Args:
        spec: the robot.
        empty: makes an empty message of a type; of rclpy beside a robot, `message_types.empty` without ROS.
    """

    def __init__(self, spec: RobotSpec, empty: Callable[[str], Any]) -> None:
        everything = np.full(spec.action_dim, np.inf)
        self._filled: list[tuple[str, str, Any, Callable[[np.ndarray], None]]] = []
        for part in parts(spec.command, -everything, everything):
            message = empty(part.type)
            fill = self._named_filler(part, message, empty, spec.tick_s) if part.reader.places[0].array else self._filler(part, message)
            self._filled.append((part.topic, part.type, message, fill))

    def topics(self) -> dict[str, str]:
        """Message type by topic, as the spec names them."""
        return {topic: kind for topic, kind, _, _ in self._filled}

    def messages(self, action: np.ndarray, stamp: int = 0) -> list[tuple[str, Any]]:
        """The messages that command `action`.

        Args:
            action: [A].
            stamp: ns, for messages with a header.

        Returns:
            (topic, message) each; the same message objects every time, so send or encode them before the next call.
        """
        for _, _, message, fill in self._filled:
            fill(action)
            header = getattr(message, "header", None)
            if header is not None:
                header.stamp.sec, header.stamp.nanosec = stamp // 10**9, stamp % 10**9
        return [(topic, message) for topic, _, message, _ in self._filled]

    @staticmethod
    def _filler(part: Part, message: Any) -> Callable[[np.ndarray], None]:
        setters: list[tuple[int, Callable[[float], None]]] = []
        for at, where, signal in zip(part.index, part.reader.places, part.reader.signals, strict=True):
            try:
                setters.append((int(at), setter(message, where.steps)))
            except (AttributeError, IndexError, TypeError) as error:
                raise SpecError([f"command '{signal.name}': a {part.type} has no number '{signal.field}' to write to"]) from error

        def fill(action: np.ndarray) -> None:
            for at, put in setters:
                put(float(action[at]))

        return fill

    @staticmethod
    def _named_filler(part: Part, message: Any, empty: Callable[[str], Any], tick_s: float) -> Callable[[np.ndarray], None]:
        joints = list(dict.fromkeys(p.joint for p in part.reader.places))
        arrays: dict[str, dict[str, int]] = {}
        for at, where in zip(part.index, part.reader.places, strict=True):
            arrays.setdefault(str(where.array[-1]), {})[where.joint] = int(at)
        for name, members in arrays.items():
            if set(members) != set(joints):
                raise SpecError([f"topic '{part.topic}': '{name}' is commanded for {', '.join(members)} but the message names "
                                 f"{', '.join(joints)}; command it for all of them or none"])
        holder = message
        if part.type == JOINT_TRAJECTORY:
            message.joint_names = joints
            holder = empty(JOINT_TRAJECTORY_POINT)
            # one period ahead, as servoing controllers expect of a point that is replaced each period
            holder.time_from_start.sec, holder.time_from_start.nanosec = int(tick_s), int(tick_s % 1 * 1e9)
            message.points = [holder]
        else:
            message.name = joints
        order = {name: np.array([members[j] for j in joints]) for name, members in arrays.items()}
        as_array = {name: isinstance(getattr(holder, name), np.ndarray) for name in order}

        def fill(action: np.ndarray) -> None:
            for name, index in order.items():
                values = np.asarray(action[index], dtype=np.float64)
                setattr(holder, name, values if as_array[name] else values.tolist())

        return fill


def setter(message: Any, steps: Steps) -> Callable[[float], None]:
    """A function that writes a number to a path, growing arrays that are too short."""
    holder = getter(steps[:-1])(message) if len(steps) > 1 else message
    last = steps[-1]
    if isinstance(last, str):
        whole = isinstance(getattr(holder, last), int)

        def put(value: float) -> None:
            setattr(holder, last, round(value) if whole else value)

        if not isinstance(getattr(holder, last), (int, float)):
            raise TypeError(last)
        return put
    owner = getter(steps[:-2])(message) if len(steps) > 2 else message
    name = steps[-2]
    if not isinstance(name, str):
        raise TypeError(name)
    if len(holder) <= last:
        missing = last + 1 - len(holder)
        if isinstance(holder, np.ndarray):
            setattr(owner, name, np.concatenate([holder, np.zeros(missing, holder.dtype)]))
        else:
            holder.extend([0.0 if getattr(holder, "typecode", "d") in "fd" else 0] * missing)

    def put_item(value: float) -> None:
        array = getattr(owner, name)
        array[last] = value if not isinstance(array[last], (int, np.integer)) else round(value)

    return put_item
