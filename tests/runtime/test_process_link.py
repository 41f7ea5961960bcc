"""The link to a real planner worker: killed, stopped or gone, it never holds the tick up, and it leaves nothing behind."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import carts
import numpy as np
import pytest
import torch
from waiting import until

from mbrl_control import parts, robot
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import sequences
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.runtime.mailbox import shared_folder
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.runtime.process_link import ProcessLink
from mbrl_control.store import ModelStore
from mbrl_control.store.snapshot import WEIGHTS

YAML = carts.CART + """
name: tinylink
model: {kind: linear}
planner: {horizon: 6, candidates: 24, iterations: 2}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A robot's YAML and a store that holds one fitted model."""
    folder = tmp_path_factory.mktemp("link")
    (folder / "robot.yaml").write_text(YAML)
    spec = robot.load(folder / "robot.yaml")
    t = np.arange(0, 4, spec.tick_s)
    u = np.sin(7 * t)[:, None]
    v = np.cumsum(u[:, 0]) * spec.tick_s
    state = np.column_stack([np.cumsum(v) * spec.tick_s, v])
    model = parts.find("models", "linear").build(spec)
    model.fit(sequences(Episode(t, state, u), spec), np.random.default_rng(0))
    store = ModelStore(folder / "store")
    store.publish(model.snapshot())
    return str(folder / "robot.yaml"), spec, store


def request_of(spec, seq):
    return PlanRequest(seq, np.array([0.5, 0.0]), time.monotonic(), time.monotonic() + 0.04, np.zeros(1), np.zeros((1, spec.action_dim)))


def ended(pid):
    """Gone, or a zombie that nobody has buried."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def worker_of(link):
    """Process id of the worker; never 0, which to os.kill would be this test's own group."""
    until(link.check)
    assert link.pid > 0
    return link.pid


def boxes(pid):
    return list(shared_folder().glob(f"mbrl-{pid}-tinylink-*.box"))


class Tick:
    """Asks and takes, and notes the longest time that it took."""

    def __init__(self, link, spec):
        self.link, self.spec, self.seq, self.longest, self.plans = link, spec, 0, 0.0, []

    def __call__(self):
        begin = time.thread_time()  # what it does, not what others on this machine do meanwhile
        wall = time.perf_counter()
        self.link.send(request_of(self.spec, self.seq))
        plan = self.link.receive(time.monotonic())
        self.longest = max(self.longest, time.thread_time() - begin)
        assert time.perf_counter() - wall < 1.0
        self.seq += 1
        if plan is not None:
            self.plans.append(plan)
        return plan


@pytest.fixture
def link(world, tmp_path):
    made = ProcessLink(world[0], world[1], world[2].folder, seed=3, log=tmp_path / "planner.log")
    made.start()
    yield made
    made.stop()


def test_it_plans_as_the_same_planner_in_this_process_does(world, link):
    _, spec, store = world
    until(Tick(link, spec))
    quiet = time.monotonic()
    while time.monotonic() - quiet < 0.5:
        if link.receive(0.0) is not None:
            quiet = time.monotonic()
    first = link.layout.unpack_plan(link.answers[-1])[0]
    link.send(request_of(spec, first.seq + 1))
    until(lambda: link.receive(0.0) is not None)
    plan, before = link.layout.unpack_plan(link.answers[-1])
    asked = link.layout.unpack_request(link.answers[-1][link.layout.plan_size:])
    assert (asked.seq, plan.seq, before) == (first.seq + 1, first.seq + 1, first.seq)
    torch.set_flush_denormal(True)
    core = PlannerCore(spec, store, seed=3)
    assert core.swap()
    core.previous = first
    again, before = core.plan(asked)
    assert before == first.seq
    assert np.array_equal(again.actions, plan.actions)
    assert np.array_equal(again.carry, plan.carry)
    assert plan.model_version == 1


