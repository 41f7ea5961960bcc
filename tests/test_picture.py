"""What a run's picture draws from its log."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_control import robot
from mbrl_control.planning.plan import Verdict
from mbrl_control.stack import picture
from mbrl_control.stack.picture import moving_mean
from mbrl_control.stack.run_log import PlanNote, RunLog


def test_a_moving_mean_is_over_what_there_is_at_both_ends():
    assert moving_mean(np.full(40, 0.7), 25) == pytest.approx(np.full(40, 0.7)), "a constant stays one, to the last tick"
    values = np.random.default_rng(0).normal(size=30)
    wanted = [values[max(0, k - 2) : k + 3].mean() for k in range(30)]
    assert moving_mean(values, 5) == pytest.approx(np.array(wanted))


def test_where_nothing_was_planned_there_are_no_panels_for_it(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(picture.plt, "close", drawn.append)
    spec, log = robot.load("cartpole"), RunLog()
    for k in range(40):
        log.add(0.02 * k, np.zeros(4), np.zeros(1), 1, 0)
    log.cost = [1.0] * 40
    picture.draw(spec, log, tmp_path / "course.png", "a course")
    log.plans = [PlanNote(Verdict.MET, 0.01, "mean")]
    picture.draw(spec, log, tmp_path / "plans.png", "plans")
    monkeypatch.undo()
    assert [len(figure.axes) for figure in drawn] == [3, 5]
    assert drawn[0].get_figheight() < drawn[1].get_figheight() == pytest.approx(10)
    for figure in drawn:
        picture.plt.close(figure)
