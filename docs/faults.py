"""Writes docs/faults.md from results of tests: `make faults`, or `python docs/faults.py results.json ...`.

A test that injects a fault of the table bears `@pytest.mark.fault(row=N)`, and says what it measured with
`record_property("measured", "...")`; `pytest --faults-json results.json` collects both. What no test measured is told as not measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mbrl_control.runtime.injection import WORDS

TARGET = Path(__file__).parent / "faults.md"
LAYERS = {"L0": "on a virtual clock, in one process", "L1": "real processes on one machine", "L2": "real ROS 2 nodes", "L3": "with a GPU",
          "L4": "long runs and fuzzing"}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        number: by which tests name it.
        fault: what goes wrong.
        required: what must happen then; T is the period of the tick.
        layer: where it is tested, of `LAYERS`.
    """

    number: int
    fault: str
    required: str
    layer: str


@dataclass(frozen=True)
class Result:
    """What became of a test.

    Attributes:
        row: that it covers.
        test: its id.
        outcome: passed, failed or skipped.
        measured: what it says it measured; empty for nothing.
    """

    row: int
    test: str
    outcome: str
    measured: str = ""


ROWS = tuple(Row(number, *cells) for number, cells in enumerate((
    ("state topic falls silent", "DEGRADED at an age above 2 T, BRAKE above the time-out (5 T, at most 100 ms), LATCHED at five time-outs "
     "(500 ms)", "L0"),
    ("old stamps at the full rate", "age by stamp and by arrival, the larger counts; limits as in row 1", "L0"),
    ("stamps out of order or twice", "dropped and counted, time never steps back, the effect lasts at most 1 T; DEGRADED above 10 % in 1 s",
     "L0"),
    ("stamps in the future", "refused when more than 1 T ahead; BRAKE after 5 in a row", "L0"),
    ("NaN or infinity in a used field", "the message is refused in the same tick, as if it had not come; unused fields may hold anything",
     "L0"),
    ("values that are huge, or jump", "refused beyond the bounds, and for moves of more than three times what the rate allows; BRAKE after "
     "3 in a row", "L0"),
    ("joints in another order, missing, twice or others besides", "found by name in each message; missing or twice: refused, LATCHED "
     "after 100 ms; others are ignored", "L0"),
    ("arrays of the wrong length", "refused in the same tick, no exception leaves the callback", "L0"),
    ("the system's clock is set", "period error at most 10 % for ±1 h; stamps are read anew; BRAKE only if the state "
     "does become stale", "L0"),
    ("planner too late", "the last plan is followed on time, no tick is missed; DEGRADED after 3 plan periods, BRAKE when it has run out",
     "L0"),
    ("exception in the planner", "fallback in the same tick, planner back within 1 s; LATCHED after 3 in 10 s", "L1"),
    ("GPU out of memory", "plans come from the processor within 500 ms, ticks go on", "L3"),
    ("GPU lost", "planner started anew, on the processor, within 2 s; the controller holds no context of the GPU", "L3"),
    ("NaN out of the model", "such candidates do not count; without a finite one the last plan goes on in the same tick; model rolled back "
     "after 3 in a row", "L0"),
    ("model out of its data", "DEGRADED within 1 T when the plan leaves the data or the members disagree", "L0"),
    ("snapshot damaged or cut short", "refused before the swap, the old model goes on, no tick is missed", "L0"),
    ("snapshot made with ill intent", "no code is run; sizes, keys, shapes and types are checked before anything is read", "L0"),
    ("snapshot that is sound and worse", "kept out by the gate on held-out data", "L0"),
    ("trainer crashes", "ticks go on; trainer back within 5 s", "L1"),
    ("trainer hangs", "noticed by its heartbeat, killed after 10 s", "L1"),
    ("trainer takes too much memory", "killed at its limit, ticks go on", "L1"),
    ("disk full", "recording ends before the disk is full and says so within 1 s; control goes on; no half snapshot is ever seen", "L1"),
    ("slow disk", "bounded queue, what finds it full is dropped and counted; no tick waits", "L1"),
    ("kill -9 of any process", "the robot stops within 3 T or 100 ms when it was the controller, else nothing changes; the next start "
     "needs no cleaning", "L1"),
    ("node restarted in mid-run", "starts INACTIVE; the first command is that of the measured state", "L2"),
    ("flood or unknown publisher", "ticks on time beside 10,000 messages a second; a second publisher of commands is told within "
     "1 s", "L2"),
    ("command, call or parameter from somebody without the right", "refused and logged, nothing changes", "L2"),
    ("bad parameter", "refused with the reason, values in use stay", "L2"),
    ("malformed YAML", "told within 1 s with file, line, key and the nearest valid key; size, depth and aliases are limited", "L0"),
    ("malformed MJCF", "read in a child process with limits of time and memory; the reason is told", "L1"),
    ("malformed or truncated recording", "what is sound in it is used; what is lost is counted, never silently", "L0"),
    ("archive that unpacks without end", "refused above a ratio and an absolute size", "L0"),
    ("two controllers at once", "BRAKE within 2 T when somebody else publishes commands", "L2"),
    ("emergency stop", "safe action in the tick after its receipt, a lost heartbeat counts as one; LATCHED", "L0"),
    ("simulated time on a real robot, silent /clock, slow simulation", "not ACTIVE; BRAKE when it begins while ACTIVE: /clock silent for "
     "0.5 s, less than 0.9 of real time over 1 s", "L0"),
    ("simulator unstable", "no transition of such an episode is learned from", "L0"),
    ("robot does not follow its commands", "BRAKE after 10 ticks of an error above the bound", "L0"),
    ("operator's screen dies or lags", "control does not depend on it", "L2"),
), start=1))

