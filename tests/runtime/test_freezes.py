"""The machine's freezes: overlaps by hand and against a grid, missed ticks that they explain, and the watcher as a real process."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import waiting
from hypothesis import given
from hypothesis import strategies as st

from mbrl_control.runtime import cadence, freezes
from mbrl_control.runtime.cadence import Cadence
from mbrl_control.runtime.freezes import Seen, Tally, common, explained

until = partial(waiting.until, timeout_s=30.0)

PERIOD = 0.02


@pytest.mark.parametrize(("cores", "expected"), [
    ([[(0, 5), (10, 12)]], [(0, 5), (10, 12)]),
    ([[(0, 5)], [(3, 8)]], [(3, 5)]),
    ([[(0, 5)], [(5, 8)]], []),  # touching is no overlap
    ([[(0, 5)], []], []),
    ([[(0, 10)], [(1, 2), (3, 4), (9, 12)]], [(1, 2), (3, 4), (9, 10)]),
    ([[(0, 10)], [(1, 6)], [(4, 20)]], [(4, 6)]),
    ([[(0, 10)], [(1, 3)], [(4, 20)]], []),  # each two of them, but never all three
    ([[(0, 4), (6, 9)], [(0, 4), (6, 9)]], [(0, 4), (6, 9)]),
])
def test_where_all_cores_were_late(cores, expected):
    assert common(cores) == expected


def intervals(most=5):
    """In order and apart, on whole numbers."""
    edges = st.lists(st.integers(0, 60), unique=True, max_size=2 * most).map(sorted)
    return edges.map(lambda e: list(zip(e[::2], e[1::2], strict=False)))


def covered(spans):
    return {cell for begin, end in spans for cell in range(begin, end)}


@given(st.lists(intervals(), min_size=1, max_size=4))
def test_overlaps_are_those_of_a_grid(cores):
    found = common(cores)
    assert covered(found) == set.intersection(*map(covered, cores))
    assert all(a < b for a, b in found)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(found))


@given(st.lists(intervals(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_the_tally_finds_each_overlap_once_in_whatever_order_cores_tell(cores, random):
    tally, left = Tally(len(cores), 0.0), [list(core) for core in cores]
    while waiting := [n for n, core in enumerate(left) if core]:
        chosen = random.choice(waiting)
        tally.add(chosen, left[chosen].pop(0))
    expected = common(cores)
    assert tally.longest() == expected
    assert tally.count == len(expected)
    assert tally.total_s == sum(b - a for a, b in expected)
    assert tally.max_s == max((b - a for a, b in expected), default=0.0)


def test_a_brush_of_two_late_cores_is_no_freeze():
    tally = Tally(2, 2.0)
    tally.add(0, (0.0, 6.0))
    tally.add(1, (5.0, 9.0))
    assert (tally.count, tally.longest()) == (0, [])
    tally.add(0, (10.0, 13.0))
    tally.add(1, (10.0, 14.0))
    assert (tally.count, tally.max_s, tally.longest()) == (1, 3.0, [(10.0, 13.0)])


def test_the_tally_keeps_the_longest_and_its_memory_bounded():
    tally, many = Tally(2, 0.0), 3 * freezes.MOST_KEPT
    for n in range(many):
        for core in (0, 1):
            tally.add(core, (2.0 * n, 2.0 * n + (n + 1) / many))
    assert tally.count == many
    assert tally.max_s == pytest.approx(1.0)
    assert [begin for begin, _ in tally.longest()] == [2.0 * n for n in range(many - freezes.MOST_KEPT, many)]
    assert max(map(len, tally._late)) == freezes.MOST_KEPT


@pytest.mark.parametrize(("missed", "still", "count"), [
    ([], [(0.0, 1.0)], 0),
    ([(1.0, 0.030)], [], 0),
    ([(1.0, 0.030)], [(1.0, 1.030)], 1),  # wholly in a freeze
    ([(1.0, 0.030)], [(0.9, 1.012)], 1),  # 12 ms of it: 18 ms late would have missed nothing
    ([(1.0, 0.030)], [(0.9, 1.008)], 0),  # 8 ms of it: 22 ms late would have missed it all the same
    ([(1.0, 0.030)], [(1.0, 1.006), (1.02, 1.026)], 1),  # two freezes, 12 ms
    ([(1.0, 0.030)], [(0.5, 0.9), (1.1, 1.5)], 0),  # before and after
    ([(1.0, 0.050)], [(1.0, 1.047)], 2),  # two ticks missed, both the machine's
    ([(1.0, 0.050)], [(1.0, 1.015)], 1),  # 35 ms would have missed one of the two
    ([(1.0, 0.030), (2.0, 0.030)], [(2.0, 2.03)], 1),
])
def test_missed_ticks_that_freezes_explain(missed, still, count):
    assert explained(missed, still, PERIOD) == count


def test_a_cadence_notes_the_ticks_it_misses(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds + 1e-6

    clock = Clock()
    monkeypatch.setattr(cadence, "time", clock)
    monkeypatch.setattr(cadence, "SPIN_S", 0.0)
    monkeypatch.setattr(cadence, "MOST_NOTED", 2)
    made = Cadence(PERIOD)
    for n in range(1, 6):
        if n == 3:
            clock.now += 0.07  # of which 20 ms were to wait anyway
        made.wait()
    assert (made.ticks, made.missed) == (5, 2)
    assert made.missed_at == [(pytest.approx(100.06), pytest.approx(0.05, abs=1e-4))]
    for n in range(1, 4):
        clock.now += 0.07
        made.wait()
        assert made.missed >= 2 + 2 * n
    assert len(made.missed_at) == 2  # memory is bounded


def test_large_machines_are_watched_in_part():
    assert freezes.watched_cores({1, 0}) == [0, 1]
    assert freezes.watched_cores(range(8)) == list(range(8))
    assert freezes.watched_cores(range(64)) == list(range(0, 64, 8))
    assert 4 < len(freezes.watched_cores(range(9))) <= 8


def test_the_file_comes_back_as_it_was(tmp_path):
    seen = Seen(3.0, 200.0, 2.0, True, 1, 7.5, 7.5, [(1.0, 1.0075)])
    freezes.save(seen, tmp_path / "f.json")
    assert freezes.read(tmp_path / "f.json") == seen
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]
    assert freezes.read(tmp_path / "nothing.json") is None
    for text in ("", "{}", "[]", "3", '{"intervals": []}'):
        (tmp_path / "bad.json").write_text(text)
        assert freezes.read(tmp_path / "bad.json") is None


def test_the_watcher_needs_neither_numpy_nor_torch():
    code = "import sys\nimport mbrl_control.runtime.freezes\nsys.exit(bool({'numpy', 'torch', 'pydantic', 'yaml'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def loops(pid):
    """Process ids of a watcher's loops."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def awaking(pid):
    """Whether a loop has begun: it has gone to sleep many a time."""
    return int(Path(f"/proc/{pid}/status").read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0]) > 20


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def watcher(tmp_path):
    """Start a watcher with its loops in place."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "mbrl_control.runtime.freezes", "--file", str(tmp_path / "freezes.json"), *arguments]
        started.append(subprocess.Popen(command))
        cores = len(freezes.watched_cores(os.sched_getaffinity(0)))
        until(lambda: len(loops(started[-1].pid)) == cores and (tmp_path / "freezes.json").exists(), "the loops")
        until(lambda: all(map(awaking, loops(started[-1].pid))), "loops that have begun")
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def stand_still(pids, seconds):
    """Stop processes for a time, as a host stops a whole machine. Gives (before, all stopped, end)."""
    before = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return before, stopped, end


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_loops_that_all_stand_still_are_a_freeze(watcher, tmp_path, how):
    process = watcher()
    below = loops(process.pid)
    assert {core for pid in below for core in os.sched_getaffinity(pid)} == set(freezes.watched_cores(os.sched_getaffinity(0)))
    before, stopped, end = stand_still(below, 0.3)
    until(lambda: freezes.read(tmp_path / "freezes.json").freezes, "the freeze in the file")
    process.send_signal(how)
    assert process.wait(10) == 0
    assert all(map(gone, below))
    seen = freezes.read(tmp_path / "freezes.json")
    longest = max(seen.intervals, key=lambda i: i[1] - i[0])
    assert before - 0.01 <= longest[0] <= stopped + 0.005 + 0.001  # noticed at the first deadline in it
    assert longest[1] >= end
    assert seen.max_ms == pytest.approx(1e3 * (longest[1] - longest[0]))
    assert seen.total_ms >= seen.max_ms
    assert seen.watched_s > 0.3
    assert explained([(before, end - before)], seen.intervals, PERIOD) > 10


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is all cores")
def test_one_loop_that_stands_still_is_none(watcher, tmp_path):
    process = watcher("--threshold", "0.15")  # the machine's own freezes are shorter
    below = loops(process.pid)
    stand_still(below[:1], 0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert freezes.read(tmp_path / "freezes.json").freezes == 0


def test_the_file_is_whole_at_all_times(watcher, tmp_path):
    watcher("--rate", "1000", "--threshold", "0")  # every wake-up is late
    versions = set()

    def look():
        text = (tmp_path / "freezes.json").read_text()
        found = json.loads(text)
        versions.add(text)
        assert found["freezes"] >= len(found["intervals"])
        return len(versions) > 2

    until(look, "a file that was renewed twice")


def test_the_watcher_says_whether_it_has_priority(watcher, tmp_path):
    process = watcher()
    below = loops(process.pid)
    policies = {os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK for pid in below}
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert freezes.read(tmp_path / "freezes.json").priority == (policies == {os.SCHED_FIFO})


def test_the_watcher_ends_with_its_parent(tmp_path):
    file = tmp_path / "freezes.json"
    code = f"""
import subprocess, sys
process = subprocess.Popen([sys.executable, "-m", "mbrl_control.runtime.freezes", "--file", {str(file)!r}])
print(process.pid, flush=True)
process.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    until(file.exists, "the file")
    below = loops(pid)
    assert below
    parent.kill()
    parent.wait()
    until(lambda: all(map(gone, (pid, *below))), "the end of the watcher")
    assert freezes.read(file) is not None


def test_loops_end_with_a_watcher_that_is_killed(watcher):
    process = watcher()
    below = loops(process.pid)
    process.kill()
    process.wait()
    until(lambda: all(map(gone, below)), "the end of the loops")


def test_a_watcher_without_one_of_its_loops_fails(watcher):
    process = watcher()
    below = loops(process.pid)
    os.kill(below[0], signal.SIGKILL)
    assert process.wait(10) == 1
    assert all(map(gone, below))
