"""One vocabulary of faults for tests and for `mbrl inject`: what is done to a stream of messages, or to a process.

Messages: pure transformations with a seeded generator; time goes in and comes out, nothing sleeps. Processes: schedules of signals.
The words are those of PX4's fault injection, and some more.
"""

from __future__ import annotations

import heapq
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

M = TypeVar("M")


@dataclass(frozen=True)
class Word:
    """A kind of fault.

    Attributes:
        sentence: what it does.
        of: what it is done to.
        amount: how much by default.
        unit: what the amount means; empty for those that have none.
    """

    sentence: str
    of: str
    amount: float
    unit: str


WORDS: dict[str, Word] = {
    "drop": Word("messages are lost", "messages", 1.0, "share of the messages"),
    "delay": Word("messages come later, in order and with their old stamps", "messages", 0.1, "s"),
    "duplicate": Word("messages come several times", "messages", 1.0, "further copies of each"),
    "reorder": Word("messages come after the one that follows them", "messages", 0.3, "share of the messages"),
    "stuck": Word("numbers stay as they were, stamps go on", "messages", 1.0, "share of the messages"),
    "garbage": Word("numbers that are not finite or absurd, arrays too short or too long, joints missing or named twice", "messages", 1.0,
                    "share of the messages"),
    "wrong": Word("numbers are finite and plausible, and off", "messages", 1.0, "added to each, in its unit"),
    "flood": Word("each message comes a great many times", "messages", 100.0, "further copies of each"),
    "slow": Word("the process is stopped most of the time", "process", 0.9, "share of the time in which it is stopped"),
    "kill": Word("the process is killed at once (SIGKILL)", "process", 1.0, ""),
    "stop": Word("the process is stopped, and goes on afterwards (SIGSTOP, SIGCONT)", "process", 1.0, ""),
    "full": Word("whatever the process writes to a file fails as if the disk were full", "process", 1.0, ""),
}
MESSAGE_WORDS = tuple(name for name, word in WORDS.items() if word.of == "messages")
PROCESS_WORDS = tuple(name for name, word in WORDS.items() if word.of == "process")
NEEDS_EDITOR = frozenset({"stuck", "garbage", "wrong"})
GARBAGE = (np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324)
SLOW_PERIOD_S = 0.1


class Editor(Protocol[M]):
    """Changes copies of messages of one kind."""

    def numbers(self, message: M) -> np.ndarray:
        """[K] the numbers of a message."""
        ...

    def with_numbers(self, message: M, numbers: np.ndarray) -> M:
        """A copy with other numbers [K]."""
        ...

    def misshapen(self, message: M, rng: np.random.Generator) -> M:
        """A copy whose arrays or names do not fit together, if its kind has any."""
        ...


