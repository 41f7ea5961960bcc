"""Why a message was not taken: a code for machines and counters, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal["malformed", "joint_missing", "joint_twice", "joint_foreign", "length", "not_finite", "out_of_bounds", "jump", "stuck",
                 "stamp_future", "stamp_duplicate", "stamp_disordered"]

REASONS: tuple[Reason, ...] = get_args(Reason)
JOINTS: frozenset[Reason] = frozenset({"joint_missing", "joint_twice", "length"})
"""Refusals that say that joints and values cannot be put together."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that was not taken.

    Attributes:
        code: the kind of reason, of `REASONS`.
        sentence: with the names and numbers of this message.
    """

    code: Reason
    sentence: str

    def __str__(self) -> str:
        return self.sentence
