"""The one exception that a user is meant to read: a sentence with place, value, allowed range and what to do."""

from __future__ import annotations

import difflib

MOST_FAULTS = 100


class UserError(Exception):
    """Bad input, told in words. The command line prints it and exits with a status other than 0; never a traceback."""


class SpecError(UserError):
    """Every fault of a robot YAML at once; its words are those of the first `MOST_FAULTS`.

    Args:
        faults: one sentence per fault, each with file, line, key, value and what is allowed.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        more = [f"… and {len(faults) - MOST_FAULTS} more faults"] if len(faults) > MOST_FAULTS else []
        super().__init__("\n".join([*faults[:MOST_FAULTS], *more]))


class SnapshotError(UserError):
    """A model snapshot that must not be used: damaged, unsafe, or of another robot."""


class DataError(UserError):
    """A recording that cannot be read or does not hold what was asked for."""


def nearest(given: str, known: list[str]) -> str:
    """`; nearest: 'a' (known: a, b)` for the end of a message; empty if nothing is known."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.0)
    return f"; nearest: '{close[0]}' (known: {', '.join(known)})" if close else ""
