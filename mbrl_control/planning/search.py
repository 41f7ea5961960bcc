"""What the iterations of one plan share, and what they pass on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Problem:
    """What all iterations of one plan share; actions in half ranges.

    Rows live on the grid of whole multiples of the model step, whatever the time of the request, so that warm starts move by whole
    cells and nothing is smeared by planning often. What is sent, and rolled out, is their mean over the cells from the first action on.

    Attributes:
        seq: number of the request; chooses the noise.
        start: [S] state when the first action takes effect on the fastest axis.
        last: [A] last command sent before the plan.
        part: 0-d, share of the first cell of the rows that is over when the first action is sent; None for none.
        pending: [H, A] commands sent that slower axes still have before them, physical units; None without such.
        fixed: [R, H, A] rows within limits that are candidates in every iteration; row 0 is the nominal.
        scale: [S] typical one-step changes, for the members' disagreement; None where that does not count.
        sets: [I] which set of noise each iteration uses; None to go by `seq`. A captured iteration reads it, where a number would be
            the same in every replay.
        names: source of each fixed row, then of each row kept from the last plan.
        free: whether the nominal keeps clear of its limits. Then what the robot does otherwise can be corrected on the way, as a row
            without feedback cannot say, and plans are finished by the members' mean step; else by each member's own path, which hedges.
    """

    seq: int
    start: torch.Tensor
    last: torch.Tensor
    part: torch.Tensor | None
    pending: torch.Tensor | None
    fixed: torch.Tensor
    scale: torch.Tensor | None
    names: list[str]
    sets: torch.Tensor | None = None
    free: bool = False


@dataclass
class Search:
    """What a planner's iterations pass on; actions in half ranges.

    Attributes:
        mean: [K, A] knots around which to sample.
        std: [K, A] their spread.
        kept: [R, H, A] candidates kept from the iteration before, or from the last plan.
        figures: numbers for reports, 0-d; those of the last iteration count.
    """

    mean: torch.Tensor
    std: torch.Tensor
    kept: torch.Tensor
    figures: dict[str, torch.Tensor] = field(default_factory=dict)
