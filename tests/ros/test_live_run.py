"""A run of all processes from the command line: ends with report, picture and a bag that replays, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
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

from mbrl_control import robot
from mbrl_control.data.loading import load_episodes
from mbrl_control.data.mcap_bag import part_of
from mbrl_control.data.tail import McapTail
from mbrl_control.process_name import STANDS_BY, called
from mbrl_control.runtime.process_link import child_environment

until = partial(waiting.until, timeout_s=90.0, pause_s=0.05)

pytestmark = pytest.mark.slow


def children(pid: int) -> dict[int, str]:
    """Pids and command lines of the processes below a process, whose pids may be smaller than its own: pids begin anew at their most."""
    parents, lines = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):
            continue
    out: dict[int, str] = {}
    generation = {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation and child in lines}
        out |= {child: lines[child] for child in generation}
    return out


@pytest.fixture
def demo(domain, light, tmp_path):
    """Start `mbrl demo` with arguments, in a ROS domain of its own."""
    started = []

    def start(*arguments, output=None):
        environment = child_environment() | {"ROS_DOMAIN_ID": str(domain)}
        command = [sys.executable, "-m", "mbrl_control.cli", "demo", "--robot", *map(str, (light, *arguments))]
        with (tmp_path / "mbrl.log").open("w") as log:
            started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output or log,
                                            stderr=output or subprocess.STDOUT))
        return started[-1]

    yield start
    print((tmp_path / "mbrl.log").read_text())
    for process in started:
        for pid in [*children(process.pid), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)


def trainers(process):
    """Pids of a run's trainers: one, or for a moment none."""
    return [pid for pid, line in children(process.pid).items() if "trainer_node" in line]


def without_its_trainer(report):
    """The report of a run whose trainer was killed: it went on to its end with another."""
    found = json.loads(report.read_text())
    assert found["ended_early"] == {}
    assert found["trainer_restarts"] == 1
    assert [f["count"] for f in found["faults"] if f["code"] == "trainer_ended"] == [1]
    return found


def test_a_demo_whose_trainer_is_killed_goes_on_and_replays(demo, tmp_path):
    out = tmp_path / "run"
    process = demo("--duration", 600, "--out", out, "--json", tmp_path / "report.json")
    until((out / "refits.jsonl").exists, "a refit")
    (killed,) = trainers(process)
    os.kill(killed, signal.SIGKILL)
    until(lambda: trainers(process) not in ([], [killed]), "another trainer")
    commands = max(400, until_recorded(out, 1) + 150)
    until_recorded(out, commands)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) in (0, 1)  # solved or not
    found = without_its_trainer(tmp_path / "report.json")
    assert found["cadence"]["ticks"] >= commands
    assert set(found["cadence"]["lateness_us"]) == {"p50", "p99", "max"}
    machine = found["cadence"]["machine"]
    assert set(machine) == {"freezes", "max_ms", "total_ms", "missed_in_freezes", "priority", "watched_s"}
    assert machine["watched_s"] > 8
    assert 0 <= machine["missed_in_freezes"] <= found["cadence"]["missed"]
    assert len(found["cadence"]["missed_at"]) <= found["cadence"]["missed"]
    planner = found["planner"]
    assert planner["plans"] == planner["met"] + planner["early_stop"] + planner["fallback"] > 20
    assert planner["reused"] >= 0
    assert found["plan_fit"]["one_s"] <= found["plan_fit"]["allowed_s"] == pytest.approx(0.8 / 50)
    assert (out / "picture.png").stat().st_size > 20_000
    episodes = load_episodes(out / "bag", robot.load(out / "robot.yaml"))
    assert sum(e.duration for e in episodes) > 6.0
    done = subprocess.run([sys.executable, "-m", "mbrl_control.cli", "replay", str(out), "--limit", "5"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical in every bit" in done.stdout


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes_and_the_report_is_written(demo, tmp_path, how):
    out = tmp_path / "run"
    process = demo("--duration", 600, "--out", out)
    until((out / "bag").exists, "the bag")
    modules = ("recorder_node", "recorder_standby", "trainer_node", "sim_node", "controller_node", "planner_keeper", "runtime.freezes")
    until(lambda: all(any(m in line for line in children(process.pid).values()) for m in modules), "all processes")
    below = children(process.pid)
    time.sleep(2.0)
    process.send_signal(how)
    assert process.wait(60) in (0, 1)
    for pid in below:
        assert not Path(f"/proc/{pid}").exists(), below[pid]
    found = json.loads((out / "report.json").read_text())
    assert found["interrupted"] is True


def until_recorded(out, commands):
    """Wait until so many commands are in the bag of a run; how many there are."""
    until((out / "bag").exists, "the bag")
    tail, seen = McapTail(out / "bag", ["mbrl/command"]), []

    def enough():
        seen.extend(tail.read())
        return len(seen) >= commands

    until(enough, f"{commands} commands in the bag")
    return len(seen)


@pytest.mark.fault(row=24)
def test_after_kill_nine_of_mbrl_the_controller_brings_the_robot_to_rest_and_nothing_runs_on(demo, tmp_path, record_property):
    out = tmp_path / "run"
    process = demo("--duration", 600, "--out", out)
    until(lambda: (out / "bag").exists() and len(children(process.pid)) >= 6, "all processes")
    until_recorded(out, 50)
    below = children(process.pid)
    process.kill()
    begin = time.monotonic()
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), f"the end of {below}", timeout_s=10.0)
    assert json.loads((out / "controller.json").read_text())["cadence"]["ticks"] > 0, "it ended in order"
    assert (out / "bag" / "metadata.yaml").exists(), "so did the recorder"
    record_property("measured", f"mbrl: all {len(below)} processes ended in order within {time.monotonic() - begin:.1f} s")


