"""Kills of a run's processes as figures: what to kill next, what one kill cost, what all of them come to. Pure: no process is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import comb
from typing import Any

import numpy as np

from mbrl_control.intervals import Interval, overlaps

FATAL, HELPERS = ("controller", "sim", "mbrl"), ("planner", "keeper", "trainer", "recorder")
LOOK_S = 1.5
"""So long before and after a kill is looked at; between two kills in one run there is time for both."""

MOST_IN_RUN = 4
"""Kills of one helper in a run: after the fifth end within ten minutes the product rightly leaves it down."""

SETTLED_S = 1.0
"""Messages that are older than this at a kill of the recorder must be on the disk."""

DOUBT = 0.05
"""Stops of the machine after kills are put down to chance unless it would bring so many in fewer than this share of trials."""


@dataclass
class Kill:
    """A kill and what followed.

    Attributes:
        what: the process.
        phase_s: since the start of its run.
        at: monotonic, s.
        wall_ns: on the system's clock.
        commanding: whether commands were being sent.
        gap_s: longest time between the arrivals of two commands from just before to `LOOK_S` after; nan when control ended with it.
        missed: ticks at which the controller published none in that time.
        frozen: of the ticks missed, those that the machine itself had no time for: every core stood still.
        before_gap_s: as `gap_s`, in the `LOOK_S` before: what the machine itself does.
        before_missed: as `missed`, in that time; `before_frozen` of them as `frozen`.
        silence_s: from the last command to `zero` in force, as the plant measured it.
        back_s: until its successor was there; nan for none.
        after: commands that were published later than 50 ms after the death of the controller, by whomever.
        lost_s: from the newest message in the bag to the kill (recorder).
        unrecorded_s: from the newest command in the bag before the kill to the first one after it, in whatever part (recorder).
        unrecorded: commands sent in that time that no part holds.
        readable: share of the messages older than one second at the kill that the bag holds.
        ended_s: until every process of the run was gone, for a kill that ends it.
        processes: processes left over.
        shared: files left in shared memory; `shared_after` of them after the next start's tidying up.
        temporary: half-written files left over in the run's folder.
    """

    what: str
    phase_s: float
    at: float
    wall_ns: int
    commanding: bool
    gap_s: float = float("nan")
    missed: int = 0
    frozen: int = 0
    before_gap_s: float = float("nan")
    before_missed: int = 0
    before_frozen: int = 0
    silence_s: float = float("nan")
    back_s: float = float("nan")
    after: int = 0
    lost_s: float = float("nan")
    unrecorded_s: float = float("nan")
    unrecorded: int = 0
    readable: float = float("nan")
    ended_s: float = float("nan")
    processes: int = 0
    shared: int = 0
    shared_after: int = 0
    temporary: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What a run is for.

    Attributes:
        fatal: the process that it ends with; killed at any phase from its first instant on where there are no helpers to kill before. Empty
            for none.
        helpers: processes to kill, in order; each one comes back before it is killed again.
    """

    fatal: str = ""
    helpers: tuple[str, ...] = ()


def next_run(wanted: Mapping[str, int], done: Mapping[str, int], rng: np.random.Generator) -> Plan | None:
    """What the next run is for; None when nothing is left to do.

    Args:
        wanted: kills of each process.
        done: kills so far.
        rng: gives the order of the helpers.
    """
    left = {what: max(0, count - done.get(what, 0)) for what, count in wanted.items()}
    helpers = [h for h in HELPERS for _ in range(min(MOST_IN_RUN, left.get(h, 0)))]
    fatal = max(FATAL, key=lambda f: left.get(f, 0))
    # A run for helpers has to end anyway: so it ends with a kill, of a process that has lived through theirs.
    plan = Plan(fatal if left.get(fatal) else "", tuple(rng.permutation(helpers).tolist()))
    return plan if plan.fatal or plan.helpers else None


def count(kills: Sequence[Kill]) -> dict[str, int]:
    """Kills of each process."""
    return {what: sum(k.what == what for k in kills) for what in (*FATAL, *HELPERS)}


def cadence(made: Kill, tick_s: float, arrived: Sequence[float], stamped: Sequence[int], freezes: Sequence[Interval]) -> None:
    """Fill in the gaps between commands around a kill.

    Args:
        made: the kill.
        tick_s: period of the commands.
        arrived: when commands came, monotonic, s.
        stamped: when they were sent, ns of the system's clock.
        freezes: in which every core of the machine stood still, monotonic, s, in order.
    """
    came, sent = np.array(arrived), 1e-9 * (np.array(stamped) - made.wall_ns)
    for name, low, high in (("before_", -LOOK_S, 0.0), ("", -2 * tick_s, LOOK_S)):
        gaps = np.diff(came[(came >= made.at + low) & (came <= made.at + high)])
        setattr(made, f"{name}gap_s", float(gaps.max()) if len(gaps) else float("nan"))
        published = sent[(sent >= low) & (sent <= high)]
        still = [sum(b - a for a, b in overlaps([(made.at + begin, made.at + end)], freezes)) for begin, end in pairwise(published)]
        between = np.diff(published)
        missed, without = (int(np.maximum(np.floor(gap / tick_s + 0.25) - 1, 0).sum()) for gap in (between, between - still))
        setattr(made, f"{name}missed", missed)
        setattr(made, f"{name}frozen", missed - without)


