"""benchmarks/proposals.py: gains over the seeds that two variants share, and going on with a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from proposals import EQUAL, PLANNER, Result, equal, gain, load, summary


def result(variant, seed, value, candidates=32):
    return Result("cartpole", variant, seed, value, 20.0, 21.0, 0.0, 0.0, candidates)


def test_gains_are_paired_by_seed():
    # Seeds 1 to 3 are in both: 2, 4, 6 more on 100, 200, 300. Mean 4 on 200; deviation 2, so 2 / sqrt(3) on 200.
    base = [result(EQUAL, seed, 100.0 * seed, 33) for seed in (1, 2, 3, 4)]
    mine = [result("random", seed, 102.0 * seed) for seed in (0, 1, 2, 3)]
    assert gain(mine, base) == pytest.approx((2.0, 100 * 2 / 3**0.5 / 200))
    assert gain(mine[1:2], base) == (pytest.approx(2.0), None)
    assert gain(mine[:1], base) == (None, None)
    # A robot whose returns are negative gains by losing less.
    assert gain([result("random", 1, -90.0)], [result(EQUAL, 1, -100.0)])[0] == pytest.approx(10.0)


def test_a_row_for_each_number_of_candidates():
    rows = summary([result(EQUAL, 0, 100.0, 33), result("random", 0, 98.0), result("random", 1, 99.0)])
    assert [(r["variant"], r["candidates"], r["seeds"]) for r in rows] == [(EQUAL, 33, 1), ("random", 32, 2)]
    assert rows[1]["gain_percent"] == pytest.approx(-2.0)
    assert rows[1]["mean_ms"] == 21.0


def test_a_file_is_gone_on_with_or_told(tmp_path):
    file = tmp_path / "f.json"
    assert load(file, 10.0) == ([], 0.0)
    episode = {"robot": "cartpole", "variant": EQUAL, "seed": 3, "value": 1.0, "plan_ms": 2.0, "mean_ms": 3.0, "won": 0.0, "believed": 0.5,
               "candidates": 33}
    file.write_text(json.dumps({"seconds": 10.0, "planner": PLANNER, "wall_s": 7.0, "episodes": [episode]}))
    assert load(file, 10.0) == ([Result("cartpole", EQUAL, 3, 1.0, 2.0, 3.0, 0.0, 0.5, 33)], 7.0)
    for seconds, text in ((5.0, file.read_text()), (10.0, "no JSON"), (10.0, "{}")):
        file.write_text(text)
        with pytest.raises(SystemExit, match=r"f\.json: is no file that this call can go on with"):
            load(file, seconds)


def test_one_file_holds_one_equal_time():
    before = [result(EQUAL, 0, 100.0, 34), result("random", 0, 98.0)]
    assert [equal("cartpole", [], None), equal("cartpole", before, None), equal("acrobot", before, 40)] == [None, 34, 40]
    with pytest.raises(SystemExit, match="with 34 candidates, not 36"):
        equal("cartpole", before, 36)
