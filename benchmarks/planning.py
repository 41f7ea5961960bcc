"""How long a plan takes, beside its matrix products alone and beside other planners on the same network, all in one run.

    python benchmarks/planning.py --problem P1 --threads 1 --json planning.json
    python benchmarks/planning.py --problem P1 --mbrl-python mbrl-env/bin/python    # with mbrl-lib, see peer_mbrl_lib.py
    python benchmarks/planning.py --problem P1 --only ours products --core 0 --trainer-core 1    # beside a trainer at full load
    python benchmarks/planning.py --problem P2 --device cuda --json planning.json
    python benchmarks/planning.py --curves --picture planning.png --json curves.json

The competitors take turns, one plan each, in an order that is shuffled every round: what else the machine does hits all alike. Before
anything is timed they must predict the same. Times are of whole plans: 3 iterations of 128 candidates in P1, each scored by all members.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import curves
import load
import numpy as np
import peers
import torch
from peers import Competitor, MbrlLib, MissingError, Naive, Ours, Products, PytorchMppi
from problems import PROBLEMS, Problem, Weights
from rich.console import Console
from rich.table import Table

from mbrl_control.stack import report

WARM_UP = 3
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
REPEATS = {"P1": 200, "P2": 30, "tiny": 50}
TITLES = {
    "products": "the matrix products alone, bf16", "products_fp32": "the matrix products alone, fp32", "ours": "mbrl_control",
    "ours_fp32": "mbrl_control, fp32", "naive": "the same loop in plain torch, fp32", "naive_bf16": "the same loop in plain torch, bf16",
    "pytorch_mppi": "pytorch-mppi, fp32", "pytorch_mppi_compiled": "pytorch-mppi with its compile(), fp32",
    "mbrl_lib": "mbrl-lib's CEM, fp32", "mbrl_lib_shipped": "mbrl-lib's CEM as in its examples, fp32"}
RATIOS = (("ours", "products"), ("mbrl_lib", "ours"), ("mbrl_lib_shipped", "ours"), ("pytorch_mppi", "ours"), ("naive", "ours"))


@dataclass
class Field:
    """Who takes part.

    Attributes:
        competitors: by name.
        reasons: why others do not, by name.
    """

    competitors: dict[str, Competitor] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], Competitor]) -> None:
        """Put a competitor in, or note why it is missing."""
        try:
            self.competitors[name] = make()
        except MissingError as error:
            self.reasons[name] = str(error)

    def close(self) -> None:
        """Let go of all."""
        for competitor in self.competitors.values():
            competitor.close()


def gather(problem: Problem, weights: Weights, args: argparse.Namespace) -> Field:
    """All that were asked for."""
    device = args.device
    makers: dict[str, Callable[[], Competitor]] = {
        "products": lambda: Products(problem, weights, torch.bfloat16, device),
        "products_fp32": lambda: Products(problem, weights, torch.float32, device),
        "ours": lambda: Ours(problem, weights, args.dtype, args.planner, device),
        "ours_fp32": lambda: Ours(problem, weights, "float32", args.planner, device),
        "naive": lambda: Naive(problem, weights, torch.float32, device),
        "naive_bf16": lambda: Naive(problem, weights, torch.bfloat16, device),
        "pytorch_mppi": lambda: PytorchMppi(problem, weights, device),
        "mbrl_lib": lambda: MbrlLib(problem, weights, args.mbrl_python, args.threads, device),
        "mbrl_lib_shipped": lambda: MbrlLib(problem, weights, args.mbrl_python, args.threads, device, shipped=True)}
    if args.compile:
        makers["pytorch_mppi_compiled"] = lambda: PytorchMppi(problem, weights, device, compiled=True)
    out = Field()
    for name, make in makers.items():
        if args.only and name not in args.only:
            out.reasons[name] = "not asked for (--only)"
        else:
            out.add(name, make)
    return out


def predictions(problem: Problem, weights: Weights, entries: Field, planner: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What each predicts of the same rows: next states [E, N, S] of the first step, and costs [N] of whole sequences; ours first."""
    state, actions = (torch.as_tensor(a) for a in peers.check_rows(problem))
    ours = Ours(problem, weights, "float32", planner, "cpu")
    now = state.expand(problem.members, len(actions), -1)
    first, total = ours.model.step(now, actions[:, 0]).state, torch.zeros(now.shape[:2])
    for k in range(problem.horizon):
        now = ours.model.step(now, actions[:, k]).state
        total += ours.cost.stage(now, actions[:, k])
    out = {"ours": (first.numpy(), total.mean(0).numpy())}
    for name, entry in entries.competitors.items():
        if isinstance(entry, PytorchMppi):
            there, rows = state.to(entry.device).expand(len(actions), -1), actions.to(entry.device)
            first, total = entry.dynamics(there, rows[:, 0]), torch.zeros(len(rows), device=entry.device)
            for k in range(problem.horizon):
                there = entry.dynamics(there, rows[:, k])
                total = total + entry.running_cost(there, rows[:, k])
            out[name] = (first.cpu().numpy(), total.cpu().numpy())
        elif isinstance(entry, Naive):
            rows, there = actions.to(entry.device), state.to(entry.device)
            first = entry.step(there.expand(problem.members, len(rows), -1), rows[:, 0])
            out[name] = (first.cpu().numpy(), entry.returns(there, rows).cpu().numpy())
        elif isinstance(entry, MbrlLib):
            out[name] = (np.array(entry.check["step"]), np.array(entry.check["returns"]))
    return out


