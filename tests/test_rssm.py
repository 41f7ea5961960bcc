"""The recurrent state-space model: filtering in one go or step by step, resets, imagination, gates by hand, encoders."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mbrl_control.models import encoders, layers
from mbrl_control.models.latents import Balance, Categorical, Gaussian, divergence_loss
from mbrl_control.models.layers import MLP, Linear, Style
from mbrl_control.models.recurrent import GRU
from mbrl_control.models.rssm import RSSM, State

LATENTS = [Gaussian(3), Categorical(2, 3, 0.01)]
B, T, E, A = 3, 6, 5, 2
STYLE = Style("layer", "silu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(latent, seed: int = 0) -> RSSM:
    return RSSM(E, A, 7, 8, latent, STYLE, "layer", generator(seed))


def sequence(latent, seed: int = 1):
    rng = generator(seed)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = True
    return torch.randn(B, T, E, generator=rng), torch.randn(B, T, A, generator=rng), first, latent.noise((B, T), rng)


@pytest.mark.parametrize("latent", LATENTS)
def test_a_sequence_is_filtered_as_step_by_step(latent):
    rssm, (embedding, action, first, noise) = model(latent), sequence(latent)
    whole = rssm.observe(embedding, action, first, noise)
    state = rssm.initial(B)
    for t in range(T):
        now = slice(t, t + 1)
        step = rssm.observe(embedding[:, now], action[:, now], first[:, now], noise[:, now], state)
        state = State(*(part[:, 0] for part in step.state))
        assert torch.allclose(state.memory, whole.state.memory[:, t], atol=1e-5)
        assert torch.allclose(state.stochastic, whole.state.stochastic[:, t], atol=1e-5)
        assert torch.allclose(step.posterior[:, 0], whole.posterior[:, t], atol=1e-5)
        assert torch.allclose(step.prior[:, 0], whole.prior[:, t], atol=1e-5)


@pytest.mark.parametrize("latent", LATENTS)
def test_an_episode_that_begins_within_is_as_one_that_begins(latent):
    rssm, (embedding, action, first, noise) = model(latent), sequence(latent)
    first[1, 3] = True
    whole = rssm.observe(embedding, action, first, noise)
    anew = rssm.observe(embedding[1:2, 3:], torch.zeros(1, 3, A), torch.zeros(1, 3, dtype=torch.bool), noise[1:2, 3:])
    assert torch.allclose(anew.state.memory[0, 0], whole.state.memory[1, 3], atol=1e-6)
    anew = rssm.observe(embedding[1:2, 3:], action[1:2, 3:], first[1:2, 3:], noise[1:2, 3:])
    assert torch.allclose(anew.state.features()[0], whole.state.features()[1, 3:], atol=1e-6)
    other = rssm.observe(embedding + 1.0 * (torch.arange(T) < 3)[:, None], action, first, noise)
    assert torch.equal(other.state.features()[1, 3:], whole.state.features()[1, 3:])
    assert not torch.allclose(other.state.features()[0, 3:], whole.state.features()[0, 3:])


def test_no_gradient_crosses_a_reset():
    latent = Gaussian(3)
    rssm, (embedding, action, first, noise) = model(latent), sequence(latent)
    first[:, 3] = True
    embedding.requires_grad_()
    rssm.observe(embedding, action, first, noise).state.memory[:, 3:].sum().backward()
    assert embedding.grad[:, :3].abs().max() == 0
    assert embedding.grad[:, 3:5].abs().min() > 0


@pytest.mark.parametrize("latent", LATENTS)
def test_imagination_is_the_prior_step_by_step(latent):
    rssm = model(latent)
    noise = latent.noise((4, B), generator(2))
    start = State(torch.randn(B, 7, generator=generator(3)), latent.sample(torch.zeros(B, latent.raw), latent.noise((B,), generator(4))))
    actions = torch.randn(4, B, A, generator=generator(5))
    features = rssm.imagine(start, lambda _, t: actions[t], noise)
    memory, stochastic = start
    assert torch.equal(features[0], torch.cat([memory, stochastic], -1))
    for t in range(4):
        x = rssm.enter(stochastic @ rssm.from_latent + rssm.from_action(actions[t]))
        memory = rssm.cell(x, memory)
        stochastic = latent.sample(rssm.prior(memory), noise[t])
        assert torch.allclose(features[t + 1], torch.cat([memory, stochastic], -1), atol=1e-6)


@pytest.mark.parametrize("latent", LATENTS)
def test_imagination_passes_gradients_to_actions(latent):
    rssm = model(latent)
    actions = torch.zeros(4, B, A, requires_grad=True)
    rssm.imagine(rssm.initial(B), lambda _, t: actions[t], latent.noise((4, B), generator())).sum().backward()
    assert actions.grad.abs().min() > 0


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_gates_by_hand(norm):
    cell = GRU(2, 3, Style(norm, "silu"), generator())
    x, memory = torch.randn(4, 2, generator=generator(1)), torch.randn(4, 3, generator=generator(2))
    sums = torch.cat([x, memory], 1) @ cell.weight
    if norm == "layer":
        sums = (sums - sums.mean(1, keepdim=True)) / (sums.var(1, unbiased=False, keepdim=True) + layers.EPSILON).sqrt()
    elif norm == "rms":
        sums = sums / (sums.square().mean(1, keepdim=True) + layers.EPSILON).sqrt()
    reset, update, candidate = (sums + cell.bias).chunk(3, 1)
    update = 1 / (1 + torch.exp(-update))
    expected = update * torch.tanh(candidate / (1 + torch.exp(-reset))) + (1 - update) * memory
    assert torch.allclose(cell(x, memory), expected, atol=1e-6)
    assert cell.bias[3:6].tolist() == [-1.0] * 3


def test_a_perceptron_by_hand():
    net = MLP(3, 4, 2, 2, Style("layer", "elu"), generator())
    x = torch.randn(5, 7, 3, generator=generator(1))
    hidden = x
    for layer in (0, 2):
        hidden = functional.elu(functional.layer_norm(hidden @ net.parts[layer].weight, (4,), eps=layers.EPSILON))
    assert torch.allclose(net(x), hidden @ net.parts[4].weight, atol=1e-6)


def test_first_weights_have_the_wanted_spread():
    assert float(Linear(400, 300, generator()).weight.detach().std()) == pytest.approx(1 / 20, rel=0.02)
    assert Linear(4, 3, generator(), 0.0).weight.abs().max() == 0


@pytest.mark.parametrize("latent", [Gaussian(4), Categorical(4, 4, 0.01)])
def test_imagination_of_a_known_linear_system(latent):
    # x' = 0.9 x + 0.5 a, from x in view; after fitting, open-loop predictions follow it from one observation on.
    rng = generator(7)
    rssm = RSSM(1, 1, 24, 24, latent, STYLE, "layer", generator(8))
    decoder = Linear(rssm.features, 1, generator(9))
    parameters = [*rssm.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(parameters, 4e-3, foreach=True)

    def draw(count: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        action, x = torch.rand(count, steps, 1, generator=rng) * 2 - 1, [torch.rand(count, 1, generator=rng) * 2 - 1]
        for t in range(1, steps):
            x.append(0.9 * x[-1] + 0.5 * action[:, t])
        return torch.stack(x, 1), action

    def first(count: int, steps: int) -> torch.Tensor:
        return (torch.arange(steps) == 0).expand(count, steps)

    for _ in range(350):
        x, action = draw(32, 8)
        seen = rssm.observe(x, action, first(32, 8), latent.noise((32, 8), rng))
        loss = 20 * (decoder(seen.state.features()) - x).square().mean()
        loss = loss + divergence_loss(latent, seen.posterior, seen.prior, Balance(1.0, 0.1, 0.1, True)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, action = draw(200, 9)
    with torch.no_grad():
        seen = rssm.observe(x[:, :4], action[:, :4], first(200, 4), latent.noise((200, 4), rng))
        start = State(*(part[:, -1] for part in seen.state))
        features = rssm.imagine(start, lambda _, t: action[:, 4 + t], latent.noise((5, 200), rng))
        error = (decoder(features[1:]).transpose(0, 1) - x[:, 4:]).square().mean().sqrt()
    assert float(error) < 0.35 * float(x[:, 4:].std())
    assert float(error) < 0.5 * float((x[:, 3:4] - x[:, 4:]).square().mean().sqrt())


def test_vectors_are_squashed_before_they_are_encoded():
    encoder = encoders.VectorEncoder(3, 8, 1, Style("none", "elu"), True, generator())
    x = torch.tensor([[[1e3, -1e3, 0.0]]])
    expected = encoder.net(torch.tensor([[[6.9087548, -6.9087548, 0.0]]]))
    assert torch.allclose(encoder(x), expected, atol=1e-4)
    assert encoder(x).shape == (1, 1, encoder.size)


def test_images_to_embeddings_and_back():
    encoder, decoder = encoders.ImageEncoder(2, "silu", generator()), encoders.ImageDecoder(6, 2, "silu", generator())
    images = torch.randint(0, 256, (2, 3, 3, 64, 64), generator=generator(), dtype=torch.uint8)
    embedded = encoder(images)
    assert embedded.shape == (2, 3, encoder.size) == (2, 3, 256)
    assert torch.allclose(embedded[1, 2], encoder(images[1, 2]), atol=1e-5)
    assert decoder(torch.zeros(2, 3, 6)).shape == images.shape
    assert float(encoders.pixels(torch.tensor([0, 255], dtype=torch.uint8)).diff()) == 1
    again = encoders.ImageEncoder(2, "silu", generator())
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters(), strict=True))


def test_images_in_half_precision_are_near_and_their_gradients_too():
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator(), dtype=torch.uint8)
    features, found = torch.randn(2, 6, generator=generator()), []
    for half in (False, True):
        encoder, decoder = encoders.ImageEncoder(4, "silu", generator(), half), encoders.ImageDecoder(6, 4, "silu", generator(), half)
        embedded, drawn = encoder(images), decoder(features)
        (embedded.square().sum() + drawn.square().sum()).backward()
        assert {p.grad.dtype for p in (*encoder.parameters(), *decoder.parameters())} == {torch.float32}
        found.append((embedded.detach(), drawn.detach(), encoder.layers[0].weight.grad, decoder.layers[-1].weight.grad))
    for whole, half in zip(*found, strict=True):
        assert not torch.equal(whole, half)
        assert (half - whole).norm() < 0.02 * whole.norm()


def test_convolutions_are_torchs():
    encoder = encoders.ImageEncoder(2, "elu", generator())
    x = encoders.pixels(torch.randint(0, 256, (3, 3, 64, 64), generator=generator(), dtype=torch.uint8))
    plain = x
    for layer in encoder.layers:
        plain = torch.nn.functional.elu(layer(plain))
    assert torch.allclose(encoder((255 * (x + 0.5)).round().byte()), plain.flatten(1), atol=1e-5)


def test_a_decoder_learns_an_image():
    decoder = encoders.ImageDecoder(4, 4, "silu", generator())
    target = torch.zeros(1, 3, 64, 64)
    target[..., 20:40, 20:40] = 0.5
    features, optimiser = torch.ones(1, 4), torch.optim.Adam(decoder.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (decoder(features) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * target.square().mean().item()
