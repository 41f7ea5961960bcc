"""Intervals of time, and what two lists of them have in common. Needs nothing: the watcher of the machine must stay small."""

from __future__ import annotations

from collections.abc import Sequence

Interval = tuple[float, float]
"""(begin, end), s."""


def overlaps(one: Sequence[Interval], two: Sequence[Interval]) -> list[Interval]:
    """The intervals that lie in both, in order.

    Args:
        one, two: in order of time, without overlaps within each.
    """
    found, i, j = [], 0, 0
    while i < len(one) and j < len(two):
        begin, end = max(one[i][0], two[j][0]), min(one[i][1], two[j][1])
        if begin < end:
            found.append((begin, end))
        if one[i][1] < two[j][1]:
            i += 1
        else:
            j += 1
    return found
