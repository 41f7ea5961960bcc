"""The loop of a learning agent: what it counts, when it evaluates and saves, and that an interruption costs nothing."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from agent_fakes import Line, Points, Walk
from typer.testing import CliRunner

from mbrl_control import cli
from mbrl_control.agents import sac
from mbrl_control.agents.base import Saved
from mbrl_control.commands import agent as command
from mbrl_control.data.turn import Turn
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.stack import agent_checkpoint, agent_curve, agent_run, tasks

WHO = {"agent": "walk", "task": "line", "seed": 3, "repeat": 1, "options": {}}


def run_of(tmp_path, steps=100, repeat=1, told=lambda _: None, **settings):
    given = agent_run.RunSettings(steps, 3, tmp_path, WHO, **{"evaluate_every": 20, "episodes": 2, "save_every": 25, **settings})
    return agent_run.AgentRun(given, Walk(3), Line(repeat=repeat), Line(repeat=repeat), Points(), told)


def test_every_decision_is_told_once_and_evaluations_stay_apart(tmp_path):
    run = run_of(tmp_path)
    assert run.run()
    assert (run.progress.steps, run.agent.learnt, len(run.agent.told), run.progress.episodes) == (100, 100, 100, 10)
    assert [row[0] for row in run.progress.rows] == [20, 40, 60, 80, 100]
    assert len(set(run.task.seeds)) == 10
    assert set(run.trial.seeds).isdisjoint(run.task.seeds)
    assert run.trial.seeds == run.trial.seeds[:2] * 5  # the same starts each time


def test_an_evaluation_is_the_return_of_the_best_decisions(tmp_path):
    run = run_of(tmp_path)
    run.run()
    returns = []
    for number in range(2):
        at, total = float(Line().reset(agent_run.seed_of(3, agent_run.EVALUATION, number))[0]), 0.0
        for _ in range(10):
            at += 0.5 * min(1.0, max(-1.0, -2 * at))
            total -= abs(at)
        returns.append(total)
    for _, mean, deviation in run.progress.rows:
        assert mean == pytest.approx(np.mean(returns), abs=1e-5)
        assert deviation == pytest.approx(np.std(returns), abs=1e-5)


def test_steps_of_repeated_decisions_count(tmp_path):
    run = run_of(tmp_path, repeat=4)
    run.run()
    assert (run.progress.steps, run.agent.learnt) == (100, 25)
    assert [row[0] for row in run.progress.rows] == [20, 40, 60, 80, 100]


def test_curves_hold_returns_figures_and_evaluations(tmp_path):
    run = run_of(tmp_path, steps=500)
    run.run()
    points = run.writer.points
    assert ("learning/loss", np.mean(np.arange(1, 501)), 500) in points
    assert len([p for p in points if p[0] == "training/return"]) == 50
    assert [p[2] for p in points if p[0] == "evaluation/return"] == list(range(20, 501, 20))


def test_a_run_killed_after_a_checkpoint_goes_on_with_the_same_bits(tmp_path):
    whole = run_of(tmp_path / "whole")
    whole.run()
    killed = run_of(tmp_path / "killed")

    def kill(progress):
        if progress.steps == 77:
            raise MemoryError

    killed.told = kill
    with pytest.raises(MemoryError):
        killed.run()
    again = run_of(tmp_path / "killed")
    again.resume()
    assert again.progress.steps == 60  # 30 and 60: the first ends of an episode 25 steps apart
    assert again.run()
    assert again.agent.told == whole.agent.told
    assert again.progress.rows == whole.progress.rows
    assert [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()] == ["000000000100"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_order_with_a_checkpoint(tmp_path, number):
    run, before = run_of(tmp_path), signal.getsignal(number)

    def tell(progress):
        if progress.steps == 33:
            os.kill(os.getpid(), number)

    run.told = tell
    assert not run.run()
    assert signal.getsignal(number) is before
    again = run_of(tmp_path)
    again.resume()
    assert (again.progress.steps, again.agent.told) == (33, run.agent.told)
    assert again.run()
    assert again.progress.steps == 100


def test_asked_twice_it_ends_at_once(tmp_path):
    run = run_of(tmp_path)
    run.told = lambda _: os.kill(os.getpid(), signal.SIGINT)
    run.task.on_step = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.run()


def test_an_evaluation_that_was_interrupted_is_made_up_for(tmp_path):
    run = run_of(tmp_path)
    asked = []
    run.trial.on_step = lambda: asked or (asked.append(1), run.stop())
    assert not run.run()
    assert (run.progress.steps, run.progress.rows) == (20, [])
    again = run_of(tmp_path)
    again.resume()
    again.run()
    assert [row[0] for row in again.progress.rows] == [21, 40, 60, 80, 100]


def test_another_run_is_not_gone_on_with(tmp_path):
    run_of(tmp_path).run()
    with pytest.raises(UserError, match="begun with seed = 3, not 4"):
        agent_checkpoint.read(tmp_path, {**WHO, "seed": 4})
    with pytest.raises(UserError, match="no checkpoint"):
        agent_checkpoint.read(tmp_path / "elsewhere", WHO)


def test_what_is_not_finite_is_not_saved(tmp_path):
    progress = agent_checkpoint.Progress(steps=5)
    with pytest.raises(SnapshotError, match="not finite"):
        agent_checkpoint.write(tmp_path, WHO, progress, Saved({"weight": np.array([np.nan])}))
    assert not agent_checkpoint.exists(tmp_path)


def test_a_result_row_has_its_keys_and_a_picture(tmp_path):
    progress = agent_checkpoint.Progress(100, 5, [(50, 1.0, 0.5), (100, 2.0, 0.25)], 7.5)
    row = json.loads(json.dumps(agent_curve.result(WHO, progress, "mbrl agent walk", 1)))
    assert {k: row[k] for k in ("agent", "task", "seed", "steps", "eval_returns", "wall_s")} == {
        "agent": "walk", "task": "line", "seed": 3, "steps": 100, "eval_returns": [[50, 1.0, 0.5], [100, 2.0, 0.25]], "wall_s": 7.5}
    assert row["machine"]["threads"] == 1
    assert {"python", "torch", "numpy"} <= set(row["versions"])
    agent_curve.draw(row, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_options_are_read_as_json_or_else_as_words():
    assert command.parse_options(["a=1", "b=0.5", "c=[2, 3]", "d=true", "e=relu", "f=x=y"]) == {
        "a": 1, "b": 0.5, "c": [2, 3], "d": True, "e": "relu", "f": "x=y"}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(UserError, match="KEY=VALUE"):
            command.parse_options(wrong)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """`mbrl agent sac` on the line, in an empty folder; gives exit status and the exception if it is an error for the user."""
    made = []

    class Entry:
        name = "gymnasium"

        def load(self):
            return lambda rest, name, repeat: made.append(Line(repeat=repeat)) or made[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "entry_points", lambda group: [Entry()])
    monkeypatch.setattr(command, "_writer", lambda run_dir: Points())
    few = ["--option", "hidden=[8]", "--option", "random_steps=20", "--option", "batch=8", "--evaluate-every", "20", "--episodes", "2"]

    def run(*arguments):
        result = CliRunner().invoke(cli.application(), ["agent", "sac", "--task", "line", *few, *map(str, arguments)])
        assert all(task.closed for task in made)
        return result.exit_code, result.exception

    return run


def test_the_program_learns_resumes_and_leaves_its_results(program, tmp_path):
    assert program("--steps", 40, "--json", "row.json")[0] == 0
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["agent"], row["task"], row["seed"], row["steps"], row["options"]["hidden"]) == ("sac", "line", 0, 40, [8])
    assert [step for step, *_ in row["eval_returns"]] == [20, 40]
    folder = tmp_path / "runs" / "sac-line-0"
    assert {p.name for p in folder.iterdir()} >= {"result.json", "curve.png", "checkpoints"}
    _, error = program("--steps", 80)
    assert isinstance(error, UserError)
    assert "go on with it by --resume" in str(error)
    assert program("--steps", 80, "--resume")[0] == 0
    longer = json.loads((folder / "result.json").read_text())
    assert longer["eval_returns"][:2] == row["eval_returns"]
    assert (longer["steps"], len(longer["eval_returns"])) == (80, 4)
    assert longer["wall_s"] > row["wall_s"]


def test_two_runs_cannot_share_a_folder(program, tmp_path):
    other = Turn(tmp_path / "shared")
    assert other.take()
    _, error = program("--steps", 40, "--out", "shared")
    assert isinstance(error, UserError)
    assert "another process is learning there" in str(error)
    assert not list((tmp_path / "shared").iterdir())
    other.close()
    assert program("--steps", 40, "--out", "shared")[0] == 0


def test_a_task_that_has_changed_under_its_name_is_not_gone_on_with(program, monkeypatch):
    plain = Line.__init__

    def having(contents):
        def build(line, limit=10, repeat=1):
            plain(line, limit, repeat)
            line.spec = replace(line.spec, contents=contents)
        monkeypatch.setattr(Line, "__init__", build)

    having("one")
    assert program("--steps", 40)[0] == 0
    having("two")
    _, error = program("--steps", 60, "--resume")
    assert isinstance(error, UserError)
    assert "signals, limits or cost of 'line' are others than when the run was begun" in str(error)
    having("one")
    assert program("--steps", 60, "--resume")[0] == 0


def test_a_run_from_before_contents_were_noted_is_gone_on_with(tmp_path):
    run_of(tmp_path).run()
    assert agent_checkpoint.read(tmp_path, {**WHO, agent_checkpoint.CONTENTS: "one"})[0].steps == 100


def test_a_tasks_own_settings_are_defaults_that_options_overrule(program, tmp_path, monkeypatch):
    monkeypatch.setattr(sac, "presets", lambda task: {"discount": 0.5, "batch": 7} if task == "line" else {}, raising=False)
    assert program("--steps", 20)[0] == 0
    options = json.loads((tmp_path / "runs" / "sac-line-0" / "result.json").read_text())["options"]
    assert (options["discount"], options["batch"]) == (0.5, 8)


def test_an_unknown_agent_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.application(), ["agent", "sack", "--task", "Pendulum-v1"])
    assert isinstance(result.exception, UserError)
    assert "agents.kind = 'sack' is not known" in str(result.exception)
    assert not list(tmp_path.iterdir())
