"""The mailbox between two processes: the newest vector or none, never a torn one, whoever is killed when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mbrl_control.runtime import mailbox
from mbrl_control.runtime.mailbox import Mailbox, sweep

SIZE = 257
HAMMER = """
import sys, numpy as np
from pathlib import Path
from mbrl_control.runtime.mailbox import Mailbox
box, k = Mailbox(Path(sys.argv[1]), int(sys.argv[2])), 0
print("ready", flush=True)
while True:
    k += 1
    box.write(np.full(box.size, float(k)))
"""


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "a.box"
    return Mailbox(path, SIZE, create=True), Mailbox(path, SIZE)


def hammer(path):
    process = subprocess.Popen([sys.executable, "-c", HAMMER, str(path), str(SIZE)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def firsts(box):
    """The first number of each vector that waits."""
    out = []
    while (vector := box.read()) is not None:
        out.append(vector[0])
    return out


def test_the_newest_content_is_read_once(pair):
    writer, reader = pair
    assert reader.read() is None
    writer.write(np.arange(SIZE))
    writer.write(np.arange(SIZE) + 0.5)
    assert np.array_equal(reader.read(), np.arange(SIZE) + 0.5)
    assert reader.read() is None
    writer.write(np.full(SIZE, np.nan))
    assert np.isnan(reader.read()).all()


def test_with_slots_vectors_come_once_each_and_in_order_and_the_oldest_give_way(tmp_path):
    path = tmp_path / "a.box"
    reader, writer = Mailbox(path, SIZE, create=True, slots=4), Mailbox(path, SIZE, slots=4)
    for first, last, seen in ((0, 3, [0, 1, 2]), (3, 4, [3]), (4, 10, [6, 7, 8, 9]), (10, 10, [])):
        for k in range(first, last):
            writer.write(np.full(SIZE, float(k)))
        assert firsts(reader) == seen


def test_a_writer_killed_in_the_middle_of_a_slot_costs_its_vector_alone(tmp_path):
    path = tmp_path / "a.box"
    reader, writer = Mailbox(path, SIZE, create=True, slots=4), Mailbox(path, SIZE, slots=4)
    for k in range(3):
        writer.write(np.full(SIZE, float(k)))
    writer._counters[0] = 7  # the fourth vector, begun
    writer._values[0, :100] = 3.0
    writer._values[2, 5] = -1.0  # and the second is spoilt
    successor = Mailbox(path, SIZE, slots=4)
    successor.write(np.full(SIZE, 4.0))
    assert firsts(reader) == [2.0, 4.0]  # the first has given way to the fifth


def test_what_was_read_does_not_change_afterwards(pair):
    writer, reader = pair
    writer.write(np.ones(SIZE))
    seen = reader.read()
    writer.write(np.zeros(SIZE))
    assert (seen == 1).all()


@pytest.mark.parametrize("done", range(0, SIZE, 64))
def test_a_writer_killed_in_the_middle_leaves_nothing_half_and_the_next_one_carries_on(pair, done):
    writer, reader = pair
    writer.write(np.ones(SIZE))
    reader.read()
    writer._counters[0] += 1  # what `write` does, up to a point
    writer._values[0, :done] = 2.0
    assert reader.read() is None
    successor = Mailbox(writer.path, SIZE)
    successor.write(np.full(SIZE, 3.0))
    assert (reader.read() == 3.0).all()


def test_content_that_is_not_what_was_written_is_not_given_out(pair):
    writer, reader = pair
    writer.write(np.arange(SIZE))
    writer._values[0, 100] = -1.0
    assert reader.read() is None
    writer.write(np.arange(SIZE))
    assert reader.read() is not None


def test_two_processes_hammering_a_hundred_thousand_reads_and_none_is_torn(pair):
    writer, reader = pair
    process = hammer(writer.path)
    try:
        torn = got = reads = 0
        last = 0.0
        end = time.monotonic() + 60
        while (reads < 100_000 or got < 200) and time.monotonic() < end:
            reads += 1
            vector = reader.read()
            if vector is None:
                continue
            got += 1
            torn += bool((vector != vector[0]).any()) or vector[0] < last
            last = vector[0]
    finally:
        process.kill()
        process.wait()
    assert torn == 0
    assert got >= 200


def test_a_writer_killed_at_any_instant_leaves_whole_content_or_none(pair):
    writer, reader = pair
    for k in range(12):
        process = hammer(writer.path)
        time.sleep(0.002 * k)
        process.send_signal(signal.SIGKILL)
        process.wait()
        begin = time.perf_counter()
        vector = reader.read()
        assert time.perf_counter() - begin < 0.5
        assert vector is None or (vector == vector[0]).all()
    writer.write(np.full(SIZE, -1.0))
    assert (reader.read() == -1.0).all()


def test_mailboxes_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(mailbox, "shared_folder", lambda: tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"mbrl-{dead.pid}-arm-1-req.box", f"mbrl-{os.getpid()}-arm-1-req.box", "mbrl-1-init-1-req.box", "mbrl-x-arm-1-req.box",
             "other.box"]
    for name in names:
        (tmp_path / name).touch()
    assert sweep() == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])


def test_the_owner_never_takes_over_a_file(tmp_path):
    Mailbox(tmp_path / "a.box", 3, create=True)
    with pytest.raises(FileExistsError):
        Mailbox(tmp_path / "a.box", 3, create=True)
