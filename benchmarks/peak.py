"""The most that one core of this machine multiplies, without memory: what no planner can be faster than.

    python benchmarks/peak.py --core 0 --json peak.json
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from pathlib import Path

import numpy as np
from problems import PROBLEMS
from rich.console import Console
from rich.table import Table

from mbrl_control import native_code
from mbrl_control.stack import report

SOURCE = Path(__file__).with_name("peak.cpp")


def main(given: list[str] | None = None) -> int:
    """Measure, print, write; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, help="processor core to stay on")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args(given)
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    found = native_code.loaded(SOURCE)
    if found is None:
        print("no compiler, or native code is switched off (MBRL_NATIVE=0); nothing was measured", file=sys.stderr)
        return 1
    table = Table(title=f"One core, {report.cpu_name()}")
    for column in ("", "GFLOP/s, median", "most", "P1's products would take"):
        table.add_column(column, justify="right" if column else "left")
    figures = {}
    for name in ("bfloat16", "float32"):
        measure = getattr(found, f"peak_{name}")
        measure.restype = ctypes.c_double
        values = np.array([measure() for _ in range(args.repeats)])
        if not values.any():
            table.add_row(name, "-", "-", "this processor has no such instruction")
            continue
        figures[name] = {"median": float(np.median(values)), "most": float(values.max())}
        table.add_row(name, f"{np.median(values):.0f}", f"{values.max():.0f}", f"{1e3 * PROBLEMS['P1'].gflop / np.median(values):.2f} ms")
    Console(width=100, highlight=False).print(table)
    if args.json:
        report.save({"schema": 1, "command": "benchmarks/peak.py", "machine": report.machine(), "gflops": figures}, args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
