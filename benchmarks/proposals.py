"""What a policy learned before is worth to a planner that looks 8 steps ahead with 32 candidates, and what a bad one costs it.

    mbrl agent sac --task robot:cartpole --repeat 3 --steps 36000 --out runs/cartpole && mbrl export runs/cartpole -o policies/cartpole
    python benchmarks/proposals.py --policies policies --robots cartpole acrobot runner --seeds 5 --json proposals.json

Closed loop with the simulated plant, its own MJCF as the planner's model, one plan per model step; time stands still while a plan is made.
The return is 1000 times the mean of (1 - stage cost) over the ticks, so at most 1000. Plan times are processor time of the planner's
thread, medians. `equal time` is the planner without a policy, and with as many more candidates as the policy's rows and critic take time.
The random policy has untrained weights, the adversarial one is the learned one with its actor's sign turned around.
"""

from __future__ import annotations

import argparse
import json
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
ROWS, HISTORY, TIMED = 2, 50, 30
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
        won: share of the plans whose best candidate came from the policy.
        believed: share of the plans in which its critic counted.
        candidates: N.
    """

    robot: str
    variant: str
    seed: int
    value: float
    plan_ms: float
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
    return Result(spec.name, variant, seed, 1000 * total / ticks, 1e3 * float(np.median(latency)), won / plans, believed / plans,
                  spec.planner.candidates)


def fair(name: str, policy: Path) -> int:
    """How many candidates the planner without a policy has time for in a plan of the planner with it."""
    seconds = TIMED * robot.load(name).model_dt
    few, many, full = (episode(planned(name, n, p, True), "", 99, seconds).plan_ms for n, p in ((32, None), (64, None), (32, policy)))
    each = max(1e-6, (many - few) / 32)
    return 32 + max(0, round((full - few) / each))


def summary(results: list[Result]) -> list[dict[str, Any]]:
    """One row per robot and variant; the gain is on the mean return of `equal time`."""
    rows = []
    for name, variant in dict.fromkeys((r.robot, r.variant) for r in results):
        mine = [r for r in results if (r.robot, r.variant) == (name, variant)]
        values = np.array([r.value for r in mine])
        base = [r.value for r in results if (r.robot, r.variant) == (name, EQUAL)]
        rows.append({"robot": name, "variant": variant, "seeds": len(mine), "return_mean": float(values.mean()),
                     "return_std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
                     "gain_percent": float(100 * (values.mean() / np.mean(base) - 1)) if base else None,
                     **{key: float(np.median([getattr(r, key) for r in mine])) for key in ("plan_ms", "won", "believed")},
                     "candidates": mine[0].candidates})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'robot':10} {'variant':24} {'N':>4} {'seeds':>5} {'return':>8} {'std':>7} {'gain %':>8} {'plan ms':>8} "
          f"{'won':>5} {'critic':>6}")
    for r in rows:
        gain = "-" if r["gain_percent"] is None else f"{r['gain_percent']:+.1f}"
        print(f"{r['robot']:10} {r['variant']:24} {r['candidates']:>4} {r['seeds']:>5} {r['return_mean']:8.1f} {r['return_std']:7.1f} "
              f"{gain:>8} {r['plan_ms']:8.2f} {r['won']:5.2f} {r['believed']:6.2f}", flush=True)


def parser_of(about: str | None, seeds: int) -> argparse.ArgumentParser:
    """The options of every benchmark of policies learned before; `seeds` is the default of that one."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=Path, required=True, help="folder with an exported policy for each robot, by its name")
    parser.add_argument("--robots", nargs="+", default=["cartpole", "acrobot", "runner"])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser


def main() -> None:
    """Run, print the tables, write the JSON after every episode."""
    parser = parser_of(__doc__, 5)
    parser.add_argument("--variants", nargs="+", default=[WITHOUT, EQUAL, *VARIANTS], choices=[WITHOUT, EQUAL, *VARIANTS])
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    begin, results = time.perf_counter(), list[Result]()
    for name in args.robots:
        with tempfile.TemporaryDirectory() as folder:
            policies = spoilt(name, args.policies / name, Path(folder))
            more = fair(name, policies["learned"]) if EQUAL in args.variants else 32
            plain = {WITHOUT: planned(name, 32, None, False), EQUAL: planned(name, more, None, False)}
            specs = plain | {v: planned(name, 32, policies[which], value) for v, (which, value) in VARIANTS.items()}
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                for variant in args.variants:
                    results.append(episode(specs[variant], variant, seed, args.seconds))
                    if args.json:
                        report.save({"schema": 1, "command": "proposals", "seconds": args.seconds, "wall_s": time.perf_counter() - begin,
                                     "planner": PLANNER, "machine": report.machine(), "table": summary(results),
                                     "episodes": [asdict(r) for r in results]}, args.json)
        show([r for r in summary(results) if r["robot"] == name])


if __name__ == "__main__":
    main()
