"""The controller's loop inside the test's own process, without its planner's process: what it sends, hears and leaves behind."""

from __future__ import annotations

import os

import pytest
from carts import CART
from rclpy.node import Node
from std_msgs.msg import Bool, Empty, Float64MultiArray

from mbrl_control.errors import UserError
from mbrl_control.runtime.faults import Mode
from mbrl_control.runtime.mailbox import shared_folder
from mbrl_control.runtime.process_link import ProcessLink
from mbrl_control_ros import control_loop, qos
from mbrl_control_ros.control_loop import Loop, Settings

POSITIONS = "name: cart\n" + CART.replace("{name: u, unit: N,", "{name: u, joint: slider, topic: commands, unit: m,")


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text(POSITIONS)
    return Settings(str(path), tmp_path / "run", tmp_path / "store", 0, anytime=True, use_stamps=True, heartbeat_s=0.0)


@pytest.fixture
def loop(probe, settings, monkeypatch):
    monkeypatch.setattr(ProcessLink, "start", lambda self: None)
    made = Loop(probe.node, settings, lambda message: None)
    yield made
    made.close()


def run(loop, probe, ticks):
    for _ in range(ticks):
        loop.tick(lambda left: probe.executor.spin_once(timeout_sec=left))


def sent_by(loop, monkeypatch):
    """The commands that a loop sends from now on."""
    sent, send = [], loop.send
    monkeypatch.setattr(loop, "send", lambda command: (sent.append(float(command[0])), send(command))[1])
    return sent


@pytest.mark.parametrize("fault", [None, "second_publisher", "joints_wrong", "estop"])
def test_before_the_first_state_nothing_is_sent_whatever_is_wrong_and_however_it_ends(probe, loop, monkeypatch, fault):
    sent = sent_by(loop, monkeypatch)
    monkeypatch.setattr(loop, "_faults", lambda: frozenset({fault} if fault else ()))
    loop.begin()
    run(loop, probe, 3)
    assert (loop.core.supervision.mode > Mode.STANDBY) == (fault is not None)
    loop.rest()
    assert sent == []


def test_once_something_was_sent_it_ends_at_rest(probe, loop, monkeypatch):
    sent = sent_by(loop, monkeypatch)
    loop.begin()
    loop.core.on_state(0.0, loop.core.spec.action_zero.repeat(2) + 0.5)
    run(loop, probe, 2)
    assert len(sent) == 2
    loop.rest()
    assert sent[2:] == [0.0]
    loop.begin()
    loop.rest()  # the next activation sends nothing, and so has nothing to end
    assert len(sent) == 3


@pytest.mark.fault(row=34)
@pytest.mark.parametrize(("profile", "listeners"), [(qos.NEWEST, 1), (qos.STREAM, 2)])
def test_the_stop_is_heard_from_any_publisher_and_a_short_press_in_its_tick(probe, loop, profile, listeners):
    button = probe.node.create_publisher(Bool, "estop", profile)
    probe.until(lambda: button.get_subscription_count() == listeners, "the loop listening")
    for pressed in (True, False):
        button.publish(Bool(data=pressed))
        probe.until(lambda pressed=pressed: loop._operator._pressed == pressed, "the message")
    assert [loop._operator.faults(0.0) for _ in range(2)] == [{"estop"}, frozenset()]


@pytest.mark.parametrize("profile", [qos.NEWEST, qos.STREAM])
def test_the_heartbeat_is_heard_from_any_publisher(probe, loop, profile):
    heart = probe.node.create_publisher(Empty, "heartbeat", profile)
    probe.until(lambda: heart.get_subscription_count() == 1, "the loop listening")
    heart.publish(Empty())
    probe.until(lambda: loop._operator._beat is not None, "the beat")


def test_another_commander_is_seen_on_the_topic_that_commands_go_to(probe, settings, monkeypatch):
    monkeypatch.setattr(ProcessLink, "start", lambda self: None)
    node = Node("controller", context=probe.context, cli_args=["--ros-args", "-r", "commands:=/franka/effort"])
    loop = Loop(node, settings, lambda message: None)
    try:
        probe.until(lambda: node.count_publishers("/franka/effort") == 1, "its own publisher")
        assert "second_publisher" not in loop._faults()
        rival = probe.node.create_publisher(Float64MultiArray, "/franka/effort", 1)
        probe.until(lambda: "second_publisher" in loop._faults(), "the other one")
        probe.node.destroy_publisher(rival)
        probe.until(lambda: "second_publisher" not in loop._faults(), "its end")
    finally:
        loop.close()
        node.destroy_node()


def test_figures_that_cannot_be_written_do_not_keep_control_from_ending(loop, settings):
    (settings.run_dir / "controller.json.partial").mkdir()
    loop.begin()
    loop.rest()
    assert not loop.active
    assert not (settings.run_dir / "controller.json").exists()


def left_behind(node):
    """What a loop makes that outlives it unless it is closed."""
    return (len(list(node.subscriptions)), len(list(node.publishers)), sorted(shared_folder().glob(f"mbrl-{os.getpid()}-*")))


@pytest.mark.parametrize(("where", "name", "error"), [(control_loop, "Controller", UserError("does not fit")),
                                                      (ProcessLink, "start", OSError("no more processes")),
                                                      (control_loop, "PLAN_TOPIC", None)])
def test_what_fails_while_it_is_made_leaves_nothing_behind(probe, settings, monkeypatch, where, name, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ProcessLink, "start", lambda self: None)
    monkeypatch.setattr(where, name, fail if error else "no topic at all")
    before = left_behind(probe.node)
    with pytest.raises(type(error) if error else Exception):
        Loop(probe.node, settings, lambda message: None)
    assert left_behind(probe.node) == before
