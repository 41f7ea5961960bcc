"""A small part of benchmarks/fuzz_ticks.py: every shipped robot with every safe action, garbage on every input."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_ticks.py"
spec = importlib.util.spec_from_file_location("fuzz_ticks", PATH)
fuzz_ticks = importlib.util.module_from_spec(spec)
sys.modules["fuzz_ticks"] = fuzz_ticks
spec.loader.exec_module(fuzz_ticks)


@pytest.mark.parametrize("case", fuzz_ticks.CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_garbage_gives_no_wrong_command(case):
    modes = set()
    for name in fuzz_ticks.robot.shipped():
        found = fuzz_ticks.fuzz(name, case, 500, seed=1)
        assert (found.non_finite, found.outside, found.too_fast, found.raised) == (0, 0, 0, {}), name
        assert found.ticks == sum(found.modes.values()) == 500
        modes |= set(found.modes)
    assert modes == {mode for mode in fuzz_ticks.Mode if mode >= fuzz_ticks.Mode.STANDBY}


def test_it_would_find_what_is_wrong():
    robot = fuzz_ticks.variant("rc_car", "zero")
    found, zero = fuzz_ticks.Found("rc_car", "zero"), robot.action_zero
    found.look(robot, zero, zero, robot.tick_s)
    assert found.wrong == 0
    for command in ([np.nan, 0.0], [3.0, 0.0], [1.9, 0.0]):  # the last one is within the limits, but the rate is 6 m/s per s
        found.look(robot, np.array(command), zero, robot.tick_s)
    assert (found.non_finite, found.outside, found.too_fast) == (1, 2, 3)
