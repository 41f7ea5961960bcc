"""The black box on made-up messages: what is kept, when it is written, what is in it, and that it never fills anything."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from carts import CART
from rosbags.highlevel import AnyReader

from mbrl_control import robot, strict_yaml
from mbrl_control.data.black_box import BlackBox, BlackBoxOptions
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.message_types import empty, standard_store

KIND = "std_msgs/msg/Float64MultiArray"
SECOND = 10**9


def payload(value):
    message = empty(KIND)
    message.data = np.array([float(value)])
    return bytes(standard_store().serialize_cdr(message, KIND))


def fill(box, begin, end, hz=10):
    for k in range(round(begin * hz), round(end * hz)):
        box.keep("/mbrl/plan", KIND, payload(k), k * SECOND // hz)
        box.poll(k * SECOND // hz)


def values(folder):
    with AnyReader([folder / "bag"]) as bag:
        return [float(bag.deserialize(raw, c.msgtype).data[0]) for c, _, raw in bag.messages()]


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "robot.yaml").write_text("name: x\n")
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "robot": "x", "seed": 3, "store": ""}))
    return tmp_path


def test_a_box_holds_the_seconds_before_the_trigger_and_the_moment_after(run_dir):
    told = []
    box = BlackBox(run_dir, tell=told.append)
    fill(box, 0, 100)
    box.trigger("state_stale", 100 * SECOND)
    fill(box, 100, 101.9)
    assert not (run_dir / "blackbox").exists()
    fill(box, 101.9, 110)
    box.close(110 * SECOND)
    folder = run_dir / "blackbox" / "001-state_stale"
    # 30 s before the trigger to 2 s after it, at 10 Hz.
    assert values(folder) == [float(k) for k in range(700, 1021)]
    assert json.loads((folder / "run.json").read_text())["store"] == str(run_dir / "store")
    assert (folder / "robot.yaml").read_text() == "name: x\n"
    assert "mbrl replay" in told[0]


def test_triggers_while_one_is_waited_for_belong_to_it_and_later_ones_get_their_own(run_dir):
    box = BlackBox(run_dir, BlackBoxOptions(before_s=1.0, after_s=0.5, most_boxes=2))
    fill(box, 0, 2)
    box.trigger("plan_over", 2 * SECOND)
    box.trigger("estop", 2 * SECOND + 1)
    fill(box, 2, 3)
    box.close(3 * SECOND)
    for second in (4, 6):
        fill(box, second - 1, second)
        box.trigger("estop", second * SECOND)
        box.close(second * SECOND)
    assert sorted(p.name for p in (run_dir / "blackbox").iterdir()) == ["001-plan_over", "002-estop"]  # two at most


def test_at_the_end_it_does_not_wait_for_the_moment_after(run_dir):
    box = BlackBox(run_dir)
    fill(box, 0, 5)
    box.trigger("estop", 5 * SECOND)
    box.close(5 * SECOND)
    assert len(values(run_dir / "blackbox" / "001-estop")) == 50


def test_memory_is_bounded_by_time_and_by_bytes(run_dir):
    size = len(payload(0.0))
    box = BlackBox(run_dir, BlackBoxOptions(before_s=1e6, most_bytes=10 * size))
    fill(box, 0, 1000)
    box.trigger("estop", 1000 * SECOND)
    box.close(1000 * SECOND)
    assert values(run_dir / "blackbox" / "001-estop") == [float(k) for k in range(9990, 10000)]


def test_a_full_disk_is_told_and_nothing_half_is_left(run_dir, monkeypatch):
    told = []
    box = BlackBox(run_dir, tell=told.append)
    fill(box, 0, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 100 << 20))
    box.trigger("estop", SECOND)
    box.close(SECOND)
    assert "100 MB" in told[0]
    monkeypatch.undo()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mbrl_control.data.mcap_bag.McapBag.write", no_space)
    box.trigger("estop", SECOND)
    box.close(SECOND)
    assert "No space left" in told[1]
    assert list((run_dir / "blackbox").iterdir()) == []


def test_messages_of_a_type_that_nobody_knows_are_told_and_do_not_raise(run_dir):
    told = []
    box = BlackBox(run_dir, tell=told.append)
    box.keep("/x", "nobody_msgs/msg/Nothing", b"\0\1\0\0", 0)
    box.trigger("estop", 1)
    box.close(1)
    assert "no black box" in told[0]


def test_a_run_is_read_without_its_black_boxes_and_a_box_by_itself(tmp_path):
    """What was recorded must not count twice, once to fit to and once to be tested on."""
    log = "time,x,v,u\n" + "".join(f"{0.02 * k},{k},0.0,0.0\n" for k in range(20))
    spec = robot.validate(strict_yaml.parse(CART + "name: cart\n", "cart.yaml"))
    box = tmp_path / "run" / "blackbox" / "001-estop"
    for folder in (tmp_path / "run" / "bag", box):
        folder.mkdir(parents=True)
        (folder / "log.csv").write_text(log)
    assert len(load_episodes(tmp_path / "run", spec)) == 1
    assert len(load_episodes(box, spec)) == 1
    assert len(load_episodes(tmp_path / "run" / "blackbox", spec)) == 1
