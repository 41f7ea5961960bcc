"""Which proposal sources a plan asks: one that has been of no use for long is asked now and then only, so that it costs next to nothing.

What a plan must know for that is in the plan before it, so that a logged plan can be made again.
"""

from __future__ import annotations

from collections.abc import Sequence

from mbrl_control.planning.plan import Plan

AFTER, EVERY = 25, 16
"""A source is asked in vain in so many plans in a row before it idles; then in each so many-th plan, until it is of use again."""

MOST = 63
"""Nothing is counted further."""


def known(previous: Plan | None) -> tuple[int, ...]:
    """`Plan.idle` of the plan before; nothing where there is none."""
    return previous.idle if previous is not None else ()


def asked(idle: Sequence[int], source: int, seq: int) -> bool:
    """Whether a plan asks a source.

    Args:
        idle: of the plan before, see `Plan.idle`; a source that is not in it was never asked.
        source: its number among the planner's.
        seq: number of the plan's request.
    """
    return source >= len(idle) or idle[source] < AFTER or (seq + source) % EVERY == 0


def after(idle: Sequence[int], seq: int, useful: Sequence[bool]) -> tuple[int, ...]:
    """`Plan.idle` of a plan.

    Args:
        idle: of the plan before.
        seq: number of the plan's request.
        useful: of each source, whether a row of its won, or what else it brings counted.
    """
    before = [*idle[:len(useful)], *[0] * (len(useful) - len(idle))]
    return tuple(0 if used else min(MOST, count + asked(idle, n, seq))
                 for n, (count, used) in enumerate(zip(before, useful, strict=True)))