@torch.inference_mode()
def check(problem: Problem, weights: Weights, entries: Field, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """How far the competitors' predictions lie from ours.

    Returns:
        By name: `step`, the largest difference of a state after one step; `cost`, the largest relative one of a sequence's cost. For
        our planner instead that of a whole plan: `cost`, the plan's own cost against what the plain loop in fp32 says its actions cost.

    Raises:
        SystemExit: one does not compute the same.
    """
    found = predictions(problem, weights, entries, args.planner)
    step, cost = found.pop("ours")
    out = {name: {"step": float(np.abs(s - step).max()), "cost": float(np.abs(c / cost - 1).max())} for name, (s, c) in found.items()}
    reference = Naive(problem, weights, torch.float32, "cpu")
    for name, entry in entries.competitors.items():
        if isinstance(entry, Ours):
            for _ in range(2):  # what is timed are plans that start from another
                entry.time_ms(0)
            assert entry.last is not None
            actions = torch.as_tensor(entry.last.actions, dtype=torch.float32)[None]
            out[name] = {"cost": abs(entry.last.cost / float(reference.returns(reference.states[0], actions)) - 1)}
            if entry.rows < problem.candidates * problem.iterations:
                raise SystemExit(f"{name} scored {entry.rows} candidates where the problem asks for "
                                 f"{problem.candidates * problem.iterations}; nothing was timed")
    for name, figures in out.items():
        low = name == "naive_bf16" or (name == "ours" and args.dtype == "bfloat16")
        if not max(figures.values()) <= TOLERANCE["bfloat16" if low else "float32"]:
            raise SystemExit(f"{name} does not compute the same as mbrl_control's model in fp32: {figures}; nothing was timed")
    return out


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def measure(entries: Field, repeats: int) -> dict[str, np.ndarray]:
    """Milliseconds of `repeats` plans of everyone, in turns."""
    times: dict[str, list[float]] = {name: [] for name in entries.competitors}
    order, shuffle = list(times), random.Random(0)
    with undisturbed():
        for i in range(WARM_UP + repeats):
            for name in order if i < WARM_UP else shuffle.sample(order, len(order)):
                taken = entries.competitors[name].time_ms(i)
                if i >= WARM_UP:
                    times[name].append(taken)
    return {name: np.array(values) for name, values in times.items()}


def quotient(times: dict[str, np.ndarray], above: str, below: str) -> float | None:
    """Of the medians; None where one is missing."""
    return float(np.median(times[above]) / np.median(times[below])) if above in times and below in times else None


def figures_of(problem: Problem, entries: Field, times: dict[str, np.ndarray]) -> dict[str, Any]:
    """The report's keys that come from the measurement."""
    out: dict[str, Any] = {f"{name}_ms": float(np.median(times[name])) if name in times else None for name in TITLES
                           if name in times or name in entries.reasons}
    out["ours_p99_ms"] = float(np.percentile(times["ours"], 99)) if "ours" in times else None
    out |= {f"{above}_over_{below}": quotient(times, above, below) for above, below in RATIOS}
    out["rows_per_plan"] = {"problem": problem.candidates * problem.iterations}
    out["rows_per_plan"] |= {name: entry.rows for name, entry in entries.competitors.items() if isinstance(entry, Ours)}
    out["reasons"] = {f"{name}_ms": reason for name, reason in entries.reasons.items()}
    out["quantiles_ms"] = {name: {"min": float(v.min())} | report.quantiles(v.tolist()) for name, v in times.items()}
    return out


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """The report's `machine`, and what else bears on the times."""
    out = report.machine()
    if args.device == "cuda":
        out["gpu"] = torch.cuda.get_device_name()
    return out | {"torch": torch.__version__, "threads": args.threads, "core": args.core,
                  "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}


def show(console: Console, title: str, times: dict[str, np.ndarray], figures: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=title)
    for column in ("", "median ms", "p99 ms", "least ms", "x products", "x ours"):
        table.add_column(column, justify="right" if column else "left")
    for name in sorted(times, key=lambda name: float(np.median(times[name]))):
        values = times[name]
        ratios = [quotient(times, name, to) for to in ("products", "ours")]
        table.add_row(TITLES[name], f"{np.median(values):.2f}", f"{np.percentile(values, 99):.2f}", f"{values.min():.2f}",
                      *("-" if r is None else f"{r:.2f}" for r in ratios), style="bold" if name == "ours" else None)
    console.print(table)
    rows = figures["rows_per_plan"]
    scored = "".join(f" {count} by {name}." for name, count in rows.items() if name != "problem")
    console.print(f"Candidates scored per plan: {rows['problem']} as the problem asks, by the peers.{scored}")
    for name, reason in figures["reasons"].items():
        if "--only" not in reason:
            console.print(f"{name.removesuffix('_ms')} is missing: {reason}.")


def beside_a_trainer(entries: Field, alone: dict[str, np.ndarray], repeats: int, core: int, console: Console) -> dict[str, Any]:
    """Time ours again with a trainer at full load on another core; p99 beside the median without it."""
    with load.busy_trainer(core):
        times = measure(Field({"ours": entries.competitors["ours"]}), repeats)["ours"]
    ratio = float(np.percentile(times, 99) / np.median(alone["ours"]))
    console.print(f"With a trainer at full load on core {core}: median {np.median(times):.2f} ms, p99 {np.percentile(times, 99):.2f} ms, "
                  f"most {times.max():.2f} ms; p99 is {ratio:.2f} times the median without it.")
    return {"ours_loaded_ms": report.quantiles(times.tolist()), "ours_loaded_p99_over_median": ratio, "trainer_core": core}


def compete(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Check, time and show one problem; gives the report."""
    problem = PROBLEMS[args.problem]
    weights = Weights.make(problem, args.seed)
    entries = gather(problem, weights, args)
    repeats = args.repeats or REPEATS[args.problem]
    try:
        checked = check(problem, weights, entries, args)
        console.print("Largest difference from our model in fp32, before anything is timed:")
        for name, found in checked.items():
            parts = [f"{v:.1e} in a state after one step" if k == "step" else f"{v:.1e} of the cost of {'the' if len(found) == 1 else 'a'} "
                     "plan" for k, v in found.items()]
            console.print(f"  {TITLES[name]}: {', '.join(parts)}", soft_wrap=True)
        times = measure(entries, repeats)
        figures = figures_of(problem, entries, times)
        size = f"E={problem.members} N={problem.candidates} H={problem.horizon} hidden {'x'.join(map(str, problem.hidden))}"
        figures |= beside_a_trainer(entries, times, repeats, args.trainer_core, console) if args.trainer_core is not None else {}
        show(console, f"{args.problem}: {size}, {problem.gflop:.2f} GFLOP; {repeats} rounds, {args.threads} thread(s), {args.device}",
             times, figures)
    finally:
        entries.close()
    return {"schema": 1, "command": "benchmarks/planning.py", "problem": args.problem, "gflop": problem.gflop, "device": args.device,
            "dtype": args.dtype, "planner": args.planner, "repeats": repeats, "seed": args.seed, "machine": machine(args), **figures,
            "check": checked}


def sweep(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Time ours and the products alone around a problem; gives the report and draws the picture."""
    base, repeats = PROBLEMS[args.problem], args.repeats or 30

    def time_one(problem: Problem) -> dict[str, float]:
        weights = Weights.make(problem, args.seed)
        entries = Field()
        entries.add("ours", lambda: Ours(problem, weights, args.dtype, args.planner, args.device))
        entries.add("products", lambda: Products(problem, weights, torch.bfloat16, args.device))
        if entries.reasons:
            raise SystemExit("; ".join(entries.reasons.values()))
        return {f"{name}_ms": float(np.median(values)) for name, values in measure(entries, repeats).items()}

    found = curves.sweep(base, curves.values(args.problem, args.device), time_one, console)
    if args.picture:
        curves.draw(found, args.picture, f"One plan around {args.problem}, {args.dtype}, {args.threads} thread(s), "
                                         f"{machine(args)['gpu' if args.device == 'cuda' else 'cpu']}")
        console.print(f"Picture: {args.picture}")
    return {"schema": 1, "command": "benchmarks/planning.py --curves", "problem": args.problem, "device": args.device, "dtype": args.dtype,
            "planner": args.planner, "repeats": repeats, "seed": args.seed, "machine": machine(args), "curves": found}


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=list(PROBLEMS), default="P1", help="`tiny` only tries out whether everything runs")
    parser.add_argument("--threads", type=int, default=1, help="of torch, here and in mbrl-lib's process")
    parser.add_argument("--core", type=int, help="processor core to stay on, here and in mbrl-lib's process")
    parser.add_argument("--trainer-core", type=int, help="time ours again beside a trainer at full load on this core")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of our hidden layers in `ours_ms`")
    parser.add_argument("--planner", choices=("icem", "cem"), default="icem", help="ours; the population is the same in all iterations")
    parser.add_argument("--repeats", type=int, help="plans of everyone that are timed")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--mbrl-python", type=Path, default=os.environ.get("MBRL_PYTHON"),
                        help="python of an environment with mbrl-lib; by default the variable MBRL_PYTHON")
    parser.add_argument("--compile", action="store_true", help="time pytorch-mppi with its own compile() as well")
    parser.add_argument("--only", nargs="+", choices=list(TITLES), help="leave all others out")
    parser.add_argument("--curves", action="store_true", help="ours and the products over N, H, E and width, instead of the competition")
    parser.add_argument("--picture", type=Path, help="PNG of the curves")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Measure, print, write; gives the exit status."""
    args = arguments(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch finds no CUDA device here; use --device cpu, or a machine with a GPU and a CUDA build of torch.",
              file=sys.stderr)
        return 2
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    console = Console(width=100, highlight=False)
    try:
        figures = (sweep if args.curves else compete)(args, console)
    except MissingError as error:
        print(f"{error}; nothing was written", file=sys.stderr)
        return 1
    if args.json:
        report.save(figures, args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
