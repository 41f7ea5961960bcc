"""Children end with their parent, show that they work, and stay within their memory: real processes, each a few hundred milliseconds."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from mbrl_control import heartbeat, lifeline, memory, priority
from mbrl_control.stack.leftovers import sweep_dds

CHILD = """
import os, signal, sys, time
from mbrl_control import lifeline
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
{before}
lifeline.follow_parent(signal.SIGINT)
try:
    print(os.getpid(), flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("orderly", flush=True)
"""
PARENT = """
import os, subprocess, sys, time
from mbrl_control import lifeline
env = lifeline.tell_child(dict(os.environ))
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=env, start_new_session=True)
time.sleep(float(sys.argv[2]))
"""


def family(before="", lives_s=60.0):
    """A parent and its child; the parent's output is the child's too."""
    child = CHILD.format(before=before)
    return subprocess.Popen([sys.executable, "-c", PARENT, child, str(lives_s)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("before", ["", "lifeline._ask_kernel = lambda number: False; lifeline.POLL_S = 0.05"], ids=["kernel", "polling"])
def test_kill_nine_of_the_parent_ends_the_child_in_order(before):
    parent = family(before)
    assert parent.stdout.readline().strip().isdigit()
    parent.kill()
    begin = time.monotonic()
    assert parent.stdout.read() == "orderly\n"  # to the end: nobody holds the pipe any more
    assert time.monotonic() - begin < 5.0
    parent.wait()


def test_a_parent_that_was_gone_before_the_child_asked_is_noticed():
    parent = family("while not lifeline.orphaned(): time.sleep(0.01)", lives_s=0.2)
    assert parent.stdout.read() == ""  # interrupted before it could say anything
    parent.wait()


def test_nothing_happens_to_a_process_that_nobody_told_who_started_it(monkeypatch):
    monkeypatch.delenv(lifeline.PARENT, raising=False)
    assert not lifeline.orphaned()
    lifeline.follow_parent(signal.SIGKILL)
    monkeypatch.setenv(lifeline.PARENT, str(os.getppid()))
    assert not lifeline.orphaned()
    monkeypatch.setenv(lifeline.PARENT, "1" if os.getppid() != 1 else "2")
    assert lifeline.orphaned()
    assert lifeline.tell_child({"A": "b"}) == {"A": "b", lifeline.PARENT: str(os.getpid())}


def test_silence_lasts_until_the_next_beat(monkeypatch):
    pulse = heartbeat.Pulse(100.0)
    assert pulse.silence(107.0) == 7.0
    assert not pulse.heard
    monkeypatch.setenv(heartbeat.VARIABLE, str(os.dup(pulse.handle)))
    beat = heartbeat.Heartbeat()
    assert heartbeat.VARIABLE not in os.environ
    beat()
    beat()  # too soon after the first: nothing is written
    assert pulse.silence(108.0) == 0.0
    assert pulse.heard
    assert pulse.silence(112.5) == 4.5
    assert pulse.silence(112.5, waited=3.0) == 1.5  # it did not have the processor for 3 s of them
    pulse.started()
    pulse.close()
    beat._next = 0.0
    beat()  # nobody reads any more
    os.close(beat._handle)


def test_a_pipe_that_nobody_empties_holds_no_work_up(monkeypatch):
    pulse = heartbeat.Pulse(0.0)
    os.set_blocking(pulse.handle, False)
    monkeypatch.setenv(heartbeat.VARIABLE, str(pulse.handle))
    beat = heartbeat.Heartbeat()
    for _ in range(70_000):
        beat._next = 0.0
        beat()
    assert pulse.silence(3.0) == 0.0
    pulse.started()
    pulse.close()


SPIN = "import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
SLEEP = "import time; print(flush=True); time.sleep(60)"


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system does not tell how long a process waited for its core")
def test_time_without_a_core_is_told_of_a_process_that_could_work_alone():
    core = min(os.sched_getaffinity(0))
    codes = [SPIN.format(core=core)] * 2 + [SLEEP]
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in codes]
    try:
        for child in children:
            child.stdout.readline()
        before, begin = [priority.kept_waiting_s(child.pid) for child in children], time.monotonic()
        time.sleep(1.0)
        waited, passed = [priority.kept_waiting_s(child.pid) for child in children], time.monotonic() - begin
    finally:
        for child in children:
            child.kill()
            child.communicate()
    first, second, asleep = (b - a for a, b in zip(before, waited, strict=True))
    assert 0.8 * passed < first + second < 2.1 * passed, "two that never sleep have one core between them, or less beside others"
    assert asleep < 0.2 * passed
    assert priority.kept_waiting_s(children[0].pid) == 0.0, "it is gone"


@pytest.mark.parametrize("library", ["import numpy as np; a = np.ones(200_000_000)", "import torch; a = torch.ones(400_000_000)",
                                     "a = bytearray(1600 * 2**20)"])
def test_a_process_over_its_cap_fails_in_itself(library):
    code = ("import sys\nfrom mbrl_control import memory\nimport numpy, torch\nmemory.cap(1024)\n"
            f"try:\n    {library}\nexcept Exception as error:\n    sys.exit(memory.EXHAUSTED if memory.exhausted(error) else 1)\n")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == memory.EXHAUSTED


def test_other_errors_are_not_taken_for_it():
    assert not memory.exhausted(RuntimeError("shapes do not match"))
    assert not memory.exhausted(ValueError("not enough memory"))


def segment(folder, number, age_s=60.0):
    name = f"fastdds_{number:016x}"
    for path in (folder / name, folder / f"{name}_el"):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    return folder / f"{name}_el"


@pytest.mark.fault(row=24)
def test_only_dead_segments_of_fast_dds_are_removed(tmp_path, record_property):
    dead, alive, young = segment(tmp_path, 1), segment(tmp_path, 2), segment(tmp_path, 3, age_s=1.0)
    for other in ("fastdds_port7400", "fastdds_port7400_el", "sem.fastdds_port7400_mutex", "fastdds_1_el", "mine"):
        (tmp_path / other).write_bytes(b"x")
    before = {p.name for p in tmp_path.iterdir()}
    with alive.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # as a living participant does
        assert sweep_dds(tmp_path) == 1
        assert before - {p.name for p in tmp_path.iterdir()} == {dead.name, dead.name.removesuffix("_el")}
    assert sweep_dds(tmp_path) == 1  # its maker has gone
    assert young.exists()
    record_property("measured", "shared memory of dead participants is removed at the next start")
