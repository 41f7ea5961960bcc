"""Optimisers against torch's Adam and against LaProp term by term."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mbrl_control.models.optimiser import Optimiser


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def put(optimiser: Optimiser, gradients: list[torch.Tensor]) -> None:
    for parameter, gradient in zip(optimiser.parameters, gradients, strict=True):
        parameter.grad.copy_(gradient)


def test_parameters_become_views_of_one_vector():
    some = parameters((2, 3), (4,))
    values = torch.cat([p.detach().flatten() for p in some])
    optimiser = Optimiser(some, 0.1, "adam")
    assert torch.equal(optimiser.flat, values)
    optimiser.flat += 1
    assert torch.equal(some[1].detach(), values[6:] + 1)
    (some[0].sum() * 2).backward()
    assert optimiser.gradient.tolist() == [2] * 6 + [0] * 4
    optimiser.clear()
    assert optimiser.gradient.abs().max() == 0


def test_adam_is_torchs():
    mine, torchs = parameters((3, 2), (5,)), parameters((3, 2), (5,))
    optimiser, other = Optimiser(mine, 0.02, "adam"), torch.optim.Adam(torchs, 0.02, eps=1e-5)
    rng = torch.Generator().manual_seed(1)
    for _ in range(5):
        gradients = [torch.randn(p.shape, generator=rng) for p in torchs]
        put(optimiser, gradients)
        for parameter, gradient in zip(torchs, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        other.step()
    for one, two in zip(mine, torchs, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_adams_gradient_is_clipped_at_a_norm_of_100():
    mine = parameters((4,))
    optimiser = Optimiser(mine, 0.02, "adam")
    put(optimiser, [torch.tensor([300.0, 400.0, 0, 0])])
    optimiser.step()
    assert optimiser.average.tolist() == pytest.approx([6, 8, 0, 0])


def test_laprop_term_by_term():
    mine = parameters((3,), (2,))
    optimiser = Optimiser(mine, 0.02, "laprop", warm_up=4)
    weights, square, average = optimiser.flat.double().numpy().copy(), np.zeros(5), np.zeros(5)
    rng = np.random.default_rng(0)
    for step in range(1, 7):
        gradient = 0.01 * rng.normal(size=5)
        put(optimiser, [torch.tensor(gradient[:3]), torch.tensor(gradient[3:])])
        optimiser.step()
        square = 0.999 * square + 0.001 * gradient**2
        average = 0.9 * average + 0.1 * gradient / np.sqrt(square / (1 - 0.999**step))
        weights -= 0.02 * min(1, step / 4) * average / (1 - 0.9**step)
        assert optimiser.flat.tolist() == pytest.approx(weights.tolist(), abs=1e-5)


def test_each_arrays_gradient_is_clipped_by_its_own_norm():
    first, second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.zeros(2))
    optimiser = Optimiser([first, second], 0.0, "laprop")
    for given, left in (([0.6, 0.8], [0.6, 0.8]), ([60.0, 80.0], [0.9, 1.2])):
        optimiser.squares.zero_()
        put(optimiser, [torch.tensor(given), torch.tensor([0.0, 5.0])])
        optimiser.step()
        kept = (optimiser.squares / 0.001).sqrt()
        assert kept.tolist() == pytest.approx([*left, 0.0, 0.3 * 1e-3], rel=1e-3)


@pytest.mark.parametrize("rule", ["adam", "laprop"])
def test_a_gradient_that_is_not_finite_is_left_out(rule):
    mine = parameters((2,), (2,))
    optimiser = Optimiser(mine, 0.1, rule)
    before = mine[0].detach().clone()
    put(optimiser, [torch.tensor([float("nan"), 1.0]), torch.ones(2)])
    optimiser.step()
    assert optimiser.flat.isfinite().all()
    assert torch.equal(mine[0].detach(), before)
