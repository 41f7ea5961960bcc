"""What a policy learned before is worth to a planner that looks 8 steps ahead with 32 candidates, and what a bad one costs it.

    mbrl agent sac --task robot:cartpole --repeat 3 --steps 36000 --out runs/cartpole && mbrl export runs/cartpole -o policies/cartpole
    python benchmarks/proposals.py --policies policies --robots cartpole acrobot runner --seeds 5 --json proposals.json

Closed loop with the simulated plant, its own MJCF as the planner's model, one plan per model step; time stands still while a plan is made.
The return is 1000 times the mean of (1 - stage cost) over the ticks, so at most 1000. Plan times are processor time of the planner's
thread. `equal time` is the planner without a policy, and with as many more candidates as the policy named by `--equal-to` takes time with
its rows and critic, by the mean of whole episodes, rounded up; or with `--candidates`. Gains are on `equal time`, with the standard error
over the seeds that both have. The random policy has untrained weights, the adversarial one is the learned one with its actor's sign turned
around. What a `--json` file holds already is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrl_control import robot
from mbrl_control.costs import base as costs
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.policies import learned
from mbrl_control.policies.proposals import PolicyRows
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.stack import report
from mbrl_control.store import ModelStore
from mbrl_sim.plant import MujocoPlant

PLANNER = {"kind": "icem", "candidates": 32, "horizon": 8, "iterations": 2, "newton_rows": 0,
           "options": {"execute": "best", "keep": 0.6, "beta": 1.0}}
ROWS, HISTORY, FEW, MANY, TIMED = 2, 50, 32, 64, 6
WITHOUT, EQUAL = "without", "equal time"
VARIANTS: dict[str, tuple[str, bool]] = {"learned": ("learned", True), "learned, rows only": ("learned", False),
                                         "random": ("random", True), "random, rows only": ("random", False),
                                         "adversarial": ("adversarial", True), "adversarial, rows only": ("adversarial", False)}
"""Which policy, and whether its critic counts."""


@dataclass(frozen=True)
class Result:
    """One episode.

    Attributes:
        value: return, see above.
        plan_ms: median processor time of a plan.
        mean_ms: its mean; policies that are of no use are asked in some plans only, which the median does not tell.
        won: share of the plans whose best candidate came from the policy.
        believed: share of the plans in which its critic counted.
        candidates: N.
    """

    robot: str
    variant: str
    seed: int
    value: float
    plan_ms: float
    mean_ms: float
    won: float
    believed: float
    candidates: int


def planned(name: str, candidates: int, policy: Path | None, value: bool) -> RobotSpec:
    """A shipped robot over its known model, with this benchmark's planner."""
    data = robot.load(name).model_dump()
    data |= {"model": data["model"] | {"kind": "mujoco", "options": {}}, "plan_hz": 1 / data["model_dt"], "policies": []}
    data["planner"] |= {**PLANNER, "candidates": candidates, "dtype": "float32"}
    if policy is not None:
        data["policies"] = [{"kind": "learned", "options": {"path": str(policy)}, "rows": ROWS, "value": value}]
    return RobotSpec.model_validate(data)


def spoilt(name: str, given: Path, folder: Path) -> dict[str, Path]:
    """The learned policy, and beside it in `folder` a random and an adversarial one of the same sizes."""
    spec = robot.load(name)
    manifest = json.loads((given / "manifest.json").read_text("utf-8"))["figures"]["networks"]
    networks = learned.Networks(tuple(manifest["hidden"]), manifest["critics"], manifest["norm"], manifest["discount"])
    trained = learned.build(spec, learned.Options(str(given)))
    arrays = trained.arrays() | {"unit": trained.unit.numpy() * spec.model_dt}
    fresh = learned.LearnedPolicy(spec, networks, arrays).arrays()
    learned.write(folder / "random", spec, networks, arrays | {key: fresh[key] for key in ("actor", "critics")}, 0, {})
    with torch.no_grad():
        for part in trained.actor.flat.parts[-2:]:  # the last layer; its first outputs are the means
            part[..., :spec.action_dim] *= -1
    learned.write(folder / "adversarial", spec, networks, arrays | {"actor": trained.actor.flat.vector.numpy()}, 0, {})
    return {"learned": given, "random": folder / "random", "adversarial": folder / "adversarial"}


