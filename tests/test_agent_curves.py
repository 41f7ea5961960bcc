"""Learning curves beside each other: which runs are of one kind, their mean, the table and the picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import agent_curves

from mbrl_control.errors import UserError


def result(folder, name, seed, rows, **options):
    path = folder / name
    path.write_text(json.dumps({"agent": "dreamer", "task": "line", "seed": seed, "repeat": 2, "options": {"version": "v3"} | options,
                                "eval_returns": [[step, mean, 0.0] for step, mean in rows]}))
    return agent_curves.load(path)


@pytest.fixture
def curves(tmp_path):
    return [result(tmp_path, "b", 1, [(10, 3.0), (20, 5.0), (30, 9.0)]), result(tmp_path, "a", 0, [(10, 1.0), (20, 2.0)]),
            result(tmp_path, "c", 0, [(10, 7.0)], version="v1")]


def test_runs_that_differ_in_the_seed_alone_are_one_kind(curves):
    found = agent_curves.kinds(curves)
    assert {label: [c.seed for c in some] for label, some in found.items()} == {"version v3": [0, 1], "version v1": [0]}
    assert list(agent_curves.kinds(curves[:1])) == ["dreamer"]


def test_a_mean_goes_as_far_as_all_seeds_have_come(curves):
    step, mean = agent_curves.mean_of(curves[:2])
    assert step.tolist() == [10, 20]
    assert mean.tolist() == [2.0, 3.5]


def test_the_table(curves):
    assert agent_curves.table(agent_curves.kinds(curves), 10) == [
        "| steps | 10 | 20 | 30 |", "| --- | --- | --- | --- |", "| version v3, seed 0 | 1 | 2 |  |", "| version v3, seed 1 | 3 | 5 | 9 |",
        "| version v1, seed 0 | 7 |  |  |", "| version v3, mean of 2 | 2 | 4 |  |"]


def test_the_picture_and_what_is_no_result(curves, tmp_path):
    agent_curves.draw(agent_curves.kinds(curves), [(10, 5)], "curves", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "other").write_text("{}")
    with pytest.raises(UserError, match="other: no result of `mbrl agent`"):
        agent_curves.load(tmp_path / "other")
