"""Refits as lines of JSON: anybody can read them, while they are written too, and nobody reads them twice."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mbrl_control.training.refit_lines import NAME, RefitLines, append_line
from mbrl_control.training.trainer import Refit


def note(folder, version, score=0.5):
    append_line(folder, Refit(version, 0.1, 10, score, math.nan, 2.0, {"epochs": np.float64(3)}), 1.0)


def test_lines_are_json_that_anybody_can_read(tmp_path):
    for score in (0.5, math.nan, math.inf):
        note(tmp_path, 1, score)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / NAME).read_text().splitlines()]
    assert [r["score"] for r in rows] == [0.5, None, None]
    assert rows[0]["figures"] == {"epochs": 3.0}


def test_what_comes_is_read_once(tmp_path):
    lines = RefitLines(tmp_path / "later")
    assert lines.read() == []
    (tmp_path / "later").mkdir()
    note(tmp_path / "later", 1)
    assert [row["version"] for row in lines.read()] == [1]
    assert lines.read() == []
    for version in (2, 3):
        note(tmp_path / "later", version)
    assert [row["version"] for row in lines.read()] == [2, 3]


def test_half_a_line_is_waited_for_and_what_is_none_left_out(tmp_path):
    note(tmp_path, 1)
    whole = (tmp_path / NAME).read_bytes()
    lines = RefitLines(tmp_path)
    (tmp_path / NAME).write_bytes(b"\xff{\n[1]\n" + whole[:20])
    assert lines.read() == []
    with (tmp_path / NAME).open("ab") as file:
        file.write(whole[20:])
    assert [row["version"] for row in lines.read()] == [1]