@pytest.mark.fault(row=24)
def test_without_its_recorder_the_robot_goes_on_and_another_goes_on_in_the_bag(demo, tmp_path, record_property):
    out = tmp_path / "run"
    process = demo("--duration", 8, "--out", out, "--json", tmp_path / "report.json")
    until(lambda: any(called(Path(f"/proc/{pid}")) == STANDS_BY for pid in children(process.pid)), "one that stands by")
    until_recorded(out, 100)
    os.kill(next(pid for pid, line in children(process.pid).items() if "recorder_node" in line), signal.SIGKILL)
    assert process.wait(120) in (0, 1)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["ended_early"] == {}
    assert found["recorder_restarts"] == 1
    assert [f["count"] for f in found["faults"] if f["code"] == "recorder_stopped"] == [1]
    assert sorted(p.name for p in (out / "bag").iterdir()) == ["bag_0.mcap", "bag_1.mcap"]
    before, after = ([m.publish_ns for m in McapTail(part_of(out / "bag", k), ["mbrl/command"]).read()] for k in range(2))
    gap = 1e-9 * (after[0] - before[-1])
    assert 0 < gap < 1.0
    episodes = load_episodes(out / "bag", robot.load(out / "robot.yaml"))
    assert sum(e.duration for e in episodes) > 8 - 2, "all but the gap is read as one bag"
    record_property("measured", f"recorder: one that stands by takes over, {gap:.1f} s are not recorded, in the same bag")


@pytest.mark.fault(row=38)
def test_a_run_needs_nobody_who_reads_what_it_says(demo, tmp_path, record_property):
    """Its screen is a pipe that is full from the start, is never read, and breaks in mid-run; then it has something to say."""
    out = tmp_path / "run"
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write, b"." * 4096):
            pass
    os.set_blocking(write, True)
    process = demo("--duration", 8, "--out", out, output=write)
    os.close(write)
    until_recorded(out, 100)
    os.close(read)
    os.kill(trainers(process)[0], signal.SIGKILL)
    assert process.wait(120) in (0, 1)
    assert without_its_trainer(out / "report.json")["cadence"]["ticks"] >= 8 * 50 - 5
    record_property("measured", "mbrl's output never read, then its reader gone: the run went on to its end and told all in its report")
