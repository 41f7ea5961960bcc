"""What is said to a terminal that does not read, or is gone, holds nothing up."""

import contextlib
import os
import subprocess
import sys
import time

import pytest
import waiting

from mbrl_control.screen import Screen


@pytest.fixture
def pipe():
    """The reading end's descriptor and a writing text stream."""
    read, write = os.pipe()
    with os.fdopen(write, "w", encoding="utf-8") as stream:
        yield read, stream


def test_words_arrive_whole_and_in_their_order(pipe):
    read, stream = pipe
    screen = Screen(stream)
    for i in range(100):
        screen.write(f"{i} ü\n")
    screen.finish()
    assert os.read(read, 100_000).decode() == "".join(f"{i} ü\n" for i in range(100))


def test_a_reader_that_takes_nothing_holds_nothing_up_and_gets_all_that_waits_later(pipe):
    read, stream = pipe
    screen, piece = Screen(stream), "x" * 10_000
    begin = time.monotonic()
    for _ in range(1000):
        screen.write(piece)
    screen.finish(0.1)
    assert time.monotonic() - begin < 5  # of ten megabytes a pipe takes 64 kB
    got = 0
    while got < 1000 * len(piece):
        got += len(os.read(read, 1_000_000))
    screen.finish()


def test_what_nobody_could_ever_read_is_dropped(pipe):
    read, stream = pipe
    screen = Screen(stream)
    for i in range(30_000):
        screen.write(f"{i:09d} {'.' * 90}\n")
    os.set_blocking(read, False)
    got = b""

    def drained():
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += os.read(read, 1_000_000)
        return screen._waiting.unfinished_tasks == 0

    waiting.until(drained, "the end of what waits")
    lines = got.split(b"\n")[:-1]
    assert 10_000 <= len(lines) < 30_000
    assert lines == sorted(lines)


def test_a_reader_that_is_gone_is_no_fault(pipe):
    read, stream = pipe
    screen = Screen(stream)
    os.close(read)
    for _ in range(100):
        screen.write("nobody hears this\n")
    screen.finish()
    assert screen._waiting.unfinished_tasks == 0


def test_a_process_ends_with_its_own_status_and_says_all():
    code = ("import sys; from mbrl_control import screen; screen.detach(); screen.detach(); "
            "print('said'); print('ill', file=sys.stderr); sys.exit(3)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "ill\n")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 3