def episode(spec: RobotSpec, variant: str, seed: int, seconds: float) -> Result:
    """From the plant's start, as the stack's planner drives it."""
    with tempfile.TemporaryDirectory() as store:
        core = PlannerCore(spec, ModelStore(Path(store)), seed)
    core.planner.clock = time.process_time  # another program's turn on the processor is none of the planner's time
    cost, plant = costs.build(spec), MujocoPlant(spec)
    state = plant.reset(np.random.default_rng([seed, 7]))
    every, ticks = round(spec.model_dt * spec.rate_hz), round(seconds * spec.rate_hz)
    critic = [s for s in core.planner.sources if isinstance(s, PolicyRows)]
    sent_time, sent, total = np.zeros(0), np.zeros((0, spec.action_dim)), 0.0
    latency, won, believed = [], 0, 0
    for k in range(ticks):
        now = k * spec.tick_s
        if k % every == 0:
            plan, _ = core.plan(PlanRequest(k // every, state, now, now, sent_time, sent))
            latency.append(plan.latency_s)
            won += plan.winner == "learned"
            believed += any(rows.believed() for rows in critic)
        command = plan.at(now)
        assert command is not None
        state = plant.step(command, spec.tick_s)
        sent_time, sent = np.append(sent_time, now)[-HISTORY:], np.vstack([sent, command])[-HISTORY:]
        total += 1.0 - float(cost.stage(torch.as_tensor(state), torch.as_tensor(command)))
    plans = len(latency)
    return Result(spec.name, variant, seed, 1000 * total / ticks, 1e3 * float(np.median(latency)), 1e3 * float(np.mean(latency)),
                  won / plans, believed / plans, spec.planner.candidates)


def fair(name: str, policy: Path, seconds: float) -> int:
    """How many candidates the planner without a policy has time for in the mean plan of the one with it; episodes of seeds of its own."""
    specs = planned(name, FEW, None, False), planned(name, MANY, None, False), planned(name, FEW, policy, True)
    rounds = [[episode(spec, "", 1000 + k, seconds).mean_ms for spec in specs] for k in range(TIMED)]
    few, many, full = np.mean(rounds, 0)
    each = max(1e-6, (many - few) / (MANY - FEW))
    return FEW + max(0, math.ceil((full - few) / each))


def equal(name: str, results: list[Result], asked: int | None) -> int | None:
    """The number of candidates of `equal time`: what is asked for, or that of the episodes that a file holds already; None if neither.

    Raises:
        SystemExit: the file's is another.
    """
    before = {r.candidates for r in results if (r.robot, r.variant) == (name, EQUAL)}
    if asked and before - {asked}:
        raise SystemExit(f"the --json file holds '{EQUAL}' of {name} with {max(before)} candidates, not {asked}; name another file")
    return asked or max(before, default=None)


def gain(mine: list[Result], base: list[Result]) -> tuple[float | None, float | None]:
    """By how much the mean return is greater than that of `base`, and the standard error of that over the seeds, in percent of the latter.

    None where there is no seed in both; no error where there is but one.
    """
    theirs = {r.seed: r.value for r in base}
    both = np.array([(r.value, theirs[r.seed]) for r in mine if r.seed in theirs]).reshape(-1, 2)
    if not len(both):
        return None, None
    more, mean = both[:, 0] - both[:, 1], abs(both[:, 1].mean())
    error = 100 * more.std(ddof=1) / math.sqrt(len(more)) / mean if len(more) > 1 else None
    return float(100 * more.mean() / mean), error if error is None else float(error)


def summary(results: list[Result]) -> list[dict[str, Any]]:
    """One row per robot, variant and number of candidates."""
    rows = []
    for name, variant, candidates in dict.fromkeys((r.robot, r.variant, r.candidates) for r in results):
        mine = [r for r in results if (r.robot, r.variant, r.candidates) == (name, variant, candidates)]
        values = np.array([r.value for r in mine])
        more, error = gain(mine, [r for r in results if (r.robot, r.variant) == (name, EQUAL)])
        rows.append({"robot": name, "variant": variant, "seeds": len(mine), "return_mean": float(values.mean()),
                     "return_std": float(values.std(ddof=1)) if len(values) > 1 else 0.0, "gain_percent": more, "gain_error": error,
                     **{key: float(np.median([getattr(r, key) for r in mine])) for key in ("plan_ms", "won", "believed")},
                     "mean_ms": float(np.mean([r.mean_ms for r in mine])), "candidates": candidates})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'robot':9} {'variant':23} {'N':>3} {'seeds':>5} {'return':>7} {'std':>6} {'gain %':>14} {'plan p50':>8} {'mean ms':>8} "
          f"{'won':>4} {'critic':>6}")
    for r in rows:
        more = "-" if r["gain_percent"] is None else f"{r['gain_percent']:+.1f}"
        more += "" if r["gain_error"] is None else f" ± {r['gain_error']:.1f}"
        print(f"{r['robot']:9} {r['variant']:23} {r['candidates']:>3} {r['seeds']:>5} {r['return_mean']:7.1f} {r['return_std']:6.1f} "
              f"{more:>14} {r['plan_ms']:8.2f} {r['mean_ms']:8.2f} {r['won']:4.2f} {r['believed']:6.2f}", flush=True)


