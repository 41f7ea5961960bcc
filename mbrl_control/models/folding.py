"""An ensemble's weights made ready for the planner's inner loop: normalisation, integration and the identity folded in."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from mbrl_control.models import network
from mbrl_control.models.encoding import Encoding, Normaliser


class Folded(NamedTuple):
    """Weights that take features in physical units to the next state in physical units.

    Attributes:
        first: ([E, I, h], [E, 1, h]) float32, since its inputs are not normalised.
        hidden: further layers in the chosen precision.
        last: [E, h, S] to the change of state.
        base: ([E, I, S], [E, 1, S]) carries the state over and adds what is linear in the features, float32.
        spread: ([E, h, S], [E, 1, S]) to the raw log-variance.
        error_scale: [S] unit of the standard deviation.
    """

    first: tuple[torch.Tensor, torch.Tensor]
    hidden: list[tuple[torch.Tensor, torch.Tensor]]
    last: torch.Tensor
    base: tuple[torch.Tensor, torch.Tensor]
    spread: tuple[torch.Tensor, torch.Tensor]
    error_scale: torch.Tensor

    def to(self, device: torch.device) -> Folded:
        """The same weights on another device, with the same strides."""
        moved: Folded = _to(self, device)
        return moved

    def take(self, other: Folded) -> None:
        """Copy other weights of the same shapes in place, so that every buffer keeps its address."""
        _copy(self, other)


def fold(parameters: list[torch.Tensor], norm: Normaliser, encoding: Encoding, dtype: torch.dtype) -> Folded:
    """Fold, in double precision.

    Args:
        parameters: of the members to fold, as in `network.initial`.
        norm: statistics that the parameters were fitted with.
        encoding: of the robot.
        dtype: precision of the hidden layers (float32 or bfloat16); state, first and last layer stay float32.
    """
    weights, size = [w.double() for w in parameters], encoding.state_dim
    spread = encoding.spread.double()
    layers, linear = network.parts(weights)
    first = norm.input_inverse[:, None] * layers[0], layers[1] - rows(norm.input_mean * norm.input_inverse, layers[0])
    last, bias = layers[-2], layers[-1]
    mean = (last[..., :size] * norm.target_scale) @ spread
    offset = (bias[..., :size] * norm.target_scale + norm.target_mean) @ spread
    base = torch.zeros(len(last), encoding.inputs, size, dtype=torch.float64)
    base[:, :size] = encoding.carry.double()
    if linear is not None:
        straight = norm.input_inverse[:, None] * (linear * norm.target_scale) @ spread
        base, offset = base + straight, offset - rows(norm.input_mean, straight)
    hidden = [(w.to(dtype), b.to(dtype)) for w, b in zip(layers[2:-2:2], layers[3:-2:2], strict=True)]
    # A product with so few columns is three times as fast when they lie contiguous in memory.
    narrow = mean.float().mT.contiguous().mT
    return Folded(_float(first), hidden, narrow, _float((base, offset)), _float((last[..., size:], bias[..., size:])),
                  norm.error_scale.float())


def with_mirror_images(folded: Folded, encoding: Encoding) -> Folded:
    """Twice the members: each, and its image in the mirror that the robot is symmetric in.

    What the images predict of a mirrored state under a mirrored command is the mirrored prediction. So the members together are exactly
    symmetric, whatever each has learned, and where the robot rests by symmetry, so does the model.
    """
    state, action = (torch.as_tensor(sign, dtype=torch.float32) for sign in (encoding.state_sign, encoding.action_sign))
    angles = state[encoding.angles]
    inputs = torch.cat([state, angles, torch.ones_like(angles), action, state[encoding.rates]])[:, None]

    def both(array: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([array, image])

    def twice(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return both(pair[0], pair[0]), both(pair[1], pair[1])

    (first, first_bias), (base, offset) = folded.first, folded.base
    last = both(folded.last, folded.last * state).mT.contiguous().mT
    return Folded((both(first, inputs * first), both(first_bias, first_bias)), [twice(pair) for pair in folded.hidden], last,
                  (both(base, inputs * base * state), both(offset, offset * state)), twice(folded.spread), folded.error_scale)


def renormalise(parameters: list[torch.Tensor], old: Normaliser, new: Normaliser) -> None:
    """Rewrite parameters, in place, so that with new statistics they are the function that they were with the old ones."""
    layers, linear = network.parts(parameters)
    first, bias, last, last_bias = layers[0], layers[1], layers[-2], layers[-1]
    size = len(old.target_scale)
    seen = new.input_inverse > 0
    ratio = torch.where(seen, old.input_inverse / torch.where(seen, new.input_inverse, 1.0), 0.0)
    moved = (new.input_mean - old.input_mean) * old.input_inverse
    bias += rows(moved, first.double()).float()
    first *= ratio[:, None].float()
    out = old.target_scale / new.target_scale
    if linear is not None:
        last_bias[..., :size] += rows(moved, linear.double()).float()
        linear *= (ratio[:, None] * out).float()
    last[..., :size] *= out.float()
    last_bias[..., :size] *= out.float()
    last_bias[..., :size] += ((old.target_mean - new.target_mean) / new.target_scale).float()
    last_bias[..., size:] += 2 * (old.error_scale / new.error_scale).log().float()


def rows(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """[E, 1, h] product of a row vector [I] and matrices [E, I, h]."""
    return vector[None, None] @ matrix


def _float(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0].float(), pair[1].float()


def _to(part: Any, device: torch.device) -> Any:
    if isinstance(part, torch.Tensor):
        return part.to(device, copy=True)
    items = [_to(item, device) for item in part]
    return Folded(*items) if isinstance(part, Folded) else type(part)(items)


def _copy(old: object, new: object) -> None:
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        old.copy_(new)
    elif isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)):
        for left, right in zip(old, new, strict=True):
            _copy(left, right)
