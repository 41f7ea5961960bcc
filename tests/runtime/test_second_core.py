"""A tick whose core stands still is made on another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mbrl_control.runtime.cadence import Cadence
from mbrl_control.runtime.second_core import AWAY_S, SHARE, beside

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="one core")
PERIOD_S = 0.02
BURSTS, BURST_S, EVERY_S = 3, 0.3, 1.7
HALF_S = BURST_S / 2
"""Longer than a busy machine stands still by itself, shorter than a burst."""

HOG = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(80))
for _ in range(int(sys.argv[2])):
    time.sleep(float(sys.argv[4]) - float(sys.argv[3]))
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        pass
"""

TICK = """
import json, os, subprocess, sys, time
from mbrl_control.priority import pin
from mbrl_control.runtime.cadence import Cadence
from mbrl_control.runtime.second_core import beside
own, other, period = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
helped, hog = sys.argv[4] == "helped", sys.argv[5:]
pin([own])
os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(40))
busy = subprocess.Popen([sys.executable, "-c", *hog])
cadence = Cadence(period)
second = beside(cadence, [other] if helped else [], 41)
late = []
while busy.poll() is None:
    deadline = cadence.wait()
    late.append(time.monotonic() - deadline)
if second is not None:
    second.close()
print(json.dumps([sorted(late), second.moved if second is not None else 0, sorted(os.sched_getaffinity(0))]))
"""


@pytest.fixture
def pinned():
    """The calling thread on the first core, and again on all after the test."""
    os.sched_setaffinity(0, CORES[:1])
    yield CORES[:1]
    os.sched_setaffinity(0, CORES)


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


@two_cores
def test_a_deadline_that_is_not_kept_moves_the_thread_and_a_second_of_kept_ones_brings_it_back(pinned):
    begin = time.monotonic()
    cadence = Cadence(0.2)  # so that a busy machine keeps them
    second = beside(cadence, CORES[1:], 1)
    until(lambda: os.sched_getaffinity(0) == set(CORES[1:]))
    moved = time.monotonic()
    assert moved - begin >= (1 + SHARE) * 0.2
    time.sleep(0.1)
    assert second.moved == 1  # once for each deadline
    while os.sched_getaffinity(0) != set(pinned) and time.monotonic() < moved + 20:
        cadence.wait()
    assert begin + (1 + SHARE) * 0.2 + AWAY_S <= time.monotonic() < moved + 20
    second.close()
    assert "second core" not in [thread.name for thread in threading.enumerate()]


@two_cores
def test_closing_brings_the_thread_back_at_once(pinned):
    cadence = Cadence(0.02)
    second = beside(cadence, CORES[1:], 1)
    until(lambda: second.moved)
    second.close()
    assert os.sched_getaffinity(0) == set(pinned)


def test_without_another_core_there_is_nothing():
    assert beside(Cadence(0.02), [], 1) is None


def test_where_no_thread_is_left_it_goes_on_without(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    before = signal.getsignal(signal.SIGURG), threading.stack_size()
    monkeypatch.setattr(threading.Thread, "start", start)
    assert beside(Cadence(0.02), CORES, 1) is None
    assert (signal.getsignal(signal.SIGURG), threading.stack_size()) == before


def bursts(helped):
    """Latenesses from the least, ticks moved and cores at the end, of a tick whose core is held now and then by something more urgent."""
    own, other = map(str, CORES[:2])
    way = "helped" if helped else "alone"
    command = [sys.executable, "-c", TICK, own, other, str(PERIOD_S), way, HOG, own, str(BURSTS), str(BURST_S), str(EVERY_S)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@two_cores
def test_a_core_that_something_more_urgent_holds_costs_no_tick():
    """Alone a tick comes when the burst is over, helped each comes while it lasts."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        pytest.skip("no real-time priorities here")
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    late, moved, _ = bursts(helped=False)
    assert late[-BURSTS] > BURST_S - PERIOD_S - 1e-3 > late[-BURSTS - 1]
    assert moved == 0
    late, moved, cores = bursts(helped=True)
    assert late[-1] < HALF_S
    assert late[-2] < PERIOD_S  # a machine may stand still as a whole, once
    assert moved >= BURSTS - 1  # a burst may begin while the tick is away, for a stop of the machine just before
    assert cores == CORES[:1]
