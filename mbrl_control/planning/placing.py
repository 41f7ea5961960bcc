"""Moving parts between devices."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def placed(part: T, device: torch.device) -> T:
    """A shallow copy of a part with the tensors among its attributes, also those in lists, tuples and dicts, on a device."""
    if part is None:
        return part
    twin = copy.copy(part)
    for name, value in vars(part).items():
        object.__setattr__(twin, name, _moved(value, device))
    return twin


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
        return type(value)(item.to(device) if isinstance(item, torch.Tensor) else item for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value
