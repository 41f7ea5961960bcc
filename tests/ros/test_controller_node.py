"""The controller: silent until activated, one command each period, and a robot at rest whatever ends it."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from mbrl_control import robot
from mbrl_control.runtime.faults import Mode

CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP = (
    Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)


class Robot:
    """Publishes a state at 100 Hz while `speaks`."""

    def __init__(self, probe, ns=""):
        self.publisher = probe.node.create_publisher(JointState, f"{ns}/joint_states" if ns else "joint_states", 1)
        self.clock = probe.node.get_clock()
        self.speaks = True
        self.position = [3.0, 0.0]
        probe.node.create_timer(0.01, self.publish)

    def publish(self):
        if self.speaks:
            message = JointState(name=["hinge", "slider"], position=self.position, velocity=[0.0, 0.0])
            message.header.stamp = self.clock.now().to_msg()
            self.publisher.publish(message)


def change(probe, what, ns=""):
    return probe.call(ChangeState, f"{ns}/controller/change_state", ChangeState.Request(transition=Transition(id=what))).success


def state(probe, ns=""):
    return probe.call(GetState, f"{ns}/controller/get_state", GetState.Request()).current_state.label


def by_name(message):
    return dict(zip(message.name, message.position, strict=True))


def stamp(message):
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def wait_for_commands(probe, commands, count=20):
    have = len(commands)
    probe.until(lambda: len(commands) >= have + count, f"{count} commands")


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


@pytest.mark.fault(row=25)
def test_silent_until_active_then_on_time_and_at_rest_in_the_end(probe, start, run_dir, light):
    node = start("controller_node", f"robot:={light}", f"run_dir:={run_dir}", extra=("--params-file", str(params_file())))
    Robot(probe)
    commands = probe.listen(Float64MultiArray, "commands")
    twins, decisions = probe.listen(JointState, "mbrl/command"), probe.listen(JointState, "mbrl/decision")
    assert state(probe) == "unconfigured"
    assert change(probe, CONFIGURE)
    assert state(probe) == "inactive"
    probe.spin(0.5)
    assert (commands, twins, decisions) == ([], [], [])
    assert change(probe, ACTIVATE)
    assert state(probe) == "active"
    probe.until(lambda: min(len(commands), len(twins), len(decisions)) >= 120, "commands")
    rate = 99 / (stamp(twins[-1]) - stamp(twins[-100]))
    assert rate == pytest.approx(50, rel=0.1)
    assert any(abs(c.data[0]) > 0.02 for c in commands)  # excitation, as there is no model yet
    assert all(abs(c.data[0]) <= 1 for c in commands)
    assert {by_name(d)["mode"] for d in decisions[-50:]} == {Mode.EXPLORE}
    part, sent = [c.data[0] for c in commands[-60:-10]], [t.position[0] for t in twins]
    assert any(sent[i:i + 50] == part for i in range(len(sent) - 49))
    assert twins[-1].name == ["force"]
    assert "libtorch" not in Path(f"/proc/{node.process.pid}/maps").read_text()
    assert change(probe, DEACTIVATE)
    probe.spin(0.2)
    assert commands[-1].data[0] == 0.0
    silent_since = len(commands)
    probe.spin(0.5)
    assert len(commands) == silent_since
    assert change(probe, ACTIVATE)
    wait_for_commands(probe, commands)
    assert change(probe, DEACTIVATE)
    assert change(probe, CLEANUP)
    assert state(probe) == "unconfigured"
    assert change(probe, CONFIGURE)
    assert node.end(signal.SIGINT) == 0
    assert "Traceback" not in node.output
    figures = json.loads((run_dir / "controller.json").read_text())["cadence"]
    assert sum(int(late * figures["rate_hz"] + 1e-9) for _, late in figures["missed_at"]) == figures["missed"]


def mode(decisions):
    return by_name(decisions[-1])["mode"]


def params_file():
    return Path(__file__).parents[2] / "ros2_ws/src/mbrl_control_ros/config/params.yaml"


def test_a_wrong_robot_is_refused_at_configure_with_the_reason(probe, start, run_dir, tmp_path):
    data = yaml.safe_load(robot.shipped()["cartpole"].read_text()) | {"rate_hertz": 50}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(data))
    node = start("controller_node", f"robot:={wrong}", f"run_dir:={run_dir}")
    assert not change(probe, CONFIGURE)
    assert state(probe) == "unconfigured"
    probe.until(lambda: "rate_hertz" in node.output, "the reason in the log")
    assert "rate_hz" in node.output
    assert str(wrong) in node.output


def test_a_planner_that_cannot_keep_its_rate_is_refused_at_configure_with_what_would_fit(probe, start, run_dir, tmp_path):
    data = yaml.safe_load(robot.shipped()["cartpole"].read_text())
    data["planner"] |= {"candidates": 50_000, "horizon": 100}
    slow = tmp_path / "slow.yaml"
    slow.write_text(yaml.safe_dump(data))
    node = start("controller_node", f"robot:={slow}", f"run_dir:={run_dir}")
    probe.until(lambda: probe.node.get_node_names().count("controller"), "the node")
    answer = probe.node.create_client(ChangeState, "controller/change_state")
    probe.until(answer.service_is_ready, "the service")
    future = answer.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))
    probe.until(future.done, "the answer", timeout_s=90.0)
    assert not future.result().success
    assert state(probe) == "unconfigured"
    probe.until(lambda: "cannot keep its rate: one iteration takes" in node.output, "the reason in the log")
    assert "16 ms are allowed (0.8 of the period of 50 plans per second)" in node.output
    assert not run_dir.exists()  # no planner was started
    assert "libtorch" not in Path(f"/proc/{node.process.pid}/maps").read_text()


@pytest.fixture
def active(probe, start, run_dir):
    """A controller that sends commands to a robot that speaks: (process, robot, commands, decisions)."""
    speaker = Robot(probe)
    commands, decisions = probe.listen(Float64MultiArray, "commands"), probe.listen(JointState, "mbrl/decision")
    # Whether this machine is fast enough to plan is not what is asked here.
    node = start("controller_node", "robot:=cartpole", f"run_dir:={run_dir}", "autostart:=true", "check_fit:=false")
    probe.until(lambda: decisions and by_name(decisions[-1])["mode"] == Mode.EXPLORE, "excitation")
    return node, speaker, commands, decisions


@pytest.mark.fault(row=1)
def test_a_silent_robot_gets_the_safe_action_until_it_speaks_again(probe, active):
    _, speaker, commands, decisions = active
    speaker.speaks = False
    probe.until(lambda: mode(decisions) == Mode.BRAKE, "the safe action")
    probe.until(lambda: mode(decisions) == Mode.LATCHED, "what follows half a second without states")
    wait_for_commands(probe, commands)
    assert {c.data[0] for c in commands[-10:]} == {0.0}
    speaker.speaks = True
    probe.until(lambda: probe.call(Trigger, "controller/reset", Trigger.Request()).success, "the release")
    probe.until(lambda: mode(decisions) == Mode.EXPLORE, "control again")


def test_implausible_states_are_refused_and_told(probe, active):
    _, speaker, _, decisions = active
    told = probe.listen(DiagnosticArray, "/diagnostics")
    speaker.position = [3.0, math.nan]
    probe.until(lambda: mode(decisions) >= Mode.BRAKE, "the safe action")
    speaker.position = [3.0, 99.0]  # outside its bounds

    def reported():
        return [s for m in told for s in m.status if s.name == "controller: control" and s.level == DiagnosticStatus.ERROR
                and any(v.key == "last_rejected" and "'x' = 99" in v.value for v in s.values)]

    probe.until(reported, "a report of it")
    assert mode(decisions) >= Mode.BRAKE


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_with_a_robot_at_rest(probe, active, how):
    node, _, commands, _ = active
    node.process.send_signal(how)
    probe.until(lambda: node.process.poll() is not None, "the end")
    probe.spin(0.1)
    assert node.process.returncode == 0
    assert commands[-1].data[0] == 0.0


def test_a_signal_before_the_first_state_ends_it_without_a_command(probe, start, run_dir):
    commands = probe.listen(Float64MultiArray, "commands")
    node = start("controller_node", "robot:=cartpole", f"run_dir:={run_dir}", "autostart:=true", "check_fit:=false")
    probe.until(lambda: "waiting for the robot's first state" in node.output, "the wait for a state")
    probe.until(lambda: probe.node.count_publishers("commands") == 1, "its topics")
    node.process.send_signal(signal.SIGINT)
    probe.until(lambda: node.process.poll() is not None, "the end")
    probe.spin(0.1)
    assert node.process.returncode == 0
    assert commands == []


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_planner_is_told_and_started_anew_while_ticks_go_on(probe, active):
    node, _, commands, _ = active
    told = probe.listen(DiagnosticArray, "/diagnostics")
    first = children(node.process.pid)
    os.kill(first[0], signal.SIGKILL)
    wait_for_commands(probe, commands, 25)
    probe.until(lambda: children(node.process.pid) not in ([], first), "a new planner")

    def reported():
        return [s for m in told for s in m.status if s.name == "controller: planner" and s.level == DiagnosticStatus.ERROR]

    probe.until(reported, "a report")
    assert len(commands) > 25
    planner = children(node.process.pid)[0]
    assert os.sched_getscheduler(planner) == os.SCHED_OTHER  # the tick's real-time priority is not inherited
    node.end(signal.SIGKILL)
    probe.until(lambda: not Path(f"/proc/{planner}").exists(), "the planner to follow its controller")


@pytest.mark.fault(row=11)
def test_a_killed_worker_is_back_without_waiting_for_the_look_of_each_second(probe, active, record_property):
    node, _, commands, _ = active
    told = probe.listen(DiagnosticArray, "/diagnostics")
    keeper = children(node.process.pid)[0]
    probe.until(lambda: children(keeper), "a worker")
    (first,), have = children(keeper), len(told)
    probe.until(lambda: len(told) > have, "the report of a second, in which the keeper is looked after")
    begin, have = time.monotonic(), len(commands)
    os.kill(first, signal.SIGKILL)
    probe.until(lambda: children(keeper) not in ([], [first]), "another worker")
    took = time.monotonic() - begin
    assert took < 0.8, "the next report is a second after the last one"
    wait_for_commands(probe, commands)
    record_property("measured", f"in the controller's node a planner that is killed has a successor after {took:.2f} s")


def test_two_controllers_in_two_namespaces(probe, start, run_dir):
    Robot(probe, "/left")
    left, right = probe.listen(JointState, "/left/mbrl/decision"), probe.listen(JointState, "/right/mbrl/decision")
    for ns in ("/left", "/right"):
        # Two at once, on as few as two cores: whether both keep their rate is not what is asked here.
        start("controller_node", "robot:=cartpole", f"run_dir:={run_dir}{ns}", "autostart:=true", "check_fit:=false", ns=ns)
    probe.until(lambda: len(left) > 50 and by_name(left[-1])["mode"] == Mode.EXPLORE, "the left controller")
    assert not right  # it hears nothing of the left robot, and does not start before its own speaks
    Robot(probe, "/right")
    probe.until(lambda: right and by_name(right[-1])["mode"] == Mode.EXPLORE, "the right controller")


def test_commands_as_joint_trajectory(probe, start, run_dir, tmp_path):
    data = yaml.safe_load(robot.shipped()["cartpole"].read_text())
    data["command"][0] |= {"topic": "arm/joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory", "field": "effort"}
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(data))
    Robot(probe)
    sent = probe.listen(JointTrajectory, "arm/joint_trajectory")
    twins = probe.listen(JointState, "mbrl/command")
    start("controller_node", f"robot:={path}", f"run_dir:={run_dir}", "autostart:=true", "check_fit:=false")
    probe.until(lambda: len(sent) > 50 and len(twins) > 50, "trajectories")
    assert sent[-1].joint_names == ["slider"]
    assert len(sent[-1].points) == 1
    assert stamp(sent[-1]) > 1e9
    values = {stamp(t): t.position[0] for t in twins}
    common = [m for m in sent if stamp(m) in values]
    assert len(common) > 40
    assert all(m.points[0].effort[0] == values[stamp(m)] for m in common)
    assert any(m.points[0].effort[0] for m in common)


def test_on_simulated_time_the_stamps_are_the_simulators_and_the_cadence_stays(probe, start, run_dir):
    start("sim_node", "robot:=cartpole", "use_sim_time:=true")
    states, decisions = probe.listen(JointState, "joint_states"), probe.listen(JointState, "mbrl/decision")
    start("controller_node", "robot:=cartpole", f"run_dir:={run_dir}", "autostart:=true", "check_fit:=false", "use_sim_time:=true")
    # Excitation means that the state is fresh by its stamp, so both nodes go by the same clock.
    probe.until(lambda: states and len(decisions) > 60 and {by_name(d)["mode"] for d in decisions[-10:]} == {Mode.EXPLORE}, "excitation")
    assert abs(stamp(decisions[-1]) - stamp(states[-1])) < 0.5
    assert stamp(decisions[-1]) < 60
    times = [by_name(d)["time_s"] for d in decisions]
    assert (times[-1] - times[0]) / (len(times) - 1) == pytest.approx(0.02, rel=0.1)



def reaction_ms(probe, decisions, since, least):
    """From an instant (s of the system's clock) to the stamp of the first decision in a mode of at least `least`."""
    found = []

    def reached():
        found[:] = [stamp(d) for d in decisions if stamp(d) > since and by_name(d)["mode"] >= least]
        return found

    probe.until(reached, f"{least.name}")
    return 1e3 * (found[0] - since)


@pytest.mark.fault(row=34)
def test_an_emergency_stop_latches_until_it_is_released_and_reset(probe, active, record_property):
    _, _, commands, decisions = active
    told = probe.listen(DiagnosticArray, "/diagnostics")
    button = probe.node.create_publisher(Bool, "estop", 10)
    probe.until(lambda: button.get_subscription_count() == 2, "the controller listening to the stop")
    probe.spin(0.5)  # the button knows its listeners; they may not know it yet, and what is sent before they do comes when it is sent again
    pressed = time.time()
    button.publish(Bool(data=True))
    took = reaction_ms(probe, decisions, pressed, Mode.LATCHED)
    record_property("measured", f"LATCHED {took:.0f} ms after the message was sent (T = 20 ms)")
    wait_for_commands(probe, commands)
    assert {c.data[0] for c in commands[-10:]} == {0.0}
    assert any("emergency stop" in s.message and "~/reset" in s.message for m in told for s in m.status)
    answer = probe.call(Trigger, "controller/reset", Trigger.Request())
    assert (answer.success, "estop" in answer.message) == (False, True)
    button.publish(Bool(data=False))
    probe.until(lambda: probe.call(Trigger, "controller/reset", Trigger.Request()).success, "the release")
    probe.until(lambda: mode(decisions) == Mode.EXPLORE, "control again")
    assert not probe.call(Trigger, "controller/reset", Trigger.Request()).success  # nothing to reset


@pytest.mark.fault(row=33)
def test_a_second_publisher_on_the_command_topic_stops_the_robot_until_it_is_gone(probe, active, record_property):
    _, _, commands, decisions = active
    begin = time.time()
    rival = probe.node.create_publisher(Float64MultiArray, "commands", 1)
    took = reaction_ms(probe, decisions, begin, Mode.BRAKE)
    record_property("measured", f"BRAKE {took:.0f} ms after the other publisher was made, discovery included (T = 20 ms)")
    wait_for_commands(probe, commands)
    assert {c.data[0] for c in commands[-10:]} == {0.0}
    probe.node.destroy_publisher(rival)
    probe.until(lambda: mode(decisions) == Mode.EXPLORE, "control again")
