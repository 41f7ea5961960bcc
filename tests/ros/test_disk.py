"""The recorder's disk is full, or does not answer: the controller's ticks do not know."""

from __future__ import annotations

import os
import resource
import signal
import time

import pytest
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from waiting import until

from mbrl_control.data.tail import McapTail

TICK = 0.02
ERROR = 40


class Stack:
    """A simulated robot, a controller and a recorder, and when the controller's ticks were."""

    def __init__(self, probe, start, run_dir):
        self.probe, self.times = probe, []
        kept = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.told = probe.listen(Log, "/rosout", kept)
        probe.node.create_subscription(JointState, "mbrl/decision", self._take, 100)
        self.recorder = start("recorder_node", "robot:=cartpole", f"run_dir:={run_dir}")
        start("sim_node", "robot:=cartpole")
        start("controller_node", "robot:=cartpole", f"run_dir:={run_dir}", "autostart:=true", "check_fit:=false")
        tail, recorded = McapTail(run_dir / "bag", ["mbrl/command"]), []

        def recording():
            recorded.extend(tail.read() if (run_dir / "bag").exists() else [])
            return len(recorded) > 20

        probe.until(recording, "commands in the bag", 40.0)
        probe.until(lambda: len(self.times) > 20 and any(m.name == "recorder" for m in self.told), "word of both", 40.0)

    def _take(self, message):
        self.times.append(message.position[list(message.name).index("time_s")])

    def missed(self, begin, end):
        """Ticks in a time (monotonic clock, the controller's too), and how many were missed, from the one before it to the one after."""
        self.probe.until(lambda: self.times[-1] > end, "ticks after it")
        inside = [t for t in self.times if begin <= t <= end]
        around = min(t for t in self.times if t > end) - max(t for t in self.times if t < begin)
        return len(inside), round(around / TICK) - 1 - len(inside)


@pytest.fixture
def stack(probe, start, tmp_path):
    return Stack(probe, start, tmp_path / "run")


@pytest.mark.fault(row=22)
def test_control_goes_on_when_the_recorders_disk_is_full(stack, record_property):
    begin = time.monotonic()
    resource.prlimit(stack.recorder.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    stack.probe.until(lambda: [m for m in stack.told if m.name == "recorder" and m.level >= ERROR], "the recorder to tell it")
    told_s = time.monotonic() - begin
    assert told_s < 1.0
    stack.probe.spin(1.0)
    assert until(stack.recorder.process.poll) == 1, "and it has ended"
    ticks, missed = stack.missed(begin, time.monotonic())
    assert ticks + missed >= 49
    assert missed <= 1
    record_property("measured", f"a recorder that cannot write tells it after {told_s:.2f} s and ends; {missed} of the {ticks} ticks "
                                "meanwhile were missed")


@pytest.mark.fault(row=23)
def test_no_tick_waits_for_a_recorder_that_waits_for_its_disk(stack, record_property):
    """Stopped altogether it takes nothing at all from the controller: worse than a disk that is slow."""
    begin = time.monotonic()
    os.kill(stack.recorder.process.pid, signal.SIGSTOP)
    stack.probe.spin(2.0)
    ticks, missed = stack.missed(begin, time.monotonic())
    os.kill(stack.recorder.process.pid, signal.SIGCONT)
    assert ticks + missed >= 99
    assert missed <= 1
    record_property("measured", f"a recorder that stands still for {ticks * TICK:.1f} s: {missed} of {ticks} ticks were missed")
