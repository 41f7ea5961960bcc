"""A cart's state topic on a virtual clock, from the message to the controller's mode: what the tests of the inputs share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import carts
import numpy as np
from fakes import FakeLink

from mbrl_control import robot, strict_yaml
from mbrl_control.runtime.controller import Controller
from mbrl_control.runtime.faults import Mode
from mbrl_control.runtime.injection import Injector
from mbrl_control.runtime.message_editor import MessageEditor
from mbrl_control.runtime.state_input import StateInput

TICK = 0.02
NORMAL = Mode.EXPLORE
"""What the controller does without faults: these carts have no planner."""
ROS_0 = 1_700_000_000 * 10**9
"""ROS time at 0 s of the monotonic clock, ns."""
BOUNDED = carts.CART.replace("unit: m}", "unit: m, bounds: [-3, 3]}").replace("rate_of: x}", "rate_of: x, bounds: [-5, 5]}")


def cart_spec(text=BOUNDED, **keys):
    spec = robot.validate(strict_yaml.parse("name: cart\n" + text, "cart.yaml"))
    return spec.model_copy(update=keys)


def joint_state(stamp_ns, x, v, names=("slider",), **arrays):
    """A JointState of the cart with further joints, if `names` says so, at 0."""
    position = [x if n == "slider" else 0.0 for n in names]
    velocity = [v if n == "slider" else 0.0 for n in names]
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9))
    return SimpleNamespace(header=header, name=list(names), **({"position": position, "velocity": velocity, "effort": []} | arrays))


def ros_ns(time_s):
    return ROS_0 + round(time_s * 1e9)


def motion(time_s):
    """Position and velocity of a cart that swings by half a metre."""
    return 0.5 * np.sin(2 * time_s), np.cos(2 * time_s)


def states(seconds, lag_s=0.0, hz=50.0, stamp=ros_ns):
    """(arrival, message) for a cart that is measured `lag_s` before."""
    for k in range(round(seconds * hz)):
        at = k / hz
        yield at, joint_state(stamp(at - lag_s), *motion(at - lag_s))


@dataclass
class Seen:
    """What each tick of 50 Hz saw, after the messages that came until then.

    Attributes:
        age: of the state.
        codes: faults.
        mode: of the controller.
        measured: when the state was, s.
        x: the position.
        refusals: codes of what was refused, in order.
    """

    age: list = field(default_factory=list)
    codes: list = field(default_factory=list)
    mode: list = field(default_factory=list)
    measured: list = field(default_factory=list)
    x: list = field(default_factory=list)
    refusals: list = field(default_factory=list)

    def worst(self) -> Mode:
        return max(self.mode)

    def first(self, mode) -> float:
        """When a mode, or a worse one, first was, s."""
        return next(k for k, m in enumerate(self.mode) if m >= mode) * TICK


def watch(stream, seconds, spec=None, now_ns=ros_ns, source=None, look_in_tick=True):
    """Run a stream of (arrival, message) through the inputs and the controller.

    `now_ns` is ROS time by monotonic time; ticks are at multiples of 20 ms, after the messages of that instant.
    """
    spec = spec or cart_spec()
    source = source or StateInput(spec)
    seen, controller, waiting = Seen(), Controller(spec, FakeLink(), 0), iter(stream)
    topic = next(iter(source.topics()))
    message = next(waiting, None)
    for k in range(round(seconds / TICK)):
        now = k * TICK
        while message is not None and message[0] <= now + 1e-9:
            refusal = source.take(topic, message[1], now_ns(message[0]), message[0])
            if refusal:
                seen.refusals.append(refusal.code)
            elif source.complete():
                controller.on_state(source.watch.measured_s, source.values.copy())
            message = next(waiting, None)
        if look_in_tick:
            source.watch.clock(now_ns(now), now)
        controller.outside = source.watch.faults(now)
        decision = controller.tick(now)
        for to, value in zip((seen.age, seen.codes, seen.mode, seen.measured, seen.x),
                             (source.watch.age(now), set(controller.supervision.present), decision.mode, source.watch.measured_s,
                              float(source.values[0])), strict=True):
            to.append(value)
    return seen


def injector(word, amount=None, begin_s=1.0, end_s=math.inf, seed=0):
    return Injector(word, np.random.default_rng(seed), MessageEditor(list(cart_spec().state)), amount, begin_s, end_s)


def run_of(mode, modes):
    """How many ticks were in a mode."""
    return sum(m == mode for m in modes)