HEAD = """\
# Faults: what must happen, and what was measured

Made from the results of the tests by `make faults`; do not edit. A row says only what the tests named beside it measured when they
were last run for this page; a row without one is not measured. T is the period of the tick. Tests run """


def read(paths: Iterable[Path]) -> list[Result]:
    """Results as `pytest --faults-json` leaves them, of several runs."""
    return [Result(**item) for path in paths for item in json.loads(path.read_text("utf-8"))]


def _cells(results: list[Result]) -> tuple[str, str]:
    """`measured` and `test` of a row."""
    if not results:
        return "not measured", "–"
    tests: dict[str, list[str]] = {}
    for result in results:
        tests.setdefault(result.test.partition("[")[0], []).append(result.outcome)
    said = list(dict.fromkeys(r.measured for r in results if r.measured and r.outcome == "passed"))
    failed = sum(r.outcome == "failed" for r in results)
    skipped = sum(r.outcome == "skipped" for r in results)
    notes = [f"**{failed} of {len(results)} tests failed**"] * bool(failed) + [f"{skipped} of {len(results)} tests skipped"] * bool(skipped)
    if not said and not notes:
        said = ["as required"]
    names = [f"`{name}` ({outcomes.count('passed')} of {len(outcomes)} passed)" for name, outcomes in sorted(tests.items())]
    return "; ".join([*notes, *said]), "<br>".join(names)


def document(results: list[Result]) -> str:
    """The page.

    Raises:
        ValueError: a result of a row that is not in the table.
    """
    unknown = sorted({f"{r.test} (row {r.row})" for r in results if r.row not in {row.number for row in ROWS}})
    if unknown:
        raise ValueError(f"the fault table has rows 1 to {len(ROWS)}; not so: {', '.join(unknown)}")
    lines = ["| row | fault | required | measured | test |", "|---|---|---|---|---|"]
    for row in ROWS:
        cells = (str(row.number), row.fault, f"{row.required} ({row.layer})", *_cells([r for r in results if r.row == row.number]))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    layers = "; ".join(f"{name}: {text}" for name, text in LAYERS.items())
    covered = len({r.row for r in results})
    words = ["| word | done to | what | amount, and its default |", "|---|---|---|---|"]
    words += [f"| `{name}` | {w.of} | {w.sentence} | {f'{w.unit}, {w.amount:g}' if w.unit else '–'} |" for name, w in WORDS.items()]
    return (f"{HEAD}{layers}.\n\n{covered} of {len(ROWS)} rows have a test.\n\n" + "\n".join(lines)
            + "\n\n## The words\n\nTests inject faults in these words (`mbrl_control/runtime/injection.py`), and so does `mbrl inject` "
            "on a running stack whose robot has `allow_injection: true`.\n\n" + "\n".join(words) + "\n")


if __name__ == "__main__":
    TARGET.write_text(document(read(map(Path, sys.argv[1:]))), "utf-8")
