"""A flood of states and a stranger on the command topic: ticks stay on time, and the stranger is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from mbrl_control.runtime.faults import FAULTS, Mode
from mbrl_control.runtime.process_link import child_environment
from mbrl_control.stack.network import stay_local

FLOOD_S = 5.0

# A state that is right, again and again, as fast as Python can: its bytes are made once, only the stamp in them is new each time.
PUBLISHER = """
import select, struct, sys, time
import rclpy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from mbrl_control_ros import qos
rclpy.init()
node = rclpy.create_node("flood")
publisher = node.create_publisher(JointState, "joint_states", qos.STREAM)
message = bytearray(serialize_message(JointState(name=["hinge", "slider"], position=[3.0, 0.0], velocity=[0.0, 0.0])))
while publisher.get_subscription_count() < 1:
    time.sleep(0.01)
sent, begin = 0, time.monotonic()
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(100):
        struct.pack_into("<iI", message, 4, *divmod(time.time_ns(), 10**9))
        publisher.publish(bytes(message))
    sent += 100
print(sent / (time.monotonic() - begin), flush=True)
"""


@pytest.fixture
def flood(domain, tmp_path):
    """Start to publish states, until its standard input is closed; what it prints then is their rate per second."""
    started = []

    def begin():
        own = {"ROS_DOMAIN_ID": str(domain)}
        started.append(subprocess.Popen([sys.executable, "-c", PUBLISHER], env=stay_local(child_environment() | own),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def position(decision, name):
    return decision.position[list(decision.name).index(name)]


@pytest.mark.fault(row=26)
def test_ticks_stay_on_time_in_a_flood_of_states_and_a_second_publisher_is_told(probe, start, flood, tmp_path, record_property):
    decisions, told = probe.listen(JointState, "mbrl/decision"), []

    def tell(message):
        told.extend((time.monotonic(), s) for s in message.status)

    probe.node.create_subscription(DiagnosticArray, "/diagnostics", tell, 100)
    node = start("controller_node", "robot:=cartpole", f"run_dir:={tmp_path / 'run'}", "autostart:=true", "check_fit:=false")
    publisher = flood()
    probe.until(lambda: decisions and position(decisions[-1], "mode") == Mode.EXPLORE, "excitation")
    first = len(decisions)
    probe.spin(FLOOD_S)
    # On a busy machine the flood itself may pause for longer than two ticks, which degrades.
    assert {position(d, "mode") for d in decisions[first:]} <= {Mode.EXPLORE, Mode.DEGRADED}
    assert len(decisions) - first > 0.9 * FLOOD_S * 50
    begin = time.monotonic()
    probe.node.create_publisher(Float64MultiArray, "commands", 1)

    def stranger():
        return [when for when, status in told if FAULTS["second_publisher"].sentence in status.message]

    probe.until(stranger, "the second publisher on /diagnostics")
    took = stranger()[0] - begin
    assert took < 1.0
    rate = float(publisher.communicate(timeout=30.0)[0])
    assert node.end() == 0
    cadence = json.loads((tmp_path / "run" / "controller.json").read_text())["cadence"]
    assert rate >= 10_000
    assert cadence["missed"] <= 0.01 * cadence["ticks"]
    record_property("measured", f"beside {rate:.0f} states a second {cadence['missed']} of {cadence['ticks']} ticks were missed, the "
                                f"latest was {cadence['lateness_us']['max'] / 1e3:.1f} ms late; a second publisher of commands was told "
                                f"after {1e3 * took:.0f} ms")
