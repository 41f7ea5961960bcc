"""A cap on what a process may ask the system for, and the sentence when it strikes."""

from __future__ import annotations

import contextlib
import resource

EXHAUSTED = 77
"""Exit status of a process that ended at its cap."""

_WORDS = ("not enough memory", "can't allocate memory", "std::bad_alloc")


def cap(megabytes: int) -> None:
    """Let this process have so much private writable memory and no more; what asks for more fails in it, and nowhere else.

    RLIMIT_DATA, not RLIMIT_AS: libraries of torch reserve address space that they never use. And not a look at the resident size from
    outside: between two looks a process can take gigabytes.
    """
    wanted, hard = megabytes * 2**20, resource.getrlimit(resource.RLIMIT_DATA)[1]
    with contextlib.suppress(OSError, ValueError):  # a system without it
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there was no memory: torch does not use MemoryError for it."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS))
