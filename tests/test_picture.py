"""What a run's picture draws from its log."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_control.stack.picture import moving_mean


def test_a_moving_mean_is_over_what_there_is_at_both_ends():
    assert moving_mean(np.full(40, 0.7), 25) == pytest.approx(np.full(40, 0.7)), "a constant stays one, to the last tick"
    values = np.random.default_rng(0).normal(size=30)
    wanted = [values[max(0, k - 2) : k + 3].mean() for k in range(30)]
    assert moving_mean(values, 5) == pytest.approx(np.array(wanted))
