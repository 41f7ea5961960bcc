"""A timed run ends after its time, whatever becomes of its recording."""

from __future__ import annotations

import types

import pytest

from mbrl_control import robot
from mbrl_control.runtime.fit_check import Fit
from mbrl_control.stack import live_run
from mbrl_control.stack.live_run import LiveSettings, Prepared
from mbrl_control.stack.run_log import RunLog
from mbrl_control.stack.run_span import LAG_S, RunSpan


def test_the_recording_says_when_a_run_is_over_and_the_clock_when_the_recording_stands_still():
    span = RunSpan(10.0)
    assert not span.over(None, 1000.0)
    assert not span.over(0.5, 1030.0)  # the first command was seen now
    assert not span.over(9.99, 1030.0 + 9.5 + LAG_S)
    assert span.over(10.0, 1039.5)
    assert not span.over(3.0, 1030.0 + 9.99 + LAG_S)
    assert span.over(3.0, 1030.0 + 10.01 + LAG_S)


class Clock:
    """Stands for the module `time`: to sleep is to be later."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        assert self.now < 1000.0, "the run does not end"


class Group:
    """Processes of which the recorder always ends at once."""

    def __init__(self, nodes, run_dir):
        self.ended = {}

    def start(self):
        self.ended = {"recorder": 1}

    def dead(self):
        return self.ended

    def restart(self, name, parameters):
        pass

    def runs(self, name):
        return name not in ("recorder", "standby", "reserve")

    def succeed(self, name, by):
        return False

    def kill(self, name):
        pass

    def pulse(self, name):
        return None

    def stop(self):
        pass

    def last_words(self, name):
        return ""


class Reader:
    """A recording that ends a second after the first command."""

    def __init__(self, spec, run_dir):
        self.log = RunLog(time=[0.0, 1.0])

    def poll(self):
        return self.log


def test_a_run_ends_in_time_when_its_recorder_was_given_up(tmp_path, monkeypatch):
    clock, told = Clock(), []
    machine = types.SimpleNamespace(start=lambda: None, stop=lambda: None)
    for name, stand_in in {"time": clock, "Processes": Group, "RunReader": Reader, "beside_ticks": lambda *_: machine,
                           "wait_for": lambda *_: None, "finish": lambda *given: given}.items():
        monkeypatch.setattr(live_run, name, stand_in)
    ready = Prepared(robot.load("cartpole"), Fit("icem", 50.0, 3, 0.016, 0.001, 0.002))
    given = live_run.run(LiveSettings("cartpole", tmp_path, 300.0), "test", tell=told.append, prepared=ready)
    assert any("stays down" in sentence for sentence in told)
    wall_s, extra = given[4], given[7]
    assert wall_s == pytest.approx(300.0 + LAG_S, abs=1.0)
    assert extra["ended_early"] == {}
    assert not extra["interrupted"]


def test_every_recorder_of_a_run_keeps_as_much(tmp_path):
    recorders = [node for node in live_run.nodes(LiveSettings("cartpole", tmp_path, 300.0, keep_mb=512)) if "record" in node.module]
    assert [node.name for node in recorders] == ["recorder", "standby", "reserve"]
    assert all(node.parameters["keep_mb"] == "512" for node in recorders)
