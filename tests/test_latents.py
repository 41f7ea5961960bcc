"""Latents against torch.distributions, and which side of the divergence moves, by how much, per version of Dreamer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from mbrl_control.models.latents import Balance, Categorical, Gaussian, divergence_loss
from mbrl_control.policies.dreamer_versions import VERSIONS

LATENTS = [Gaussian(6), Categorical(3, 4), Categorical(3, 4, 0.01)]


def raw(latent, *shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(*shape, latent.raw, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def torchs(latent, parameters: torch.Tensor) -> Independent:
    if isinstance(latent, Gaussian):
        mean, wide = parameters.chunk(2, -1)
        return Independent(Normal(mean, torch.nn.functional.softplus(wide) + 0.1), 1)
    chance = parameters.unflatten(-1, latent.shape).softmax(-1)
    return Independent(TorchCategorical(probs=(1 - latent.unimix) * chance + latent.unimix / latent.shape[1]), 1)


@pytest.mark.parametrize("latent", LATENTS)
def test_divergence_is_torchs(latent):
    one, other = raw(latent, 5, 7), raw(latent, 5, 7, seed=1)
    expected = kl_divergence(torchs(latent, one), torchs(latent, other))
    assert torch.allclose(latent.divergence(one, other), expected, rtol=1e-4, atol=1e-5)
    assert latent.divergence(one, one).abs().max() < 1e-6


@pytest.mark.parametrize("latent", LATENTS)
def test_samples_have_the_distribution(latent):
    parameters = raw(latent, scale=2.0).detach()
    noise = latent.noise((200_000,), torch.Generator().manual_seed(0))
    samples = latent.sample(parameters.expand(200_000, -1), noise)
    assert samples.shape == (200_000, latent.size)
    base = torchs(latent, parameters).base_dist
    expected = base.mean if isinstance(latent, Gaussian) else base.probs.flatten()
    assert samples.mean(0).tolist() == pytest.approx(expected.tolist(), abs=0.02)
    if isinstance(latent, Gaussian):
        assert samples.std(0).tolist() == pytest.approx(base.stddev.tolist(), rel=0.02)


def test_unimix_leaves_a_chance_to_every_class():
    latent = Categorical(1, 4, 0.01)
    chances = latent.log_chances(torch.tensor([100.0, 0, 0, 0])).exp()[0]
    assert chances.tolist() == pytest.approx([0.9925, 0.0025, 0.0025, 0.0025])


def test_straight_through_is_one_hot_with_the_gradient_of_the_chances():
    latent, toward = Categorical(3, 4, 0.01), torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    one, two = raw(latent, 5), raw(latent, 5)
    sample = latent.sample(one, latent.noise((5,), torch.Generator().manual_seed(3)))
    assert torch.equal(sample.unflatten(-1, (3, 4)).sum(-1), torch.ones(5, 3))
    assert set(sample.flatten().tolist()) == {0.0, 1.0}
    (sample * toward).sum().backward()
    (latent.log_chances(two).exp().flatten(-2) * toward).sum().backward()
    assert torch.allclose(one.grad, two.grad, atol=1e-6)


def test_gaussian_samples_have_the_gradient_of_mean_and_deviation():
    latent, parameters = Gaussian(2), torch.tensor([0.3, -1.0, 0.5, 2.0], requires_grad=True)
    latent.sample(parameters, torch.tensor([2.0, -3.0])).sum().backward()
    slope = torch.tensor([0.5, 2.0]).sigmoid()
    assert parameters.grad.tolist() == pytest.approx([1, 1, 2 * float(slope[0]), -3 * float(slope[1])])


@pytest.mark.parametrize("latent", LATENTS)
def test_modes(latent):
    parameters = raw(latent)
    expected = parameters[:6] if isinstance(latent, Gaussian) else None
    if expected is None:
        assert latent.mode(parameters).unflatten(-1, (3, 4)).argmax(-1).tolist() == parameters.unflatten(-1, (3, 4)).argmax(-1).tolist()
    else:
        assert torch.equal(latent.mode(parameters), expected)


def gradients(latent, posterior, prior, balance) -> tuple[torch.Tensor, torch.Tensor]:
    posterior.grad = prior.grad = None
    divergence_loss(latent, posterior, prior, balance).loss.backward()
    return posterior.grad.clone(), prior.grad.clone()


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(("weights", "version"), [((1.0, 1.0), "v1"), ((0.8, 0.2), "v2"), ((1.0, 0.1), "v3")])
def test_each_side_moves_with_its_weight(latent, weights, version):
    posterior, prior = raw(latent, 4, 5, seed=1, scale=3.0), raw(latent, 4, 5, seed=2, scale=3.0)
    balance = VERSIONS[version].balance
    assert (balance.prior, balance.posterior) == weights
    plain = kl_divergence(torchs(latent, posterior), torchs(latent, prior)).mean()
    expected = torch.autograd.grad(plain, [posterior, prior])
    measured = gradients(latent, posterior, prior, balance._replace(free=0.0))
    assert torch.allclose(measured[0], weights[1] * expected[0], atol=1e-5)
    assert torch.allclose(measured[1], weights[0] * expected[1], atol=1e-5)


@pytest.mark.parametrize(("version", "free", "each"), [("v1", 3.0, False), ("v2", 1.0, False), ("v3", 1.0, True)])
def test_free_bits_as_each_version_clips_them(version, free, each):
    balance, latent = VERSIONS[version].balance, Gaussian(1)
    assert (balance.free, balance.each) == (free, each)
    # With equal deviations the divergence is shift² / 2 deviation²: elements below and above, and a mean above.
    deviation = float(torch.nn.functional.softplus(torch.tensor(0.0))) + 0.1
    nats = torch.tensor([0.1 * free, 0.9 * free, 4.0 * free])
    posterior = torch.stack([deviation * (2 * nats).sqrt(), torch.zeros(3)], -1).requires_grad_()
    prior = torch.zeros(3, 2, requires_grad=True)
    moved = gradients(latent, posterior, prior, balance)[1][:, 0].ne(0).tolist()
    assert moved == ([False, False, True] if each else [True, True, True])
    below = (0.4 * posterior).detach().requires_grad_()
    moved = gradients(latent, below, prior, balance)
    assert [m[:, 0].ne(0).tolist() for m in moved] == [[False, False, False]] * 2
    assert divergence_loss(latent, below, prior, balance).nats.item() == pytest.approx(0.16 * float(nats.mean()), rel=1e-4)


def test_the_clipped_value_by_hand():
    latent = Gaussian(1)
    posterior, prior = torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.zeros(2, 2)
    large = 0.5 * (5.0 / (np.log(2) + 0.1)) ** 2
    each = divergence_loss(latent, posterior, prior, Balance(1.0, 0.1, 1.0, True)).loss
    mean = divergence_loss(latent, posterior, prior, Balance(0.8, 0.2, 1.0, False)).loss
    assert float(each) == pytest.approx(1.1 * (1 + large) / 2, rel=1e-5)
    assert float(mean) == pytest.approx(large / 2, rel=1e-5)
