"""The simulated robot: publishes, obeys, stops obeying an old command, and lives beside another one."""

from __future__ import annotations

import itertools
import math
import signal

import yaml
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from mbrl_control import robot


def push(probe, publisher, force, seconds):
    """Send a constant command at 50 Hz."""
    for _ in range(int(seconds * 50)):
        publisher.publish(Float64MultiArray(data=[force]))
        probe.spin(0.02)


def speed(states):
    return states[-1].velocity[list(states[-1].name).index("slider")]


def test_publishes_at_its_rate_to_both_kinds_of_subscription(probe, start):
    spec = robot.load("cartpole")
    node = start("sim_node", "robot:=cartpole")
    reliable = probe.listen(JointState, "joint_states")
    best_effort = probe.listen(JointState, "joint_states", qos_profile_sensor_data)
    clock = probe.listen(Clock, "/clock")
    probe.until(lambda: len(reliable) > 50 and len(best_effort) > 50 and len(clock) > 50, "states and clock")
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in reliable]
    rate = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    assert abs(rate - spec.sim.state_hz) < 0.1 * spec.sim.state_hz
    assert sorted(reliable[0].name) == ["hinge", "slider"]
    hanging = reliable[0].position[list(reliable[0].name).index("hinge")]
    assert abs(abs(hanging) - math.pi) < 0.2
    ticks = [c.clock.sec + c.clock.nanosec * 1e-9 for c in clock]
    periods = [(b - a) * spec.sim.state_hz for a, b in itertools.pairwise(ticks)]
    assert all(p > 0.5 and abs(p - round(p)) < 1e-4 for p in periods)  # more than one where the machine was too busy
    assert node.end(signal.SIGTERM) == 0
    assert "simulated" in node.output


def test_obeys_and_times_out_to_the_zero_command(probe, start):
    start("sim_node", "robot:=cartpole")
    states = probe.listen(JointState, "joint_states")
    publisher = probe.node.create_publisher(Float64MultiArray, "commands", qos_profile_sensor_data)
    probe.until(lambda: states and publisher.get_subscription_count() == 1, "a match both ways")
    assert abs(speed(states)) < 0.1
    push(probe, publisher, 0.2, 0.3)
    assert speed(states) > 0.2
    probe.spin(0.2)
    coasting = speed(states)
    probe.spin(0.3)
    # 0.2 of 10 N on 1.1 kg would have added 0.5 m/s in that time; the pole's swing takes or gives a tenth of the speed.
    assert abs(speed(states) - coasting) < 0.2
    publisher.publish(Float64MultiArray(data=[]))
    publisher.publish(Float64MultiArray(data=[math.nan]))
    before = len(states)
    probe.until(lambda: len(states) > before + 20, "states after bad commands")
    assert all(math.isfinite(v) for v in states[-1].velocity)


def test_two_robots_in_two_namespaces_do_not_touch_each_other(probe, start):
    start("sim_node", "robot:=cartpole", "publish_clock:=false", ns="/left")
    start("sim_node", "robot:=cartpole", "publish_clock:=false", ns="/right")
    left, right = probe.listen(JointState, "/left/joint_states"), probe.listen(JointState, "/right/joint_states")
    publisher = probe.node.create_publisher(Float64MultiArray, "/left/commands", 1)
    probe.until(lambda: left and right and publisher.get_subscription_count() == 1, "both robots")
    push(probe, publisher, 0.5, 0.5)
    assert speed(left) > 0.5
    assert abs(speed(right)) < 0.1
    names = {f"{ns}/{name}" for name, ns in probe.node.get_node_names_and_namespaces()}
    assert {"/left/sim", "/right/sim"} <= names


def test_takes_joint_trajectories(probe, start, tmp_path):
    data = yaml.safe_load(robot.shipped()["cartpole"].read_text())
    data["command"][0] |= {"topic": "joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory", "field": "effort"}
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(data))
    start("sim_node", f"robot:={path}")
    states = probe.listen(JointState, "joint_states")
    publisher = probe.node.create_publisher(JointTrajectory, "joint_trajectory", 1)
    probe.until(lambda: states and publisher.get_subscription_count() == 1, "a match both ways")
    for _ in range(25):
        points = [JointTrajectoryPoint(effort=[9.0, 0.5])]
        publisher.publish(JointTrajectory(joint_names=["another", "slider"], points=points))
        probe.spin(0.02)
    assert speed(states) > 0.5


def test_a_fault_of_the_user_is_told_in_a_sentence(start):
    for parameters, words in ((("robot:=cartpol",), "cartpole"), ((), "'robot'"), (("robot:=cartpole", "duration_s:=soon"), "duration_s")):
        node = start("sim_node", *parameters)
        assert node.process.wait(20) == 2
        assert words in node.output
        assert "Traceback" not in node.output


def test_ends_by_itself_and_changes_the_robot_on_time(start):
    node = start("sim_node", "robot:=cartpole", "duration_s:=0.5", "change:=mass:pole", "change_at_s:=0.2")
    assert node.process.wait(20) == 0
    assert "mass:pole times 2.0 at 0.20 s" in node.output
