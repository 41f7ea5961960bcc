"""A small share of benchmarks/fuzz_files.py: only documented errors, no hang, no growth; and the judge sees those that are none."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import fuzz_files
from mutations import damage, damage_text, damage_tree

from mbrl_control.errors import DataError

COUNTS = {"snapshots": 150, "yaml": 100, "bags": 100, "mjcf": 5}
ROWS = {"snapshots": 17, "yaml": 29, "bags": 31, "mjcf": 30}


@pytest.mark.parametrize(("kind", "count"), [pytest.param(k, n, marks=pytest.mark.fault(row=ROWS[k])) for k, n in COUNTS.items()])
def test_damaged_files_are_read_or_refused_in_words(kind, count, record_property, monkeypatch):
    monkeypatch.setitem(fuzz_files.HANG_S, "mjcf", 12.0)  # other tests beside it: a child of its own for each file takes long to start
    out = fuzz_files.run_cases(kind, 0, count, seed=10)
    assert out.faults == []
    assert (out.cases, out.read + out.refused, out.hangs) == (count, count, 0)
    assert out.growth_mb < fuzz_files.MAX_GROWTH_MB
    assert out.refused > count // 4  # the damage is felt
    record_property("measured", f"{count} damaged {kind}: all read or refused in words, none longer than {fuzz_files.HANG_S[kind]:g} s")


def test_a_case_is_made_of_its_seed_and_number_alone():
    for spoil, given in ((damage, [b"abc" * 99, b"z" * 50]), (damage_text, ["a: 1\nb: [2, 3]\n" * 9, "c: 4"])):
        made = [spoil(given[0], np.random.default_rng([1, n]), given) for n in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
    tree = {"a": [1, {"b": "c"}], "d": 2.5}
    assert repr(damage_tree(tree, np.random.default_rng(3))) == repr(damage_tree(tree, np.random.default_rng(3)))
    assert tree == {"a": [1, {"b": "c"}], "d": 2.5}


def judged(monkeypatch, case, count=4):
    monkeypatch.setitem(fuzz_files.KINDS, "bags", (lambda folder: case, DataError))
    monkeypatch.setitem(fuzz_files.HANG_S, "bags", 0.02)
    return fuzz_files.run_cases("bags", 0, count, seed=0)


def test_the_judge_sees_what_is_not_documented(monkeypatch):
    def case(rng):
        kind = int(rng.integers(4))
        if kind == 0:
            raise DataError("a sentence")
        if kind == 1:
            raise DataError("")
        if kind == 2:
            raise KeyError("undocumented")

    out = judged(monkeypatch, case, 16)
    kinds = [int(np.random.default_rng([0, n]).integers(4)) for n in range(16)]
    assert set(kinds) == {0, 1, 2, 3}
    assert (out.cases, out.read, out.refused) == (16, kinds.count(3), kinds.count(0) + kinds.count(1))
    assert out.faulty == kinds.count(1) + kinds.count(2)
    assert sum("KeyError: 'undocumented'" in f for f in out.faults) == kinds.count(2)
    assert sum("says nothing" in f for f in out.faults) == kinds.count(1)


def test_the_judge_ends_what_hangs(monkeypatch):
    def case(rng):
        while True:
            time.sleep(0.01)

    out = judged(monkeypatch, case)
    assert (out.hangs, out.faulty) == (4, 4)
    assert out.slowest_s < 1.0


def test_a_reader_that_crashes_is_counted_and_the_rest_is_tried(tmp_path, monkeypatch):
    wrapper = tmp_path / "crashing.py"
    wrapper.write_text(f"""
import os, sys
sys.path.insert(0, {str(Path(fuzz_files.__file__).parent)!r})
import fuzz_files
def case(rng):
    if rng.integers(5) == 0:
        os.abort()
fuzz_files.KINDS["bags"] = (lambda folder: case, fuzz_files.DataError)
fuzz_files.main()
""")
    monkeypatch.setattr(fuzz_files, "__file__", str(wrapper))
    monkeypatch.setitem(os.environ, "PYTHONPATH", os.pathsep.join(sys.path))
    (crash,) = [n for n in range(6) if np.random.default_rng([9, n]).integers(5) == 0]
    out = fuzz_files.batch("bags", 9, 0, 6)
    assert (out.cases, out.faulty, out.read) == (6, 1, 5 - crash)  # what was read before it is lost with its process
    assert out.faults[0].startswith(f"{crash}: the process ended with status -6")
