"""Actors' distributions against torch.distributions and numerical integrals."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from mbrl_control.policies.bounded import ClippedNormal, CutNormal, TanhNormal

ALL = [TanhNormal(), CutNormal(), ClippedNormal()]
RAW = torch.tensor([[0.4, -1.5, 0.3, -0.8], [0.0, 3.0, -4.0, 1.0]], dtype=torch.float64)


def beneath(kind, raw: torch.Tensor = RAW) -> Normal:
    """The Gaussian by its definition."""
    mean, wide = raw.chunk(2, -1)
    if isinstance(kind, TanhNormal):
        return Normal(5 * torch.tanh(mean / 5), torch.nn.functional.softplus(wide + math.log(math.exp(5) - 1)) + 1e-4)
    if isinstance(kind, CutNormal):
        return Normal(mean.tanh(), 2 / (1 + (-wide / 2).exp()) + 0.1)
    return Normal(mean.tanh(), 0.9 / (1 + (-wide - 2).exp()) + 0.1)


@pytest.mark.parametrize("kind", ALL)
def test_a_draw_is_where_its_noise_says(kind):
    noise = torch.tensor([[0.3, -1.2], [2.0, 0.0]], dtype=torch.float64)
    base = beneath(kind)
    expected = base.mean + base.stddev * noise
    if isinstance(kind, TanhNormal):
        expected = expected.tanh()
    elif isinstance(kind, CutNormal):
        low, high = base.cdf(torch.tensor(-1.0)), base.cdf(torch.tensor(1.0))
        expected = base.icdf(low + (high - low) * Normal(0, 1).cdf(noise))
    assert torch.allclose(kind.sample(RAW, noise), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_of_draws(kind):
    noise = torch.tensor([[0.3, -1.2], [1.0, 0.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda raw: kind.sample(raw, noise), RAW.clone().requires_grad_())


def test_likelihoods():
    draw = torch.tensor([[0.3, -0.9], [0.0, 0.99]], dtype=torch.float64)
    tanh, cut, clipped = ALL
    torchs = TransformedDistribution(beneath(tanh), [TanhTransform()]).log_prob(draw).sum(-1)
    assert torch.allclose(tanh.log_likelihood(RAW, draw), torchs)
    assert torch.allclose(clipped.log_likelihood(RAW, 3 * draw), beneath(clipped).log_prob(3 * draw).sum(-1))
    base = beneath(cut)
    inside = base.cdf(torch.tensor(1.0)) - base.cdf(torch.tensor(-1.0))
    assert torch.allclose(cut.log_likelihood(RAW, draw), (base.log_prob(draw) - inside.log()).sum(-1))


@pytest.mark.parametrize("raw", [[0.4, 0.3], [3.0, -4.0], [-0.2, 2.0]])
def test_a_cut_gaussian_has_the_entropy_of_its_density(raw):
    raw = torch.tensor(raw, dtype=torch.float64)
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None]
    density = CutNormal().log_likelihood(raw.expand(len(grid), 2), grid).exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=1e-6)
    assert float(CutNormal().entropy(raw)) == pytest.approx(-float(torch.trapezoid(density * density.log(), grid[:, 0])), abs=1e-6)


@pytest.mark.parametrize("kind", [ALL[0], ALL[2]])
def test_entropies_are_those_of_the_gaussian_beneath(kind):
    assert torch.allclose(kind.entropy(RAW), beneath(kind).entropy().sum(-1))


def test_modes_and_starts():
    for kind in ALL:
        mode = kind.mode(RAW)
        assert mode.abs().max() < 1
        assert torch.allclose(mode, kind.sample(RAW, torch.zeros(2, 2).double()), atol=1e-3) or isinstance(kind, CutNormal)
    nothing = torch.zeros(1, 2)
    deviations = [float(kind.parts(nothing)[1]) for kind in ALL]
    assert deviations == pytest.approx([5.0, 1.1, 0.9 / (1 + math.exp(-2)) + 0.1], rel=1e-3)
