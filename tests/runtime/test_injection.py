"""The words of injected faults: what each does to a stream, the same for the same seed, and to a process."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import waiting
from bag_tools import JOINTS, spec_of
from test_messages import joints, odometry_spec

from mbrl_control.data.message_types import decode, empty, encode
from mbrl_control.messages import StateReader, stamp_ns
from mbrl_control.process_name import RECORDS, STANDS_BY
from mbrl_control.runtime.injection import MESSAGE_WORDS, PROCESS_WORDS, WORDS, Injector, schedule, through
from mbrl_control.runtime.message_editor import MessageEditor, restamp
from mbrl_control.stack import inject

until = partial(waiting.until, timeout_s=10.0, pause_s=0.001)

STREAM = [(0.1 * k, k) for k in range(100)]


def done(word, amount=None, stream=STREAM, seed=0, **between):
    return list(through(Injector(word, np.random.default_rng(seed), Numbers(), amount, **between), stream))


class Numbers:
    """Whole numbers as messages."""

    def numbers(self, message):
        return np.array([float(message)])

    def with_numbers(self, message, numbers):
        return float(numbers[0])

    def misshapen(self, message, rng):
        return "misshapen"


def test_the_vocabulary():
    assert set(WORDS) == {"drop", "delay", "duplicate", "reorder", "stuck", "garbage", "wrong", "slow", "kill", "stop", "full", "flood"}
    assert set(MESSAGE_WORDS) | set(PROCESS_WORDS) == set(WORDS)
    for word in PROCESS_WORDS:
        with pytest.raises(ValueError, match="nothing that can be done to messages"):
            Injector(word, np.random.default_rng(0))
    for word in MESSAGE_WORDS:
        with pytest.raises(ValueError, match="nothing that can be done to a process"):
            schedule(word, 1.0)
    with pytest.raises(ValueError, match="needs an editor"):
        Injector("wrong", np.random.default_rng(0))


@pytest.mark.parametrize("word", MESSAGE_WORDS)
def test_time_goes_on_and_nothing_comes_before_it_was_there(word):
    out = done(word, 0.25 if word in ("drop", "delay", "reorder", "stuck", "garbage") else None)
    times = [t for t, _ in out]
    assert times == sorted(times)
    if word in ("drop", "delay", "duplicate", "reorder", "flood"):
        assert all(t >= 0.1 * m - 1e-9 for t, m in out)


@pytest.mark.parametrize("word", MESSAGE_WORDS)
def test_the_same_seed_does_the_same_and_outside_of_its_time_nothing_is_done(word):
    amount = 0.5 if word in ("drop", "delay", "reorder", "stuck", "garbage") else None
    assert repr(done(word, amount)) == repr(done(word, amount))
    if word in ("drop", "reorder", "garbage"):
        assert repr(done(word, amount)) != repr(done(word, amount, seed=1))
    assert done(word, amount, begin_s=99.0) == STREAM
    assert [pair for pair in done(word, amount, begin_s=3.05, end_s=4.05) if pair[0] < 3.05] == STREAM[:31]
    assert [pair for pair in done(word, amount, begin_s=3.05, end_s=4.05) if pair[0] > 5.0] == STREAM[51:] or word == "delay"


def test_what_each_word_does_to_a_stream():
    assert done("drop") == []
    assert len(done("drop", 0.2)) == pytest.approx(80, abs=12)  # three standard deviations
    assert done("delay", 0.25) == [(t + 0.25, m) for t, m in STREAM]
    assert done("duplicate") == [pair for pair in STREAM for _ in range(2)]
    assert len(done("flood")) == 101 * len(STREAM)
    assert [m for _, m in done("stuck", begin_s=1.0)] == [*range(10), *[10.0] * 90]
    assert [m for _, m in done("wrong", 7.0)] == [k + 7.0 for k in range(100)]
    swapped = [m for _, m in done("reorder", 0.3)]
    assert sorted(swapped) == list(range(100))
    assert sum(b < a for a, b in itertools.pairwise(swapped)) > 15
    assert max(abs(m - k) for k, m in enumerate(swapped)) <= 2
    assert [m for _, m in done("reorder", 1.0)] == list(range(100))  # all held back by one: in order again, and nothing lost
    spoilt = [m for _, m in done("garbage")]
    assert 25 < spoilt.count("misshapen") < 75
    assert all(m == "misshapen" or not np.isfinite(m) or abs(m) > 1e300 or 0 < m < 1e-300 for m in spoilt)


EXAMPLE = joints(["wrist", "elbow", "shoulder"], [0.3, 0.2, 0.1], [3.0, 2.0, 1.0])


def test_an_editor_changes_copies_and_finds_all_numbers():
    editor = MessageEditor(list(spec_of().state))
    before = encode(JOINTS, EXAMPLE)
    assert editor.numbers(EXAMPLE).tolist() == [0.3, 0.2, 0.1, 3.0, 2.0, 1.0]
    changed = decode(JOINTS, encode(JOINTS, editor.with_numbers(EXAMPLE, editor.numbers(EXAMPLE) + 1.0)))
    assert changed.position.tolist() == [1.3, 1.2, 1.1]
    assert changed.velocity.tolist() == [4.0, 3.0, 2.0]
    restamp(changed, 3 * 10**9 + 5)
    assert stamp_ns(changed) == 3 * 10**9 + 5
    rng, codes = np.random.default_rng(0), set()
    for _ in range(200):
        reader = StateReader(spec_of())
        codes.add(reader.update("joint_states", editor.misshapen(EXAMPLE, rng)).code)
    assert codes == {"length", "joint_missing", "joint_twice"}
    assert encode(JOINTS, EXAMPLE) == before


def test_an_editor_of_plain_fields_and_quaternions():
    spec = odometry_spec()
    editor, message = MessageEditor([s for s in spec.state if s.name in ("yaw", "v", "c")]), empty("nav_msgs/msg/Odometry")
    message.pose.pose.orientation.w = 1.0
    assert editor.numbers(message).tolist() == [1.0, 0.0, 0.0]
    changed = editor.with_numbers(message, np.array([0.5, 2.0, 9.0]))
    assert (changed.pose.pose.orientation.w, changed.twist.twist.linear.x, changed.pose.covariance[7]) == (0.5, 2.0, 9.0)
    assert StateReader(spec).update("odom", editor.misshapen(message, np.random.default_rng(0))).code == "not_finite"


def test_schedules():
    assert [(s.time_s, s.signal) for s in schedule("kill", 3.0)] == [(0.0, signal.SIGKILL)]
    assert [(s.time_s, s.signal) for s in schedule("stop", 3.0)] == [(0.0, signal.SIGSTOP), (3.0, signal.SIGCONT)]
    assert [(s.time_s, s.signal, s.limited) for s in schedule("full", 3.0)] == [(0.0, None, True), (3.0, None, False)]
    slow = schedule("slow", 1.0, 0.8)
    assert [s.signal for s in slow] == [signal.SIGSTOP, signal.SIGCONT] * 10
    stopped = sum(b.time_s - a.time_s for a, b in zip(slow[::2], slow[1::2], strict=True))
    assert stopped == pytest.approx(0.8)
    assert all(b.time_s >= a.time_s for a, b in itertools.pairwise(slow))


WRITER = """
import sys
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        sys.stdin.readline()
        try:
            file.write(b"x")
            print("written", flush=True)
        except OSError as error:
            print(error.errno, flush=True)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes a byte for each line it reads, and says how it went."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def ask(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(("word", "states"), [("stop", ["T"]), ("slow", ["T", "S"] * 9 + ["T"])])
