"""A long demo under observation: memory, threads and descriptors of every process, and the ticks that were missed.

    python benchmarks/soak.py --seconds 3600 --json runs/soak.json --picture runs/soak.png

Growth is counted from the end of the warm-up: libraries are loaded and the first models fitted by then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import processes

from mbrl_control.stack import report

SAMPLE_S = 1.0
RSS_MB, MISSED_SHARE = 200.0, 1e-5
QUANTITIES = ("rss_mb", "threads", "descriptors")


@dataclass(frozen=True)
class Sample:
    """A process at an instant.

    Attributes:
        time: since the start, s.
        pid: of the process.
        rss_mb, threads, descriptors: what it holds.
    """

    time: float
    pid: int
    rss_mb: float
    threads: int
    descriptors: int


def sample(pid: int, now: float) -> Sample | None:
    """A process now; None when it has just ended."""
    folder = Path(f"/proc/{pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        threads, descriptors = (len(os.listdir(folder / name)) for name in ("task", "fd"))
        return Sample(now, pid, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, threads, descriptors)
    except (OSError, IndexError):
        return None


def growth(samples: list[Sample], warm_s: float) -> dict[str, float]:
    """How much more a process held in the last tenth of the time than in the first tenth after the warm-up; medians, so that one
    garbage collection more or less says nothing."""
    rows = np.array([[s.time, *(getattr(s, q) for q in QUANTITIES)] for s in samples if s.time >= warm_s])
    if len(rows) < 10:
        return {}
    tenth = max(1, len(rows) // 10)
    more = np.median(rows[-tenth:, 1:], axis=0) - np.median(rows[:tenth, 1:], axis=0)
    return dict(zip(QUANTITIES, map(float, more), strict=True))


def judge(by: dict[str, dict[str, float]], cadence: dict[str, Any]) -> dict[str, bool]:
    """What the product promises, and whether it held.

    Args:
        by: growth of each process, by role.
        cadence: of the run's report.
    """
    total = sum(max(0.0, g["rss_mb"]) for g in by.values() if g)
    return {f"memory of all processes grows by at most {RSS_MB:g} MB": total <= RSS_MB,
            "no process gains threads": all(g["threads"] <= 0 for g in by.values() if g),
            "no process gains descriptors": all(g["descriptors"] <= 0 for g in by.values() if g),
            f"at most {MISSED_SHARE:g} of the ticks are missed": cadence["missed"] is not None
            and cadence["missed"] <= MISSED_SHARE * cadence["ticks"],
            "every process lives to the end": len(by) > 0 and all(by.values())}


def draw(samples: dict[str, list[Sample]], path: Path, title: str) -> None:
    """Each quantity over time, a line a process."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(len(QUANTITIES), 1, sharex=True, figsize=(10, 8))
    for axis, quantity in zip(axes, QUANTITIES, strict=True):
        for role, rows in samples.items():
            axis.plot([s.time for s in rows], [getattr(s, quantity) for s in rows], label=role)
        axis.set_ylabel(quantity.replace("_", " "))
        axis.grid(alpha=0.3)
    axes[0].legend(ncols=9, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, columnspacing=1.0)
    axes[0].set_title(title, pad=28)
    axes[-1].set_xlabel("time [s]")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="cartpole")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--warm-up", type=float, help="seconds; by default a tenth, but between 20 and 120")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domain", type=int, default=78, help="of ROS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    warm_s = args.warm_up if args.warm_up is not None else float(np.clip(args.seconds / 10, 20.0, 120.0))
    out = Path(tempfile.mkdtemp(prefix="mbrl-soak-")) / "run"
    samples: dict[str, list[Sample]] = defaultdict(list)
    process = processes.start(args.robot, out, args.seconds, args.seed, args.domain)
    begin, next_line = time.monotonic(), 0.0
    try:
        while process.poll() is None:
            now = time.monotonic() - begin
            for seen in processes.family(process.pid):
                if seen.role != "other" and (one := sample(seen.pid, now)) is not None:
                    samples[seen.role].append(one)
            if now >= next_line:
                next_line += max(10.0, args.seconds / 60)
                held = "  ".join(f"{role} {rows[-1].rss_mb:.0f} MB" for role, rows in samples.items())
                print(f"{now:6.0f} s, {max(0.0, args.seconds - now) / 60:.0f} min left  {held}", flush=True)
            time.sleep(SAMPLE_S)
    finally:
        processes.signal_if_alive(process, signal.SIGTERM)
        process.wait()
    found = json.loads((out / "report.json").read_text("utf-8"))
    end = max(s.time for s in samples["controller"])
    # The end of the run, at which everything is taken down in order, is no growth; and who came late has no beginning.
    lasting = {role: [s for s in rows if s.time < end - 2 * SAMPLE_S and s.pid == rows[-1].pid] for role, rows in samples.items()}
    by = {role: growth(rows, warm_s) for role, rows in lasting.items()}
    promises = judge(by, found["cadence"])
    for role, more in by.items():
        print(f"{role:11}", "  ".join(f"{name} {value:+.1f}" for name, value in more.items()), f"now {lasting[role][-1].rss_mb:.0f} MB")
    print(f"{found['cadence']['ticks']} ticks, {found['cadence']['missed']} missed; {found['trainer']['refits']} refits")
    for promise, held_to in promises.items():
        print(f"{'holds' if held_to else 'FAILS':6} {promise}")
    if args.json:
        report.save({"schema": 1, "robot": args.robot, "seed": args.seed, "seconds": args.seconds, "warm_up_s": warm_s,
                     "machine": report.machine(), "passed": promises, "growth": by, "cadence": found["cadence"],
                     "trainer": found["trainer"], "faults": found["faults"],
                     "samples": {role: [[s.time, s.rss_mb, s.threads, s.descriptors] for s in rows] for role, rows in samples.items()}},
                    args.json)
    if args.picture:
        draw(samples, args.picture, f"{args.robot}, {args.seconds:g} s")
    raise SystemExit(0 if all(promises.values()) else 1)


if __name__ == "__main__":
    main()