def parser_of(about: str | None, seeds: int) -> argparse.ArgumentParser:
    """The options of every benchmark of policies learned before; `seeds` is the default of that one."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=Path, required=True, help="folder with an exported policy for each robot, by its name")
    parser.add_argument("--robots", nargs="+", default=["cartpole", "acrobot", "runner"])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser


def load(path: Path, seconds: float) -> tuple[list[Result], float]:
    """The episodes of an earlier call, and the time that it took, s; nothing where there is no file."""
    if not path.exists():
        return [], 0.0
    try:
        left = json.loads(path.read_text("utf-8"))
        if left["seconds"] != seconds or left["planner"] != PLANNER:
            raise ValueError("other episodes or another planner")
        return [Result(**row) for row in left["episodes"]], float(left["wall_s"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SystemExit(f"{path}: is no file that this call can go on with ({error}); name another one with --json") from error


def main() -> None:
    """Run, print the tables, write the JSON after every episode."""
    parser = parser_of(__doc__, 5)
    parser.add_argument("--variants", nargs="+", default=[WITHOUT, EQUAL, *VARIANTS], choices=[WITHOUT, EQUAL, *VARIANTS])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--equal-to", default="learned", choices=("learned", "random", "adversarial"), help="policy whose time counts")
    parser.add_argument("--candidates", type=int, help="of `equal time`; measured if not given")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    results, before = load(args.json, args.seconds) if args.json else ([], 0.0)
    begin = time.perf_counter() - before
    for name in args.robots:
        with tempfile.TemporaryDirectory() as folder:
            policies = spoilt(name, args.policies / name, Path(folder))
            more = equal(name, results, args.candidates)
            more = more or (fair(name, policies[args.equal_to], args.seconds) if EQUAL in args.variants else FEW)
            plain = {WITHOUT: planned(name, FEW, None, False), EQUAL: planned(name, more, None, False)}
            specs = plain | {v: planned(name, FEW, policies[which], value) for v, (which, value) in VARIANTS.items()}
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                done = {(r.robot, r.variant, r.seed, r.candidates) for r in results}
                for variant in args.variants:
                    if (name, variant, seed, specs[variant].planner.candidates) in done:
                        continue
                    results.append(episode(specs[variant], variant, seed, args.seconds))
                    if args.json:
                        report.save({"schema": 1, "command": "proposals", "seconds": args.seconds, "wall_s": time.perf_counter() - begin,
                                     "planner": PLANNER, "machine": report.machine(), "table": summary(results),
                                     "episodes": [asdict(r) for r in results]}, args.json)
        show([r for r in summary(results) if r["robot"] == name])


if __name__ == "__main__":
    main()
