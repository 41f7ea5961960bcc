"""Episodes of a benchmark, each in a process of its own, some at a time, with an estimate of the time left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def run(script: str, jobs: list[list[str]], at_once: int, tell: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
    """Run a script once for each list of arguments.

    Args:
        script: Python file; the last line that it prints is a JSON object.
        jobs: arguments of each run.
        at_once: processes at a time.
        tell: what to say of a run that is done.

    Returns:
        The objects, in the order of the jobs.

    Raises:
        SystemExit: a run failed.
    """
    waiting, begin = list(enumerate(jobs)), time.monotonic()
    running: dict[int, subprocess.Popen[str]] = {}
    done: dict[int, dict[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            number, arguments = waiting.pop(0)
            running[number] = subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
        for number in [n for n, process in running.items() if process.poll() is not None]:
            process = running.pop(number)
            if process.returncode:
                raise SystemExit(f"a run failed with status {process.returncode}: {' '.join(jobs[number])}")
            done[number] = json.loads(process.communicate()[0].splitlines()[-1])
            left = (time.monotonic() - begin) / len(done) * (len(jobs) - len(done))
            print(f"{tell(done[number])}; {len(done)} of {len(jobs)}, about {left:.0f} s left", flush=True)
        time.sleep(0.1)
    return [done[number] for number in range(len(jobs))]


def seeds(text: str) -> list[int]:
    """[0, 1, 2, 5] of `0-2,5`."""
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out
