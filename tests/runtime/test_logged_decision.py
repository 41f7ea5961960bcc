"""Anybody may publish on the topic of the decisions: what is none is told from what is one."""

from __future__ import annotations

import math

import pytest

from mbrl_control.runtime.faults import Mode, mask
from mbrl_control.runtime.logged_decision import LoggedDecision, parse


def test_what_is_there_is_read_in_any_order_and_the_rest_is_zero():
    faults = mask({"state_stale", "plan_late"})
    assert parse(["faults", "cost", "mode", "model_version"], [faults, math.nan, 4.0, 7.0]) == LoggedDecision(Mode.BRAKE, 7, faults)
    assert parse(["mode"], [-1.0]) == LoggedDecision(Mode.INACTIVE, 0, 0)


@pytest.mark.parametrize("number", [9.0, -2.0, 2.5, math.nan, math.inf, -math.inf, 1e300])
def test_what_is_no_mode_is_no_decision(number):
    assert parse(["mode", "model_version"], [number, 1.0]) is None


@pytest.mark.parametrize("name", ["model_version", "faults"])
@pytest.mark.parametrize("number", [-1.0, 0.5, math.nan, math.inf, 1e300])
def test_numbers_that_must_be_whole_are(name, number):
    assert parse(["mode", name], [2.0, number]) is None


@pytest.mark.parametrize(("names", "numbers"), [([], []), (["mode"], []), (["mode"], [2.0, 1.0]), ([], [2.0]), (["moda"], [2.0])])
def test_lengths_must_fit_and_a_mode_must_be_there(names, numbers):
    assert parse(names, numbers) is None
