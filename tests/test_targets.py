"""Targets against their definitions by brute force, and the scale of returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_control.policies import targets


def trajectory(seed: int, steps: int, columns: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, discounts with ends in them, values."""
    rng = np.random.default_rng(seed)
    discount = targets.discounts(torch.tensor(rng.random((steps, columns)) < 0.2), 0.9)
    return torch.tensor(rng.normal(size=(steps, columns))), discount.double(), torch.tensor(rng.normal(size=(steps + 1, columns)))


def by_definition(reward, discount, value, start: int, n: int) -> torch.Tensor:
    """The n-step return from `start`, term by term."""
    total, passed, n = torch.zeros_like(reward[0]), torch.ones_like(reward[0]), min(n, len(reward) - start)
    for k in range(start, start + n):
        total = total + passed * reward[k]
        passed = passed * discount[k]
    return total + passed * value[start + n]


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_n_step_returns(seed, steps, n):
    given_ = trajectory(seed, steps)
    expected = torch.stack([by_definition(*given_, t, n) for t in range(steps)])
    assert torch.allclose(targets.n_step(*given_, n), expected, atol=1e-12)


@given(st.integers(0, 1000), st.integers(1, 9), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_lambda_returns_are_the_weighted_mean_of_all_n_step_returns(seed, steps, lam):
    given_ = trajectory(seed, steps)
    expected = []
    for t in range(steps):
        left = steps - t
        mix = [(1 - lam) * lam ** (n - 1) * by_definition(*given_, t, n) for n in range(1, left)]
        expected.append(sum(mix) + lam ** (left - 1) * by_definition(*given_, t, left))
    assert torch.allclose(targets.lambda_return(*given_, lam), torch.stack(expected), atol=1e-12)


def test_lambda_of_0_is_td_and_of_1_is_the_whole_return():
    reward, discount, value = trajectory(3, 6)
    assert torch.allclose(targets.lambda_return(reward, discount, value, 0.0), targets.td0(reward, discount, value[1:]))
    assert torch.allclose(targets.lambda_return(reward, discount, value, 1.0), targets.n_step(reward, discount, value, 6))


def test_nothing_is_gained_after_an_end():
    reward, value = torch.ones(5, 1), torch.full((6, 1), 100.0)
    discount = targets.discounts(torch.tensor([[False], [True], [False], [False], [False]]), 0.5)
    assert targets.lambda_return(reward, discount, value, 1.0)[:2, 0].tolist() == [1.5, 1.0]
    assert targets.n_step(reward, discount, value, 5)[:2, 0].tolist() == [1.5, 1.0]
    assert targets.weights(discount)[:, 0].tolist() == [1, 0.5, 0, 0, 0]
    assert float(targets.td0(reward[1], discount[1], value[2])) == 1


def test_a_lambda_of_0_at_a_cut_keeps_the_next_episode_out():
    reward, discount, value = torch.tensor([1.0, 1, 999]), torch.full((3,), 0.5), torch.tensor([0.0, 0, 8, 0])
    lam = torch.tensor([0.95, 0.0, 0.95])
    returns = targets.lambda_return(reward, discount, value, lam)
    assert float(returns[1]) == pytest.approx(1 + 0.5 * 8)
    assert float(returns[0]) == pytest.approx(1 + 0.5 * 0.95 * 5)


def test_gradients_of_a_lambda_return():
    given_ = [part.requires_grad_() for part in trajectory(5, 4, 1)]
    assert torch.autograd.gradcheck(lambda *g: targets.lambda_return(*g, 0.7), given_)


def test_the_scale_is_the_averaged_percentile_range_and_at_least_1():
    scale = targets.ReturnScale()
    returns = torch.linspace(0, 1000, 1001)
    assert float(scale.update(returns)) == pytest.approx(9.0)
    assert float(scale.update(returns)) == pytest.approx(9.0 + 0.01 * (900 - 9.0))
    assert float(targets.ReturnScale().update(returns / 1000)) == 1
    for _ in range(2000):
        scale.update(returns.reshape(7, 143) + 5e4)
    assert float(scale.scale()) == pytest.approx(900, rel=1e-3)
