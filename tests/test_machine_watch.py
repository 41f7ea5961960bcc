"""What reports and commands say of the machine's freezes, and that a run does without their watcher."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mbrl_control import cli
from mbrl_control.commands import bench
from mbrl_control.commands.show import missed_sentence
from mbrl_control.errors import UserError
from mbrl_control.runtime.freezes import Seen
from mbrl_control.stack import machine_bench, machine_watch
from mbrl_control.stack.machine_watch import MachineWatch, beside_ticks, freeze_part

SEEN = Seen(60.0, 200.0, 2.0, True, 2, 47.0, 54.0, [(10.0, 10.007), (20.0, 20.047)])


def test_the_reports_part():
    cadence = {"rate_hz": 50.0, "missed": 3, "missed_at": [[20.001, 0.046], [30.0, 0.021]]}
    assert freeze_part(SEEN, cadence) == {"freezes": 2, "max_ms": 47.0, "total_ms": 54.0, "missed_in_freezes": 2, "priority": True,
                                          "watched_s": 60.0}
    assert freeze_part(None, cadence) is None
    lost = freeze_part(SEEN, {"rate_hz": 50.0, "missed": None})  # the tick was killed before it could leave its figures
    assert lost is not None
    assert lost["missed_in_freezes"] is None


def cadence(missed, its, freezes=1, priority=True):
    return {"missed": missed, "machine": {"missed_in_freezes": its, "freezes": freezes, "max_ms": 47.2, "priority": priority}}


@pytest.mark.parametrize(("figures", "sentence"), [
    (cadence(1, 1), "1 missed tick, 1 of it while the machine itself stood still (longest freeze 47 ms)"),
    (cadence(3, 2), "3 missed ticks, 2 of them while the machine itself stood still (longest freeze 47 ms)"),
    (cadence(2, 0), "2 missed ticks, none of them while the machine itself stood still (longest freeze 47 ms)"),
    (cadence(1, 0, freezes=0), "1 missed tick, none of it while the machine itself stood still (it did not freeze)"),
    (cadence(1, 1, priority=False),
     "1 missed tick, 1 of it while the machine itself stood still (longest freeze 47 ms; a hint only: no real-time priority)"),
    (cadence(0, 0), None),
    (cadence(1, None), None),
    ({"missed": 1, "machine": None}, None),
    ({"missed": 1}, None),
    ({"missed": None, "machine": cadence(1, 1)["machine"]}, None),
])
def test_the_line_about_missed_ticks(figures, sentence):
    assert missed_sentence(figures) == sentence


def test_a_watcher_is_no_slower_than_the_tick(tmp_path):
    assert beside_ticks(tmp_path, tmp_path, 50.0)._command[-5:-3] == ["200.0", "--threshold"]
    assert beside_ticks(tmp_path, tmp_path, 500.0)._command[-5:-3] == ["500.0", "--threshold"]


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_watcher_from_start_to_end(tmp_path):
    watch = beside_ticks(tmp_path, tmp_path / "logs", 50.0)
    assert not watch.running
    assert watch.stop() is None
    watch.start()
    wait_for(tmp_path / "freezes.json")
    assert watch.running
    seen = watch.stop()
    assert seen is not None
    assert seen.freezes == len(seen.intervals)
    assert not watch.running
    assert (tmp_path / "logs" / "freezes.log").read_text() == ""


def test_a_watcher_that_died_tells_nothing(tmp_path):
    watch = beside_ticks(tmp_path, tmp_path, 50.0)
    watch.start()
    wait_for(tmp_path / "freezes.json")
    os.kill(watch._process.pid, signal.SIGKILL)
    watch._process.wait()
    assert watch.stop() is None


def test_a_run_goes_on_without_a_watcher_that_cannot_start(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    watch = MachineWatch(tmp_path / "freezes.json", tmp_path / "file" / "freezes.log", 200.0)
    watch.start()  # its log cannot be written
    assert watch.stop() is None
    monkeypatch.setattr(machine_watch.sys, "executable", str(tmp_path / "none"))
    watch = beside_ticks(tmp_path, tmp_path, 50.0)
    watch.start()
    assert (watch.running, watch.stop()) == (False, None)


def found_in(intervals_ms, **changes):
    seen = Seen(60.0, 1000.0, 1.0, True, len(intervals_ms), max(intervals_ms, default=0.0), sum(intervals_ms),
                [(float(n), n + ms / 1e3) for n, ms in enumerate(intervals_ms)])
    return dataclasses.replace(seen, **changes)


@pytest.mark.parametrize(("intervals_ms", "freezes", "held"), [
    ([], [0, 0, 0, 0], [True, True, True, True]),  # none above 1 ms, so none of 2 ms, noticed 1 ms late, was overlooked
    ([1.5], [0, 0, 0, 1], [True, True, True, False]),
    ([1.5, 3.0, 8.9], [0, 0, 1, 3], [True, True, False, False]),
    ([9.5, 47.0], [1, 2, 2, 2], [False] * 4),
])
def test_the_rates_a_machine_holds(intervals_ms, freezes, held):
    found = machine_bench.rates(found_in(intervals_ms))
    assert [rate.rate_hz for rate in found] == [50, 100, 200, 500]
    assert [rate.freezes for rate in found] == freezes
    assert [rate.held for rate in found] == held
    assert found[0].share == pytest.approx((max([1.0, *intervals_ms]) + 1) / 20)


@pytest.mark.parametrize(("seen", "said"), [
    (found_in([]), "in 60 s this machine never stood still for more than 1 ms: it held 50, 100, 200, 500 Hz by itself"),
    (found_in([8.9]), "in 60 s this machine stood still 1 time, 8.9 ms at the longest: it held 50, 100 Hz by itself"),
    (found_in([9.5, 47.0]), "in 60 s this machine stood still 2 times, 47.0 ms at the longest: it did not hold even 50 Hz by itself"),
])
def test_the_verdict(seen, said):
    assert bench.machine_verdict(seen, machine_bench.rates(seen)) == said
    doubted = dataclasses.replace(seen, priority=False)
    assert bench.machine_verdict(doubted, machine_bench.rates(doubted)).startswith(said + "\nnote: these are hints only")


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.application(), ["bench", "machine", "--seconds", "1", "--json", "m.json"])
    assert result.exit_code == 0, result.output
    assert "this machine" in result.output
    found = json.loads(Path("m.json").read_text())
    assert found["watched_s"] == pytest.approx(1.0, abs=0.9)
    assert [(r["rate_hz"], set(r)) for r in found["rates"]] == [(r, {"rate_hz", "freezes", "share", "held"}) for r in (50, 100, 200, 500)]
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_the_command_says_when_it_cannot_watch(monkeypatch):
    monkeypatch.setattr(machine_watch.sys, "executable", "/none")
    with pytest.raises(UserError, match="could not be watched"):
        machine_bench.measure(1.0)
