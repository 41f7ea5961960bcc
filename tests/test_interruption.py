"""Being asked to end: whatever is under way is done to its end first, and signals are as before afterwards."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from mbrl_control import robot
from mbrl_control.stack import live_run, lockstep, plants, report
from mbrl_control.stack.interruption import Interruption
from mbrl_control.stack.run_log import RunLog

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("how", SIGNALS)
def test_a_signal_is_noted_and_ends_the_work_at_the_next_point(how):
    done = []

    def work():
        with Interruption() as end:
            end.point()
            os.kill(os.getpid(), how)
            done.append(end.asked)
            end.point()
            done.append("too much")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [True]
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


@pytest.mark.parametrize("how", SIGNALS)
def test_a_lockstep_run_ends_between_ticks_with_a_log_that_a_report_can_be_made_of(tmp_path, monkeypatch, how):
    spec = robot.load("cartpole")
    made = lockstep.Lockstep(spec, plants.make("mujoco", spec), tmp_path, lockstep.Settings(3.0, 0))
    step = made.plant.step

    def step_and_be_told(*arguments):
        if len(made.log.time) == 30:
            os.kill(os.getpid(), how)
        return step(*arguments)

    monkeypatch.setattr(made.plant, "step", step_and_be_told)
    with pytest.raises(KeyboardInterrupt), Interruption() as end:
        made.run(point=end.point)
    assert {len(column) for column in (made.log.time, made.log.state, made.log.command, made.log.cost, made.log.ticks)} == {30}
    out = report.build(spec, made.log, command="", seed=0, wall_s=0.0, cadence={})
    assert out["episodes"][0]["return"] == pytest.approx(-np.sum(made.log.cost))


class Half:
    """Reads of a run: half a tick, then the other; between them a signal comes in the third."""

    def __init__(self, how):
        self.how, self.log, self.polls = how, RunLog(), 0

    def poll(self):
        self.polls += 1
        self.log.add(0.02 * self.polls, np.zeros(4), np.zeros(1), 0, 0)
        if self.polls == 3:
            os.kill(os.getpid(), self.how)
        self.log.cost.append(1.0)
        return self.log


@pytest.mark.parametrize("how", SIGNALS)
def test_a_live_run_reads_on_to_a_whole_tick_and_stops_its_processes_before_its_report(tmp_path, monkeypatch, how):
    half, did = Half(how), []
    group = SimpleNamespace(start=lambda: did.append("start"), stop=lambda: did.append("stop"), dead=dict, last_words=str)
    machine = SimpleNamespace(start=lambda: None, stop=lambda: None)
    upkeep = SimpleNamespace(look=lambda *_: {}, fault_parts=list, restarts=lambda _: 0)
    monkeypatch.setattr(live_run, "Processes", lambda *_: group)
    monkeypatch.setattr(live_run, "beside_ticks", lambda *_: machine)
    monkeypatch.setattr(live_run, "RunReader", lambda *_: half)
    monkeypatch.setattr(live_run, "Upkeep", lambda *_: upkeep)
    monkeypatch.setattr(live_run, "POLL_S", 0.0)
    monkeypatch.setattr(live_run, "finish", lambda *arguments: did.append("report") or arguments[7])
    (tmp_path / "bag").mkdir()
    settings = live_run.LiveSettings("cartpole", tmp_path, 60.0)
    out = live_run.run(settings, "", prepared=live_run.Prepared(robot.load("cartpole"), None))
    assert out["interrupted"] is True
    assert did == ["start", "stop", "report"]
    assert (half.polls, len(half.log.time), len(half.log.cost)) == (3, 3, 3)
