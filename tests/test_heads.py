"""Heads against definitions: symlog, two-hot bins, chances, vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbrl_control.models.symlog import symexp, symlog
from mbrl_control.policies import heads
from mbrl_control.policies.heads import TwoHot, UnitNormal

HEAD = TwoHot()
NUMBERS = st.floats(-1e6, 1e6, width=32)


def test_symlog_is_its_definition():
    x = torch.tensor([-1e6, -3.0, -1e-4, 0.0, 1e-4, 1.0, 5e5])
    by_hand = [math.copysign(math.log(1 + abs(v)), v) for v in x.tolist()]
    assert symlog(x).tolist() == pytest.approx(by_hand, rel=1e-5)


@given(st.floats(-18, 18, width=32))
def test_symexp_is_the_inverse(value):
    assert float(symlog(symexp(torch.tensor(value)))) == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_bins_are_evenly_spaced_under_symlog_and_mirrored():
    assert len(HEAD.bins) == 255
    assert torch.equal(HEAD.bins, -HEAD.bins.flip(0))
    assert float(HEAD.bins[127]) == 0
    assert np.diff(symlog(HEAD.bins.double()).numpy()) == pytest.approx(40 / 254, rel=1e-5)


def test_even_bins_are_refused():
    with pytest.raises(ValueError, match="254"):
        TwoHot(254)


@given(NUMBERS)
def test_two_hot_has_two_neighbours_and_the_target_as_mean(value):
    weights = HEAD.encode(torch.tensor([value])).double()[0]
    at = weights.nonzero().flatten()
    assert len(at) <= 2
    assert int(at[-1] - at[0]) <= 1
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)
    assert float(weights @ HEAD.bins.double()) == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_a_target_outside_is_the_outermost_bin():
    assert HEAD.encode(torch.tensor([1e12, -1e12])).argmax(-1).tolist() == [254, 0]
    assert HEAD.encode(torch.tensor([1e12, -1e12])).max(-1).values.tolist() == pytest.approx([1, 1])


def test_equal_logits_mean_exactly_0():
    assert HEAD.mean(torch.zeros(5, 255)).tolist() == [0] * 5
    assert HEAD.mean(torch.full((1, 255), 0.3)).tolist() == [0]


def test_mean_is_the_expectation():
    raw = torch.randn(7, 255, generator=torch.Generator().manual_seed(0)) - symlog(HEAD.bins).abs()
    by_hand = (raw.double().softmax(-1) * HEAD.bins.double()).sum(-1)
    assert HEAD.mean(raw).tolist() == pytest.approx(by_hand.tolist(), rel=1e-3)


@given(NUMBERS)
def test_loss_is_the_cross_entropy_of_the_encoding(value):
    raw = torch.randn(1, 255, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([value])
    by_hand = -(HEAD.encode(target) * raw.log_softmax(-1)).sum()
    assert float(HEAD.loss(raw, target)) == pytest.approx(float(by_hand), rel=1e-5)


def test_learning_a_target_ends_at_it():
    head = TwoHot(41)
    raw = torch.zeros(3, 41, requires_grad=True)
    target = torch.tensor([-7.3, 0.02, 412.0])
    optimiser = torch.optim.Adam([raw], 0.3)
    for _ in range(300):
        optimiser.zero_grad()
        head.loss(raw, target).sum().backward()
        optimiser.step()
    assert head.mean(raw).tolist() == pytest.approx(target.tolist(), rel=0.02, abs=0.02)


def test_a_unit_normal_is_torchs_but_for_the_constant():
    raw, target = torch.tensor([[0.3], [-2.0]]), torch.tensor([1.0, 4.0])
    torchs = -torch.distributions.Normal(raw[:, 0], 1.0).log_prob(target) - math.log(2 * math.pi) / 2
    assert UnitNormal().loss(raw, target).tolist() == pytest.approx(torchs.tolist())
    assert UnitNormal().mean(raw).tolist() == pytest.approx([0.3, -2.0])


def test_a_chance_is_torchs_bernoulli_and_learns_a_discount():
    logit = torch.tensor([-30.0, -0.4, 2.0])
    for value in (0.0, 1.0):
        torchs = -torch.distributions.Bernoulli(logits=logit).log_prob(torch.tensor(value))
        assert heads.chance_loss(logit, torch.tensor(value)).tolist() == pytest.approx(torchs.tolist(), rel=1e-5)
    best = torch.tensor(math.log(0.99 / 0.01), requires_grad=True)
    heads.chance_loss(best, torch.tensor(0.99)).backward()
    assert float(best.grad) == pytest.approx(0, abs=1e-6)


def test_vectors_by_hand():
    mean, target = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 0.0]])
    assert float(heads.vector_loss(mean, target, False)) == pytest.approx((4 + 4) / 2)
    assert float(heads.vector_loss(mean, target, True)) == pytest.approx((1 - math.log(4)) ** 2 + 4)
