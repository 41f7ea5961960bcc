"""The cadence benchmark: its tick on a clock of the test, its figures by hand, and all of it as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import carts
import numpy as np
import pytest
import waiting
import yaml
from typer.testing import CliRunner

from mbrl_control import cli, robot
from mbrl_control.commands import bench
from mbrl_control.errors import UserError
from mbrl_control.planning.plan import Plan, Verdict
from mbrl_control.runtime import cadence
from mbrl_control.runtime.faults import Mode
from mbrl_control.stack import bench_plant, cadence_bench, cadence_load, cadence_tick
from mbrl_control.stack.cadence_bench import Settings

until = partial(waiting.until, timeout_s=120.0, pause_s=0.05)

SMALL = carts.CART + """
name: small
plan_hz: 25
model: {members: 2, hidden: [8]}
planner: {horizon: 6, candidates: 24, iterations: 2}
trainer: {updates: 20}
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


class Clock:
    """Time that goes on by 1 µs a look, by sleeps, and by `pass_by`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        self.now += 1e-6
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    pass_by = sleep


class Planner:
    """Answers at the second tick after every request, but for those asked at ticks in `silent`."""

    def __init__(self, spec, silent=()):
        self.spec, self.silent, self.waiting, self.tick, self.now = spec, silent, [], 0, 0.0

    def send(self, request):
        if self.tick not in self.silent:
            self.waiting.append((self.tick + 2, request))

    def receive(self, now):
        if now > self.now:
            self.now, self.tick = now, self.tick + 1
        due = [r for at, r in self.waiting if at == self.tick]
        self.waiting = [(at, r) for at, r in self.waiting if at > self.tick]
        if not due:
            return None
        rows = np.zeros((self.spec.planner.horizon, 1))
        return Plan(due[0].seq, due[0].apply_time, self.spec.model_dt, rows, 1.0, Verdict.MET, 7, 2, 0.03, "nominal", rows[None])


class SlowPlant:
    """Holds the tick up for a time in chosen steps."""

    def __init__(self, clock, slow):
        self.clock, self.slow, self.steps = clock, slow, 0

    def reset(self, rng):
        pass

    def state(self):
        return np.zeros(2)

    def step(self, command, dt):
        self.steps += 1
        self.clock.pass_by(self.slow.get(self.steps, 0.0))


@pytest.fixture
def ticks(small, monkeypatch):
    def make(slow=None, silent=()):
        clock = Clock()
        monkeypatch.setattr(cadence, "time", clock)
        monkeypatch.setattr(cadence_tick, "time", clock)
        spec = cadence_bench.robot_at(str(small), 50.0, small.parent / "at" / "robot.yaml")
        made = cadence_tick.Ticks(spec, SlowPlant(clock, slow or {}), Planner(spec, silent), seed=0)
        made.begin()
        return made

    return make


def test_ticks_missed_are_counted_with_their_time(ticks):
    # after tick 10 the plant holds on for 70 ms: tick 11 is 50 ms late and takes the place of itself and two more
    made = ticks({10: 0.07})
    for _ in range(20):
        made.tick()
    found = made.result()
    assert (found["cadence"]["ticks"], found["cadence"]["missed"]) == (20, 2)
    # the deadline of the first tick is 0, that of the eleventh 0.2 s
    assert [(round(at, 4), count) for at, count in found["cadence"]["missed_at_s"]] == [(0.2, 2)]
    assert found["cadence"]["missed_at"] == [(pytest.approx(made.began + 0.2), pytest.approx(0.05, abs=1e-4))]
    assert found["cadence"]["lateness_us"]["max"] == pytest.approx(50_000, abs=100)
    numbers = dict(zip(cadence_tick.PROGRESS, made.progress(), strict=True))
    assert (numbers["ticks"], numbers["missed"]) == (20, 2)
    assert numbers["worst_us"] == pytest.approx(50_000, abs=100)
    assert made.progress()[2] == 0  # since the last look
    json.dumps(found)


def test_plans_are_noted_and_periods_without_one_counted(ticks):
    made = ticks(silent=(9, 11, 21))
    for _ in range(40):
        made.tick()
    # asked at every second tick (1, 3, …, 39), answered two ticks later, but not at 9, 11 and 21, nor after the end (39)
    assert len(made.link.notes()) == made.link.count == 20 - 3 - 1
    assert {(n.verdict, n.latency_s, n.version, n.winner) for n in made.link.notes()} == {(Verdict.MET, 0.03, 7, "nominal")}
    assert made.link.version == 7
    assert made.result()["reused"] == 3
    assert made.modes[Mode.ACTIVE] > 30
    assert sum(made.modes.values()) == 40


def test_a_bad_snapshot_that_was_used_breaks_the_promise():
    runs = [{**part(), "swaps": {"accepted_bad": 1}}]
    assert not cadence_bench.whole(Settings("cartpole", Path("x"), 1.0, (50.0,)), "test", runs, 1.0, False)["kept"]


def test_the_trainers_share_of_the_time():
    refits = [{"version": v, "seconds": s, "transitions": 50, "wall_s": w} for v, s, w in ((1, 9.0, 10.0), (0, 1.0, 11.5), (2, 2.0, 14.0))]
    found = cadence_bench.trainer_part(refits)
    assert (found["refits"], found["published"], found["rejected"], found["transitions"]) == (3, 2, 1, 50)
    assert found["busy"] == pytest.approx(3.0 / 4.0)
    assert cadence_bench.trainer_part([])["busy"] is None


def part(missed=0, pinned=True, plans=5, trainer_ended=False):
    return {"pinned": pinned, "cadence": {"missed": missed}, "planner": {"plans": plans}, "trainer": {"ended_early": trainer_ended},
            "swaps": {}}


@pytest.mark.parametrize(("pinning", "runs", "interrupted", "kept"), [
    ((True,), [part()], False, True),
    ((True,), [part(1)], False, False),
    ((True,), [part()], True, False),
    ((True,), [], True, False),
    ((True,), [part(plans=0)], False, False),
    ((True,), [part(trainer_ended=True)], False, False),
    ((True, False), [part(), part(3, pinned=False)], False, True),
    ((True, False), [part(1), part(0, pinned=False)], False, False),
    ((True, False), [part()], False, False),
    ((False,), [part(3, pinned=False)], False, False),
    ((False,), [part(0, pinned=False)], False, True),
])
def test_when_the_cadence_was_kept(pinning, runs, interrupted, kept):
    settings = Settings("cartpole", Path("x"), 1.0, (50.0,), pinning)
    found = cadence_bench.whole(settings, "test", runs, 1.0, interrupted)
    assert found["kept"] is kept
    assert found["runs"] == runs
    assert not runs or found["cadence"] == runs[0]["cadence"]


def test_a_robot_at_another_rate(tmp_path, small):
    spec = cadence_bench.robot_at(str(small), 200.0, tmp_path / "a" / "robot.yaml")
    assert (spec.rate_hz, spec.plan_hz, spec.trainer.explore_s) == (200, 25, 0)
    assert spec.hash == robot.load(small).hash
    assert cadence_bench.robot_at("cartpole", 40.0, tmp_path / "b" / "robot.yaml").plan_hz == 40
    with pytest.raises(UserError, match=r"robot 'cartpole' cannot run at 10 Hz: .*model_dt"):
        cadence_bench.robot_at("cartpole", 10.0, tmp_path / "c" / "robot.yaml")


def test_the_twin_keeps_time_at_ticks_that_are_no_whole_number_of_its_steps(tmp_path):
    spec = cadence_bench.robot_at("cartpole", 200.0, tmp_path / "robot.yaml")
    fast, exact = bench_plant.make(spec), bench_plant.make(spec)
    for plant in (fast, exact):
        plant.reset(np.random.default_rng(1))
    for _ in range(100):
        fast.step(np.array([0.5]), 1 / 200)
    for _ in range(50):
        exact.step(np.array([0.5]), 0.01)
    assert fast.state() == pytest.approx(exact.state(), abs=1e-12)


def test_the_stand_in_follows_its_commands_and_stays_bounded(small):
    plant = bench_plant.make(robot.load(small))
    plant.reset(np.random.default_rng(0))
    for _ in range(4000):
        plant.step(np.array([1.0]), 0.02)
    x, v = plant.state()
    assert v != pytest.approx(0.0, abs=0.01)
    assert x == pytest.approx(bench_plant.PULL_S * v, rel=1e-3)  # where the pull undoes the rate


def test_data_is_seeded_within_the_limits_and_survives_the_file(tmp_path, small):
    spec = robot.load(small)
    one, two, other = (bench_plant.excited(spec, bench_plant.make(spec), 12.0, seed) for seed in (0, 0, 1))
    assert sum(e.duration for e in one) >= 12.0
    assert all(np.array_equal(a.state, b.state) and np.array_equal(a.action, b.action) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0].action, other[0].action)
    assert max(np.abs(e.action).max() for e in one) <= 1
    cadence_load.save_episodes(one, tmp_path / "data.npz")
    assert all(np.array_equal(a.state, b.state) for a, b in zip(one, cadence_load.load_episodes(tmp_path / "data.npz"), strict=True))


def test_the_tick_needs_no_torch():
    code = "import sys\nimport mbrl_control.stack.cadence_tick, mbrl_sim.plants\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def below(folder):
    """Pids of processes that name a folder."""
    out = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (entry / "cmdline").read_text() and int(entry.name) != os.getpid():
                out.append(int(entry.name))
        except OSError:
            continue
    return out


@pytest.mark.slow
def test_real_processes_bound_and_not_with_swaps(tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "kept"
    done = subprocess.run([sys.executable, "-m", "mbrl_control.cli", "bench", "cadence", "--minutes", "0.06", "--rate", "50", "--robot",
                           str(small), "--swap-every", "0.5", "--bad-every", "3", "--compare-pinning", "--out", str(out), "--json",
                           "report.json"],
                          capture_output=True, text=True, check=False, timeout=400)
    found = json.loads((tmp_path / "report.json").read_text())
    assert done.returncode == (0 if found["kept"] else 1), done.stdout + done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert [(run["rate_hz"], run["pinned"]) for run in found["runs"]] == [(50, True), (50, False)]
    assert found["cadence"] == found["runs"][0]["cadence"]
    for run in found["runs"]:
        assert 180 <= run["cadence"]["ticks"] + run["cadence"]["missed"] < 180 + 50
        assert set(run["cadence"]["lateness_us"]) == {"p50", "p99", "max"}
        machine = run["cadence"]["machine"]
        assert set(machine) == {"freezes", "max_ms", "total_ms", "missed_in_freezes", "priority", "watched_s"}
        assert machine["watched_s"] > 3.6
        assert 0 <= machine["missed_in_freezes"] <= run["cadence"]["missed"]
        planner = run["planner"]
        assert planner["plans"] == planner["met"] + planner["early_stop"] + planner["fallback"] > 10
        assert run["swaps"]["published"] >= 3
        assert run["swaps"]["offered_bad"] == run["swaps"]["refused_bad"] >= 1
        assert run["swaps"]["accepted_bad"] == 0
        assert run["swaps"]["accepted"] >= 1
        assert run["trainer"]["refits"] > 3
        assert not run["trainer"]["ended_early"]
        assert sum(run["modes"].values()) == run["cadence"]["ticks"]
    assert (out / "50hz-pinned" / "planner.log").exists()
    assert below(out) == []


def test_what_is_said_of_a_run_fits_into_100_columns(capsys):
    machine = {"freezes": 3, "max_ms": 48.0, "missed_in_freezes": 12, "priority": False}
    run = {"rate_hz": 200.0, "pinned": False, "refused": [], "cadence": {"missed": 12, "machine": machine}, "planner": {"plans": 1},
           "swaps": {}, "trainer": {"ended_early": False}}
    bench.say({"runs": [run], "interrupted": False})
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    assert " ".join(said.split()) == ("200 Hz, cores free: 12 missed ticks, 12 of them while the machine itself stood still "
                                      "(longest freeze 48 ms; a hint only: no real-time priority)")


@pytest.mark.slow
def test_ctrl_c_ends_with_a_report_of_what_there_is_and_leaves_nothing(tmp_path, small):
    out = tmp_path / "kept"
    process = subprocess.Popen([sys.executable, "-m", "mbrl_control.cli", "bench", "cadence", "--minutes", "60", "--rates", "50,100",
                                "--robot", str(small), "--swap-every", "0.5", "--out", str(out), "--json", str(tmp_path / "report.json")],
                               stdout=subprocess.PIPE, text=True)
    until(lambda: len(list((out / "50hz-pinned" / "store").glob("v*"))) > 1, "a swap")  # so the ticks have begun
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: the figures are of what there is" in said
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["interrupted"] is True
    assert [run["rate_hz"] for run in found["runs"]] == [50]
    assert found["cadence"]["ticks"] > 10
    assert below(out) == []


def test_a_trainer_that_cannot_begin_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    data = yaml.safe_load(SMALL) | {"model": {"kind": "casadi", "options": {"system": "none"}}}
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.application(), ["bench", "cadence", "--robot", "known.yaml", "--json", "r.json"])
    assert isinstance(result.exception, UserError), result.exception
    assert sorted(p.name for p in tmp_path.iterdir()) == ["known.yaml"]


@pytest.mark.parametrize(("arguments", "named"), [
    (["--robot", "nothing"], "neither a shipped robot nor a file"),
    (["--rates", "fast"], "--rates 'fast' is not a list of numbers"),
    (["--rates", "50,50"], "from 1 to 1000 Hz, and stand there once"),
    (["--rates", "0"], "from 1 to 1000 Hz"),
    (["--rates", "nan"], "from 1 to 1000 Hz"),
    (["--rate", "5"], "cannot run at 5 Hz"),
    (["--minutes", "0"], "minutes"),
    (["--swap-every", "0"], "swap-every"),
    (["--bad-every", "-1"], "bad-every"),
    (["--out", "."], "is not an empty folder"),
])
def test_bad_input(tmp_path, monkeypatch, arguments, named):
    (tmp_path / "mine").write_text("x")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.application(), ["bench", "cadence", *arguments])
    assert result.exit_code != 0
    assert named in result.output + str(result.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_the_time_of_plans_by_iterations(tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.application(), ["bench", "plan", "--robot", str(small), "--json", "plan.json"])
    found = json.loads(Path("plan.json").read_text())
    assert result.exit_code == (0 if found["keeps_up"] else 1)
    assert [row["iterations"] for row in found["plans"]] == [1, 2]
    assert found["fit"]["allowed_s"] == pytest.approx(0.8 / 25)
    assert "iterations" in result.output