def test_a_process_is_stopped_and_goes_on(writer, word, states):
    assert ask(writer) == "written"
    seen = []

    def look(_):
        expected = states[len(seen) - 1] if seen else "S"
        until(lambda: state_of(writer.pid) == expected)
        seen.append(expected)

    assert inject.carry_out(schedule(word, 1.0), writer.pid, look)
    assert seen == ["S", *states]
    assert ask(writer) == "written"


def test_a_full_disk_is_felt_by_the_process_alone_and_ends(writer, tmp_path):
    assert ask(writer) == "written"
    told = []

    def look(_):
        told.append(ask(writer))
        (tmp_path / "other").write_text("there is room")

    assert inject.carry_out(schedule("full", 1.0), writer.pid, look)
    assert told == ["written", str(errno.EFBIG)]
    assert ask(writer) == "written"
    assert (tmp_path / "file").read_bytes() == b"xxx"


def test_a_process_is_killed_and_one_that_is_gone_is_told(writer):
    assert inject.carry_out(schedule("kill", 1.0), writer.pid)
    assert writer.wait(10.0) == -signal.SIGKILL
    assert not inject.carry_out(schedule("stop", 1.0), writer.pid)


def test_a_stopped_process_goes_on_after_ctrl_c(writer):
    calls = []

    def interrupted(_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inject.carry_out(schedule("stop", 100.0), writer.pid, interrupted)
    assert ask(writer) == "written"


def running(pid, parent, name, *arguments):
    return inject.Running(pid, parent, name, arguments)


def test_the_processes_of_a_run_are_found_by_its_folder_and_their_family():
    run, other = Path("/runs/a"), Path("/runs/a2")
    everything = [running(10, 5, "controller", "-p", f"run_dir:={run}"), running(11, 10, "planner", "--store", "x"),
                  running(12, 5, "sim", "-p", "robot:=cartpole"), running(13, 5, "recorder", "-p", f"run_dir:={run}/"),
                  running(20, 6, "controller", "-p", f"run_dir:={other}"), running(21, 20, "planner"), running(22, 6, "sim"),
                  running(30, 1, "trainer", "-p", f"run_dir:={other}"), running(31, 1, "sim")]
    assert {n: p.pid for n, p in inject.of_run(run, everything).items()} == {"controller": 10, "planner": 11, "sim": 12, "recorder": 13}
    assert {n: p.pid for n, p in inject.of_run(other, everything).items()} == {"controller": 20, "planner": 21, "sim": 22, "trainer": 30}
    assert inject.of_run(Path("/runs/b"), everything) == {}


def test_processes_are_read_from_proc():
    own = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "mbrl_control_ros.trainer_node", "-p", "run_dir:=/nowhere"]
    child = subprocess.Popen(own)
    try:
        until(lambda: any(p.pid == child.pid for p in inject.processes()))
        found = next(p for p in inject.processes() if p.pid == child.pid)
        assert (found.parent, found.name) == (os.getpid(), "trainer")
    finally:
        child.kill()
        child.wait()


def test_the_planner_is_the_keepers_child_and_the_keeper_is_nobody(tmp_path):
    for pid, parent, module in ((10, 5, "mbrl_control_ros.controller_node"), (11, 10, "mbrl_control.runtime.planner_keeper"),
                                (12, 11, "mbrl_control.runtime.planner_keeper")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(f"python\0-m\0{module}\0-p\0x\0".encode())
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (python) S {parent} 0 0")
    assert {(p.name, p.pid, p.parent) for p in inject.processes(tmp_path)} == {("controller", 10, 5), ("planner", 12, 10)}


def test_what_stood_by_is_the_recorder_once_it_records_and_nobody_before(tmp_path):
    for pid, name in ((10, STANDS_BY), (11, RECORDS), (12, "python")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(b"python\0-m\0mbrl_control_ros.recorder_standby\0")
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S 5 0 0")
    assert [(p.name, p.pid) for p in inject.processes(tmp_path)] == [("recorder", 11)]
