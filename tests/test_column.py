"""Columns of a run's log: used as lists are, in a fraction of their memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mbrl_control.planning.plan import Verdict
from mbrl_control.stack.column import FIRST, Column
from mbrl_control.stack.run_log import PlanNote, PlanNotes, RunLog

COUNT = 3 * FIRST


def test_numbers_come_back_as_from_a_list():
    wanted = [0.1 * k for k in range(COUNT)]
    column = Column()
    for value in wanted:
        column.append(value)
    assert list(column) == wanted
    assert (len(column), column[0], column[-1], type(column[-1])) == (COUNT, wanted[0], wanted[-1], float)
    assert column[FIRST - 2 : FIRST + 3].tolist() == wanted[FIRST - 2 : FIRST + 3]
    assert np.array(column).tolist() == np.asarray(column).tolist() == wanted
    with pytest.raises(IndexError):
        column[COUNT]
    column[-1] = 7
    assert (column[-1], column[-2]) == (7.0, wanted[-2])


def test_rows_are_of_their_own():
    column, wanted = Column(), np.random.default_rng(0).normal(size=(COUNT, 3))
    for row in wanted:
        column.append(row)
    np.testing.assert_array_equal(np.array(column), wanted)
    np.testing.assert_array_equal(column[5:9], wanted[5:9])
    np.testing.assert_array_equal(np.stack(list(column)), wanted)
    assert column[4].base is None, "a row must not keep the whole column"
    with pytest.raises(ValueError, match="broadcast"):
        column.append(np.zeros(4))


def test_of_nothing_there_is_nothing():
    assert not Column()
    assert list(Column()) == []
    assert len(np.array(Column())) == 0


def test_plans_are_noted():
    wanted = [PlanNote(Verdict.MET, 0.01, "mean"), PlanNote(Verdict.FALLBACK, 0.03, "hold"), PlanNote(Verdict.EARLY_STOP, 0.02, "mean")]
    notes = PlanNotes()
    for note in wanted:
        notes.add(note)
    assert list(notes) == wanted
    assert (len(notes), notes[-1], notes[-2:]) == (3, wanted[-1], wanted[-2:])


def test_a_day_of_a_cart_pole_takes_less_than_half_a_gigabyte():
    """Measured on five minutes: 50 ticks and as many plans a second."""
    count, seconds = 15_000, 300
    log, notes = RunLog(), PlanNotes()
    tracemalloc.start()
    for k in range(count):
        log.add(0.02 * k, np.full(4, float(k)), np.full(1, float(k)), 3, k, k)
        log.cost.append(float(k))
        notes.add(PlanNote(Verdict.MET, 0.001 * k, "mean"))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held * 86_400 / seconds < 0.5 * 2**30
