"""benchmarks/bad_proposals.py: what its table says of pairs of plans."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from bad_proposals import Pair, summary


def test_the_mean_is_over_seeds_and_so_is_its_error():
    pairs = [Pair("cartpole", "random", 0, 2.0, 2.02, True), Pair("cartpole", "random", 0, 2.0, 2.0, False),
             Pair("cartpole", "random", 1, 4.0, 3.96, False), Pair("cartpole", "random", 1, 4.0, 4.0, False),
             Pair("acrobot", "adversarial", 0, 5.0, 5.0, False)]
    first, second = summary(pairs)
    assert (first["seeds"], first["plans"]) == (2, 4)
    assert first["more_percent"] == pytest.approx(0.0)  # seed 0: +0.5 %, seed 1: -0.5 %
    assert first["error_percent"] == pytest.approx(0.5)  # deviation 0.7071 over the root of 2
    assert (first["worse"], first["better"], first["won"]) == (0.25, 0.25, 0.25)
    assert (second["robot"], second["more_percent"], second["error_percent"], second["worse"]) == ("acrobot", 0.0, None, 0.0)
