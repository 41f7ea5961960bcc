"""Where Dreamer's three versions differ, and the sizes they come in: this file and no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mbrl_control.models.latents import Balance
from mbrl_control.models.layers import Norm, Style


@dataclass(frozen=True)
class Version:
    """One of Dreamer's versions.

    Attributes:
        categorical: latents are categorical; else Gaussian.
        unimix: share of a uniform distribution in every class's chance.
        balance: weights and free bits of the divergence.
        logarithmic: observations pass `symlog`, as inputs and as targets.
        precision: of vectors, 1 / variance of the Gaussian that they are explained by. Images keep 1, at which v1 and v2 were
            published: thousands of pixels outweigh the divergence. A handful of numbers does not, and latents that cost more than they
            explain tell nothing.
        style: of all layers but the GRU.
        gates: norm of the GRU's.
        two_hot: reward and value are two-hot; else means of Gaussians of variance 1. Two-hot outputs start at exactly 0.
        gamma: what an environment step later is worth; the continue head learns it.
        actions: the actor's distribution: `tanh` of a Gaussian, Gaussian `cut` to [-1, 1], or Gaussian with `clipped` draws.
        reinforce: the actor learns by its log-likelihood times the advantage; else by the gradient of returns through the model.
        scaled: what the actor gains is divided by the range of returns.
        entropy: weight of the actor's entropy.
        noise: standard deviation of what is added to actions in training.
        target: what the critic's targets come from: `self`, a `copy` refreshed every 100 updates, or itself with a loss towards its
            moving `average`.
        follow: how far that average goes towards the critic at each update.
        replay_value: weight of the critic's loss on what really happened, whose gradient reaches the model.
        optimiser: `adam` with the gradient's norm clipped at 100, or `laprop` with each array's gradient clipped at 0.3 of its norm.
        rates: learning rates of model, actor and critic.
    """

    categorical: bool
    unimix: float
    balance: Balance
    logarithmic: bool
    precision: float
    style: Style
    gates: Norm
    two_hot: bool
    gamma: float
    actions: Literal["tanh", "cut", "clipped"]
    reinforce: bool
    scaled: bool
    entropy: float
    noise: float
    target: Literal["self", "copy", "average"]
    follow: float
    replay_value: float
    optimiser: Literal["adam", "laprop"]
    rates: tuple[float, float, float]


V1 = Version(
    categorical=False, unimix=0.0, balance=Balance(1.0, 1.0, 3.0, each=False), logarithmic=False, precision=100.0,
    style=Style("none", "elu"), gates="none",
    two_hot=False, gamma=0.99**0.5, actions="tanh", reinforce=False, scaled=False, entropy=0.0, noise=0.3,
    target="self", follow=0.0, replay_value=0.0, optimiser="adam", rates=(6e-4, 8e-5, 8e-5),
)
"""Hafner et al. 2020, "Dream to Control"."""

V2 = Version(
    categorical=True, unimix=0.0, balance=Balance(0.8, 0.2, 1.0, each=False), logarithmic=False, precision=100.0,
    style=Style("none", "elu"), gates="layer",
    two_hot=False, gamma=0.99**0.5, actions="cut", reinforce=False, scaled=False, entropy=1e-4, noise=0.0,
    target="copy", follow=0.0, replay_value=0.0, optimiser="adam", rates=(3e-4, 8e-5, 2e-4),
)
"""Hafner et al. 2021, "Mastering Atari with Discrete World Models", with its settings for continuous control."""

V3 = Version(
    categorical=True, unimix=0.01, balance=Balance(1.0, 0.1, 1.0, each=True), logarithmic=True, precision=1.0,
    style=Style("layer", "silu"), gates="layer",
    two_hot=True, gamma=1 - 1 / 333, actions="clipped", reinforce=True, scaled=True, entropy=3e-4, noise=0.0,
    target="average", follow=0.02, replay_value=0.3, optimiser="laprop", rates=(4e-5, 4e-5, 4e-5),
)
"""Hafner et al. 2023, "Mastering Diverse Domains through World Models"."""

VERSIONS: dict[str, Version] = {"v1": V1, "v2": V2, "v3": V3}


@dataclass(frozen=True)
class Size:
    """How large the networks are.

    Attributes:
        memory: D, of the GRU.
        hidden: units between the parts of the recurrent model.
        units: of encoder, decoder, heads, actor and critic.
        layers: of each of those.
        gaussian: size of a Gaussian latent.
        groups: of a categorical latent.
        classes: of each group.
        bins: of two-hot outputs.
        depth: channels of the first convolution on images.
        rates: learning rates of a version, by name, instead of its own, which are for larger networks and many more updates.
        follow: instead of the version's, where it has an average; None: the version's.
    """

    memory: int
    hidden: int
    units: int
    layers: int
    gaussian: int
    groups: int
    classes: int
    bins: int
    depth: int
    rates: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    follow: float | None = None


SIZES: dict[str, Size] = {
    "small": Size(memory=128, hidden=64, units=64, layers=2, gaussian=16, groups=8, classes=8, bins=127, depth=8, follow=0.1,
                  rates={"v1": (1e-3, 8e-5, 3e-4), "v2": (1e-3, 8e-5, 3e-4), "v3": (1e-3, 3e-4, 1e-3)}),
    "size1m": Size(memory=512, hidden=64, units=64, layers=3, gaussian=30, groups=32, classes=4, bins=255, depth=16),
}
"""`size1m` is v3's smallest (without its block-diagonal gates). `small` learns state tasks on one core with a sixteenth of the published
replay; its rates were found on the swing-up of a cart-pole. A critic held to an average that follows at the published 0.02 needs twice as
many updates to find the value of a whole episode."""


def chosen(name: str, size: str) -> Version:
    """A version with what its size changes of it."""
    version, networks = VERSIONS[name], SIZES[size]
    follow = networks.follow if networks.follow is not None and version.target == "average" else version.follow
    return dataclasses.replace(version, rates=networks.rates.get(name, version.rates), follow=follow)
