"""Parsers in a child process: whatever becomes of the child, the caller gets an answer or one sentence."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time

import pytest

from mbrl_control import guarded
from mbrl_control.errors import UserError
from mbrl_control.guarded import Caps

SMALL = Caps(wall_s=5.0, memory_bytes=1 << 28)


def double(value):
    return {"twice": 2 * value, "folder": os.getcwd(), "files": os.listdir()}


def chatter():
    os.write(1, b'{"value": "not me"}\n')
    print("nor me")
    return 1


def refuse():
    raise ValueError("line 3:\n   no such element")


def crash(how):
    signal.raise_signal(how)


def wild_pointer():
    ctypes.string_at(1)


def leave(status):
    sys.stderr.write("engine error: gave up\n")
    sys.stderr.flush()
    os._exit(status)


def grow():
    return len(bytearray(1 << 29))


def sleep():
    time.sleep(60)


def spin():
    while True:
        pass


def flood():
    with open("full", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


def limits():
    return {n: resource.getrlimit(getattr(resource, f"RLIMIT_{n}"))[0] for n in ("AS", "CPU", "CORE", "FSIZE")}


def test_an_answer_comes_back_from_an_empty_folder():
    answer = guarded.call(double, 21, what="x")
    assert answer["twice"] == 42
    assert answer["files"] == []
    assert answer["folder"] != os.getcwd()
    assert not os.path.exists(answer["folder"])


def test_what_a_parser_prints_is_no_answer():
    assert guarded.call(chatter, what="x") == 1


def test_the_child_is_limited():
    assert guarded.call(limits, what="x", caps=Caps(2.5, 1 << 30)) == {"AS": 1 << 30, "CPU": 3, "CORE": 0, "FSIZE": guarded.MOST_OUTPUT}


@pytest.mark.parametrize(("function", "arguments", "said"), [
    (refuse, (), "robot.xml: line 3: no such element"),
    (crash, (signal.SIGSEGV,), "robot.xml: its parser crashed (SIGSEGV)"),
    (crash, (signal.SIGABRT,), "robot.xml: its parser crashed (SIGABRT)"),
    (crash, (signal.SIGKILL,), "robot.xml: its parser crashed (SIGKILL)"),
    (wild_pointer, (), "robot.xml: its parser crashed (SIGSEGV)"),
    (leave, (1,), "robot.xml: its parser ended with status 1 and no answer (engine error: gave up)"),
    (leave, (0,), "robot.xml: its parser ended with status 0 and no answer"),
    (grow, (), "robot.xml: reading it takes more than the 0.25 GiB of memory"),
    (flood, (), "robot.xml: [Errno 27] File too large"),
])
def test_whatever_happens_to_the_child_becomes_one_sentence(function, arguments, said):
    with pytest.raises(UserError) as caught:
        guarded.call(function, *arguments, what="robot.xml", caps=SMALL)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_child_that_works_too_long_is_killed_however_long_it_took_to_start():
    with pytest.raises(UserError, match=r"robot.xml: reading it took more than the 0\.2 s of processor time that are allowed"):
        guarded.call(spin, what="robot.xml", caps=Caps(work_s=0.2))
    with pytest.raises(UserError, match=r"longer than the 1 s"):
        guarded.call(sleep, what="robot.xml", caps=Caps(wall_s=1.0, work_s=0.2))


@pytest.mark.parametrize("function", [sleep, spin])
def test_a_child_without_end_is_killed_in_time(function):
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"robot.xml: reading it took longer than the 0\.5 s that are allowed"):
        guarded.call(function, what="robot.xml", caps=Caps(wall_s=0.5))
    assert time.monotonic() - begin < 5.0
    with pytest.raises(ChildProcessError):  # nobody is left behind, not even as a zombie
        os.waitpid(-1, os.WNOHANG)