def recorded(kills: Sequence[Kill], sent: Sequence[int], held: Sequence[int]) -> None:
    """Fill in what kills of the recorder cost of the recording.

    Args:
        kills: of the recorder, in one run, in order.
        sent: when commands were sent, as somebody else saw it, ns.
        held: when commands were sent that the bag's parts hold, ns.
    """
    all_sent, all_held = np.unique(np.array(sent, dtype=np.int64)), np.unique(np.array(held, dtype=np.int64))
    begin = 0
    for made in kills:
        before, after = all_held[all_held <= made.wall_ns], all_held[all_held > made.wall_ns]
        mine = before[before > begin]
        begin = made.wall_ns
        if not len(mine) or not made.commanding:
            continue
        made.lost_s = 1e-9 * float(made.wall_ns - mine[-1])
        old = all_sent[(all_sent >= mine[0]) & (all_sent <= made.wall_ns - round(1e9 * SETTLED_S))]
        made.readable = float(np.isin(old, mine).mean()) if len(old) else float("nan")
        end = after[0] if len(after) else all_sent[-1]
        made.unrecorded_s = 1e-9 * float(end - mine[-1])
        gone = all_sent[(all_sent > mine[-1]) & (all_sent <= end)]
        made.unrecorded = int((~np.isin(gone, all_held)).sum())


def summary(kills: Sequence[Kill]) -> dict[str, Any]:
    """Figures by process."""
    out: dict[str, Any] = {}
    for what in (*FATAL, *HELPERS):
        some = [k for k in kills if k.what == what]
        if not some:
            continue

        def worst(attribute: str, some: list[Kill] = some, pick: Any = np.max) -> float:
            values = [v for k in some if np.isfinite(v := getattr(k, attribute))]
            return float(pick(values)) if values else float("nan")

        out[what] = {"kills": len(some), "missed_ticks": sum(k.missed for k in some),
                     "missed_in_freezes": sum(k.frozen for k in some),
                     "missed_before": sum(k.before_missed for k in some),
                     "missed_before_in_freezes": sum(k.before_frozen for k in some),
                     "freezes": sum(k.frozen > 0 for k in some), "freezes_before": sum(k.before_frozen > 0 for k in some),
                     "gap_ms": 1e3 * worst("gap_s"),
                     "gap_before_ms": 1e3 * worst("before_gap_s"), "stop_ms": 1e3 * worst("silence_s"), "back_s": worst("back_s"),
                     "commands_after": sum(k.after for k in some), "lost_s": worst("lost_s"), "unrecorded_s": worst("unrecorded_s"),
                     "unrecorded_s_median": worst("unrecorded_s", pick=np.median), "unrecorded": sum(k.unrecorded for k in some),
                     "readable": worst("readable", pick=np.min), "ended_s": worst("ended_s"),
                     "processes_left": sum(k.processes for k in some), "shared_left": sum(k.shared for k in some),
                     "shared_left_after_next_start": sum(k.shared_after for k in some),
                     "temporary_left": sum(len(k.temporary) for k in some)}
    return out


def chance(after: int, before: int) -> float:
    """How often chance brings so many events after kills, or more, where they come as often before.

    Both counts are of equal times, so that of all events each falls after with probability 1/2 (the conditional test of two Poisson counts;
    Przyborowski & Wilenski 1940).

    Args:
        after: events after kills.
        before: events before them.
    """
    both = after + before
    return sum(comb(both, k) for k in range(after, both + 1)) / 2**both


def passed(command_timeout_s: float, by: Mapping[str, Any]) -> dict[str, bool]:
    """What the product promises, and whether it held.

    Args:
        command_timeout_s: after which the simulated robot obeys no longer.
        by: figures by process, see `summary`.
    """
    allowed = 1e3 * command_timeout_s + 0.01
    values = by.values()
    helpers = [by[h] for h in HELPERS if h in by]
    # One stop misses several ticks together, and comes by itself about once in 300 kills: stops are compared, not ticks.
    stops = [(v["freezes"], v["freezes_before"]) for v in helpers]
    stops.append((sum(after for after, _ in stops), sum(before for _, before in stops)))
    return {"the receiver stops in time": not by.get("controller", {}).get("stop_ms", 0.0) > allowed,
            "no command after the controller's death": by.get("controller", {}).get("commands_after", 0) == 0,
            "no more ticks missed after a helper's death than before": all(v["missed_ticks"] <= v["missed_before"] for v in helpers),
            "no tick missed after a helper's death but in stops of the machine": all(v["missed_ticks"] == v["missed_in_freezes"]
                                                                                    for v in helpers),
            "no more stops of the machine after helpers' deaths than chance brings": all(chance(*s) >= DOUBT for s in stops),
            "no process left": all(v["processes_left"] == 0 for v in values),
            "nothing to clean by hand": all(v["shared_left_after_next_start"] == 0 for v in values),
            "at most a second lost": not by.get("recorder", {}).get("unrecorded_s", 0.0) > 1.0,
            "99.9 % readable": not by.get("recorder", {}).get("readable", 1.0) < 0.999}