def test_what_is_wrong_with_a_plan_comes_with_it_and_a_damaged_snapshot_ends_nothing(world, tmp_path):
    given = world[2].read(1)
    store = ModelStore(tmp_path / "store")
    store.publish(replace(given, weights={**given.weights, "matrix": np.full_like(given.weights["matrix"], 1e30)}))
    store.publish(given)
    (store.path(2) / WEIGHTS).write_bytes(b"half")
    link = ProcessLink(world[0], world[1], store.folder, seed=3)
    link.start()
    try:
        tick = Tick(link, world[1])
        until(tick)
        assert tick.plans[0].faults == ("plan_invalid",)
        assert tick.plans[0].model_version == 1
        assert "bytes where the manifest says" in store.refused()[2]
        store.publish(given)
        until(lambda: (plan := tick()) is not None and plan.model_version == 3)
        assert "plan_invalid" not in tick.plans[-1].faults
    finally:
        link.stop()


def test_killed_stopped_and_restarted_without_holding_the_tick_up(world, link):
    tick = Tick(link, world[1])
    until(tick)
    first = worker_of(link)
    os.kill(first, signal.SIGKILL)
    until(lambda: not link.check())
    for _ in range(300):
        tick()
    until(lambda: link.check() and link.pid != first)
    assert link.restarts == 1
    assert link.faults(time.monotonic()) == set()
    count = len(tick.plans)
    until(lambda: tick() and len(tick.plans) > count)
    stopped = worker_of(link)
    os.kill(stopped, signal.SIGSTOP)
    for _ in range(70_000 // 100):  # more would fill the wake-up pipe: shown below without as many plans
        tick()
    for _ in range(70_000):
        try:
            os.write(link._wake, b"!")
        except BlockingIOError:
            break
    else:
        pytest.fail("the pipe never filled")
    tick()
    assert link.check()
    os.kill(stopped, signal.SIGCONT)
    count = len(tick.plans)
    until(lambda: tick() and len(tick.plans) > count)
    assert tick.longest < 0.05


def test_numbers_that_are_no_plan_are_as_if_nothing_had_come(world, link):
    for value in (np.nan, np.inf, 1e300, -5.0):
        link._plans.write(np.full(link.layout.answer_size, value))
        assert link.receive(0.0) is None


def test_nothing_is_left_after_stop_and_stop_may_be_called_twice(world):
    link = ProcessLink(world[0], world[1], world[2].folder, seed=0)
    assert len(boxes(os.getpid())) >= 2
    link.start()
    pid = worker_of(link)
    link.stop()
    link.stop()
    assert boxes(os.getpid()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not link.check()


def test_a_stopped_worker_is_ended_too(world):
    link = ProcessLink(world[0], world[1], world[2].folder, seed=0)
    link.start()
    pid = worker_of(link)
    os.kill(pid, signal.SIGSTOP)
    link.stop()
    assert ended(pid)
    assert boxes(os.getpid()) == []


def test_after_kill_nine_of_the_owner_the_worker_ends_and_the_next_start_tidies_up(world):
    code = ("import time\nfrom pathlib import Path\nfrom mbrl_control import robot\n"
            "from mbrl_control.runtime.process_link import ProcessLink\n"
            f"link = ProcessLink({world[0]!r}, robot.load({world[0]!r}), Path({str(world[2].folder)!r}), seed=0)\nlink.start()\n"
            "while not link.check():\n    time.sleep(0.01)\n"
            "print(link.pid, flush=True)\ntime.sleep(60)")
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    assert len(boxes(owner.pid)) == 2

    until(lambda: ended(worker), timeout_s=5.0)
    link = ProcessLink(world[0], world[1], world[2].folder, seed=0)
    link.stop()
    assert boxes(owner.pid) == []


@pytest.mark.fault(row=11)
def test_a_worker_that_hangs_is_killed_and_another_answers_while_the_tick_goes_on(world, link, record_property):
    tick = Tick(link, world[1])
    until(lambda: tick() and link.check())
    hung, begin = worker_of(link), time.monotonic()
    os.kill(hung, signal.SIGSTOP)
    count = len(tick.plans)

    def another():
        link.check()
        return tick() and len(tick.plans) > count + 3

    until(another)
    assert link.pid not in (0, hung)
    assert ended(hung)
    took = time.monotonic() - begin
    assert link._watch.hang_s < took < 30.0
    record_property("measured", f"a planner that hangs: another answers after {took:.1f} s")
    assert link.restarts == 1
    assert tick.longest < 0.05


@pytest.mark.fault(row=11)
def test_three_kills_within_ten_seconds_are_a_fault_and_it_is_started_all_the_same(world, link, record_property):
    back = []
    for count in range(3):
        first = worker_of(link)
        assert link.faults(time.monotonic()) == set()
        os.kill(first, signal.SIGKILL)
        begin = time.monotonic()
        until(lambda first=first: link.check() and link.pid not in (0, first))
        back.append(time.monotonic() - begin)
        assert link.restarts in (count, count + 1)
    assert link.faults(time.monotonic()) == {"planner_failing"}
    assert link.faults(time.monotonic() + 10.0) == set()
    record_property("measured", f"a planner that is killed is back after {min(back):.2f} s at first; three ends within 10 s latch")
    tick = Tick(link, world[1])
    until(lambda: link.check() and tick())


def test_the_keeper_may_be_killed_too(world, link):
    tick = Tick(link, world[1])
    until(lambda: link.check() and tick())
    worker = worker_of(link)
    link._keeper.kill()
    until(lambda: ended(worker))
    count = len(tick.plans)
    until(lambda: link.check() and tick() and len(tick.plans) > count + 3)
    assert link.pid != worker


def test_a_keeper_that_cannot_be_started_is_tried_again_later_and_ends_nothing(world, link, monkeypatch):
    worker = worker_of(link)
    link._keeper.kill()
    until(lambda: ended(worker))
    real, tries = (subprocess.Popen, os.pipe), []

    def fail(*given, **named):
        tries.append(time.monotonic())
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    files = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(subprocess, "Popen", fail)
    until(lambda: not link.check() and len(tries) >= 3)
    pauses = [b - a for a, b in itertools.pairwise(tries)]
    assert pauses[0] >= 0.2 - 1e-3
    assert pauses[1] >= 0.5 - 1e-3
    assert link.faults(time.monotonic()) == {"planner_failing"}
    for made in range(3):  # so many pipes can be made, and then no more
        left = [made]
        monkeypatch.setattr(os, "pipe", lambda left=left: real[1]() if left.append(left.pop() - 1) or left[0] >= 0 else fail())
        count = len(tries)
        link._watch._restarts.ends.clear()
        until(lambda count=count: not link.check() and not link.look() and len(tries) > count)
        link.send(request_of(world[1], 0))
        assert len(os.listdir("/proc/self/fd")) <= files
    monkeypatch.setattr(subprocess, "Popen", real[0])
    monkeypatch.setattr(os, "pipe", real[1])
    link._watch._restarts.ends.clear()
    tick = Tick(link, world[1])
    until(lambda: link.check() and tick())
    assert link.pid not in (0, worker)


def test_a_look_never_starts_a_keeper_nor_spoils_its_start(world, link):
    """The look of each tick orders a worker from the keeper; from a dead one it must not, for an order is given once."""
    worker = worker_of(link)
    link._keeper.kill()
    until(lambda: ended(worker))
    keeper = link._keeper
    until(lambda: not link.look() and keeper.poll() is not None)
    for _ in range(100):
        assert not link.look()
    assert link._keeper is keeper
    link.check()
    for _ in range(100):
        link.look()
    until(lambda: link.look() or link.check())
    assert link._keeper is not keeper


def test_a_worker_over_its_memory_is_ended_and_the_log_says_why(world, tmp_path):
    yaml = tmp_path / "robot.yaml"
    yaml.write_text(YAML.replace("iterations: 2}", "iterations: 2, memory_mb: 512}"))
    spec = robot.load(yaml)
    code = ("import os, sys, mbrl_control.runtime.planner_keeper as keeper\n"
            "keeper.resident_bytes = lambda pid: 600 * 2**20\n"
            "keeper.main()\n")
    link = ProcessLink(str(yaml), spec, world[2].folder, seed=0, log=tmp_path / "planner.log")
    link._command[1:3] = ["-c", code]
    link.start()
    until(lambda: link.check() is not None and link.restarts >= 1)
    link.stop()
    assert "holds 600 MB, more than planner.memory_mb of the robot's YAML allows (512)" in (tmp_path / "planner.log").read_text()