class Injector(Generic[M]):
    """A fault in a stream of messages: give it each message, send what it gives back.

    Args:
        word: of `MESSAGE_WORDS`.
        rng: decides what is random.
        editor: of the messages, for `stuck`, `garbage` and `wrong`.
        amount: see `WORDS`; by default the word's own.
        begin_s: from when on.
        end_s: until when; messages outside go through as they are.

    Raises:
        ValueError: no such word, or its editor is missing.
    """

    def __init__(self, word: str, rng: np.random.Generator, editor: Editor[M] | None = None, amount: float | None = None,
                 begin_s: float = -np.inf, end_s: float = np.inf) -> None:
        if word not in MESSAGE_WORDS:
            raise ValueError(f"'{word}' is nothing that can be done to messages; that can: {', '.join(MESSAGE_WORDS)}")
        if word in NEEDS_EDITOR and editor is None:
            raise ValueError(f"'{word}' changes numbers in messages; it needs an editor of them")
        self._rng, self._editor = rng, editor
        self._amount = WORDS[word].amount if amount is None else amount
        self._begin_s, self._end_s = begin_s, end_s
        self._held: M | None = None
        self._frozen: np.ndarray | None = None
        self._do: Callable[[float, M], list[tuple[float, M]]] = getattr(self, f"_{word}")

    def push(self, time_s: float, message: M) -> list[tuple[float, M]]:
        """What comes out for a message that comes in: (time, message) each, none before `time_s`."""
        held, self._held = self._held, None
        out = self._do(time_s, message) if self._begin_s <= time_s < self._end_s else [(time_s, message)]
        return out if held is None else [*out, (time_s, held)]

    def flush(self, time_s: float) -> list[tuple[float, M]]:
        """What is still held back when the stream ends."""
        held, self._held = self._held, None
        return [] if held is None else [(time_s, held)]

    def _edit(self) -> Editor[M]:
        assert self._editor is not None
        return self._editor

    def _chosen(self) -> bool:
        return bool(self._rng.random() < self._amount)

    def _drop(self, time_s: float, message: M) -> list[tuple[float, M]]:
        return [] if self._chosen() else [(time_s, message)]

    def _delay(self, time_s: float, message: M) -> list[tuple[float, M]]:
        return [(time_s + self._amount, message)]

    def _duplicate(self, time_s: float, message: M) -> list[tuple[float, M]]:
        return [(time_s, message)] * (1 + round(self._amount))

    _flood = _duplicate

    def _reorder(self, time_s: float, message: M) -> list[tuple[float, M]]:
        if not self._chosen():
            return [(time_s, message)]
        self._held = message
        return []

    def _stuck(self, time_s: float, message: M) -> list[tuple[float, M]]:
        if self._frozen is None:
            self._frozen = self._edit().numbers(message)
        return [(time_s, self._edit().with_numbers(message, self._frozen) if self._chosen() else message)]

    def _garbage(self, time_s: float, message: M) -> list[tuple[float, M]]:
        if not self._chosen():
            return [(time_s, message)]
        if self._rng.random() < 0.5:
            return [(time_s, self._edit().misshapen(message, self._rng))]
        numbers = self._edit().numbers(message).copy()
        numbers[self._rng.integers(len(numbers))] = self._rng.choice(GARBAGE)
        return [(time_s, self._edit().with_numbers(message, numbers))]

    def _wrong(self, time_s: float, message: M) -> list[tuple[float, M]]:
        return [(time_s, self._edit().with_numbers(message, self._edit().numbers(message) + self._amount))]


def through(injector: Injector[M], stream: Iterable[tuple[float, M]]) -> Iterator[tuple[float, M]]:
    """A stream with a fault in it, in the order of time.

    Args:
        injector: the fault.
        stream: (time in s, message), in the order of time.
    """
    waiting: list[tuple[float, int, M]] = []
    number, last_s = itertools.count(), 0.0
    for time_s, message in stream:
        while waiting and waiting[0][0] < time_s:
            yield waiting[0][0], heapq.heappop(waiting)[2]
        for out_s, out in injector.push(time_s, message):
            heapq.heappush(waiting, (out_s, next(number), out))
        last_s = time_s
    for out_s, out in injector.flush(last_s):
        heapq.heappush(waiting, (out_s, next(number), out))
    while waiting:
        yield waiting[0][0], heapq.heappop(waiting)[2]


@dataclass(frozen=True)
class Step:
    """What is done to a process at a time.

    Attributes:
        time_s: since the begin.
        signal: sent to it; None for its limit on files.
        limited: with `signal` None: whether it may not write.
    """

    time_s: float
    signal: signal.Signals | None = None
    limited: bool = False


def schedule(word: str, seconds: float, amount: float | None = None) -> list[Step]:
    """What is done to a process and when, in the order of time; in the end it may go on as before, unless it was killed.

    Args:
        word: of `PROCESS_WORDS`.
        seconds: how long.
        amount: see `WORDS`; by default the word's own.

    Raises:
        ValueError: no such word.
    """
    if word == "kill":
        return [Step(0.0, signal.SIGKILL)]
    if word == "stop":
        return [Step(0.0, signal.SIGSTOP), Step(seconds, signal.SIGCONT)]
    if word == "full":
        return [Step(0.0, limited=True), Step(seconds)]
    if word != "slow":
        raise ValueError(f"'{word}' is nothing that can be done to a process; that can: {', '.join(PROCESS_WORDS)}")
    share = min(max(WORDS[word].amount if amount is None else amount, 0.0), 0.99)
    out = []
    for k in range(max(1, round(seconds / SLOW_PERIOD_S))):
        out += [Step(k * SLOW_PERIOD_S, signal.SIGSTOP), Step((k + share) * SLOW_PERIOD_S, signal.SIGCONT)]
    return out
