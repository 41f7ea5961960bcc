"""Candidate rows from elsewhere (policies, stored manoeuvres), and the commands that are already on their way."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from mbrl_control.planning.plan import PlanRequest


class Proposal(Protocol):
    """A source of candidate action sequences; which source wins is counted by `name`."""

    name: str

    def rows(self, request: PlanRequest) -> torch.Tensor:
        """[R, H, A] actions in physical units for a request."""
        ...


def mean_command(request: PlanRequest, begin: float, end: float, delays: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """[A] mean of the command in effect over [begin, end], per axis as late as its delay; `zero` before the first one sent.

    Commands are held until the next one; the last one sent is taken to hold on.
    """
    out = np.array(zero, dtype=np.float64)
    if not len(request.sent):
        return out
    for axis, delay in enumerate(delays):
        edges = np.concatenate([[-np.inf], request.sent_time + delay, [np.inf]])
        values = np.concatenate([[zero[axis]], request.sent[:, axis]])
        overlap = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0.0, None)
        out[axis] = float(values @ overlap) / (end - begin)
    return out
