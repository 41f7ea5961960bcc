"""Do the intervals hold? Random double pendulums with noise, delay and friction, identified from what their sensors would say.

    python benchmarks/calibrate_synthetic.py --count 100 --json report.json

Every robot has parameters of its own, drawn around those of the shipped one, a delay of its own on each axis, and noisy sensors. Two runs
of ten seconds under random sums of sines, as safe excitation makes them; the search begins at the shipped robot's parameters and at the
middle of the possible delays. Counted are the true values that lie inside their 95 % intervals.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_calibration import dynamics, mechanism, runs
from mbrl_calibration.mechanism import Mechanism
from mbrl_control import robot
from mbrl_control.data.sequences import effective_action
from mbrl_control.robot import RobotSpec
from mbrl_control.stack import report

ROBOT = "double_pendulum_c1"
SECONDS, RATE_HZ, FINE = 10.0, 500.0, 4
POSITION_NOISE, RATE_NOISE = 1e-3, 0.05
MOST_DELAY_S = 0.02
SPREAD = 0.3


@dataclass(frozen=True)
class Truth:
    """One robot.

    Attributes:
        values: [P] its parameters.
        delays: [A] from command to effect, s.
    """

    values: np.ndarray
    delays: np.ndarray


def draw(m: Mechanism, rng: np.random.Generator) -> Truth:
    """A robot that can be built."""
    while True:
        values = m.start * np.exp(SPREAD * rng.uniform(-1, 1, len(m.start)))
        values[m.names.index("b1")], values[m.names.index("b2")] = rng.uniform(0.005, 0.05, 2)
        values[m.names.index("Ir")] = rng.uniform(3e-5, 3e-4)
        if all(float(c) > 1e-5 for c in m.feasible(m.named(values))):
            return Truth(values, rng.uniform(0, MOST_DELAY_S, 2))


def record(m: Mechanism, truth: Truth, rng: np.random.Generator, name: str) -> runs.Run:
    """What a run of this robot would leave behind."""
    count = round(SECONDS * RATE_HZ)
    time_s = np.arange(count) / RATE_HZ
    frequencies = np.arange(1, 16) * 0.2
    phases, weights = rng.uniform(0, 2 * np.pi, (15, 2)), rng.uniform(0.5, 1.0, (15, 2))
    command = (weights * np.sin(2 * np.pi * frequencies[:, None] * time_s[:, None, None] + phases)).sum(1)
    command *= np.array([2.0, 1.2]) / np.abs(command).max(0)
    # Integrated four times finer than recorded, under the exact mean of what is in force then: delays fall between samples.
    fine = 1 / (RATE_HZ * FINE)
    padded_time, padded = np.concatenate(([-1.0], time_s)), np.vstack((np.zeros(2), command))
    given = effective_action(padded_time, padded, fine * np.arange(count * FINE), fine, truth.delays)
    one, x, states = mechanism.step(m, 2, fine, 1), np.zeros(4), np.empty((count, 4))
    for k in range(count):
        states[k] = x
        for j in range(FINE):
            x = np.asarray(one(x, given[k * FINE + j], truth.values)).ravel()
    noise = np.concatenate([np.full(2, POSITION_NOISE), np.full(2, RATE_NOISE)])
    measured = np.empty((count, 4))
    order = np.concatenate((m.positions, m.rates))
    measured[:, order] = states + noise * rng.standard_normal(states.shape)
    return runs.Run(name, time_s, measured, command, np.full((count, 2), np.nan))


def spec_of() -> RobotSpec:
    """The shipped robot without delays."""
    spec = robot.load(ROBOT)
    data = spec.model_dump(exclude_unset=True)
    return RobotSpec.model_validate({**data, "command": [{**c, "delay_s": 0.0} for c in data["command"]]})


def trial(seed: int) -> dict[str, Any]:
    """Draw, record and identify one robot."""
    spec, rng = spec_of(), np.random.default_rng(seed)
    m = mechanism.build(spec)
    truth = draw(m, rng)
    logs = [record(m, truth, rng, f"run {i}") for i in range(2)]
    begin = time.process_time()
    first = dynamics.identify(logs, [], m, np.full(2, 0.5 * MOST_DELAY_S), dynamics.Settings(find_delays=True))
    low, high = first.estimate.interval()
    wanted = np.concatenate([truth.values, truth.delays])
    inside = {n: bool(a <= w <= b) for n, w, a, b in zip(first.estimate.names, wanted, low, high, strict=True)}
    error = np.abs(first.delays - truth.delays) * RATE_HZ
    return {"seed": seed, "cpu_s": time.process_time() - begin, "inside": inside, "delay_error_samples": error.tolist(),
            "truth": dict(zip(first.estimate.names, wanted.tolist(), strict=True)), "found": first.estimate.by_name(),
            "std": dict(zip(first.estimate.names, first.estimate.std.tolist(), strict=True)), "converged": first.converged}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first robot; the others follow")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    trials, begin = [], time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:
        for done in pool.map(trial, range(args.seed, args.seed + args.count)):
            trials.append(done)
            left = (time.monotonic() - begin) / len(trials) * (args.count - len(trials))
            print(f"robot {done['seed']}: outside {[n for n, ok in done['inside'].items() if not ok]}; about {left:.0f} s left", flush=True)
    print(f"{'parameter':10} inside of {len(trials)}   median error / interval half width")
    for name in trials[0]["inside"]:
        ratio = np.median([abs(t["found"][name] - t["truth"][name]) / (1.96 * t["std"][name]) for t in trials])
        print(f"{name:10} {sum(t['inside'][name] for t in trials):6d}      {ratio:.2f}")
    worst = max(max(t["delay_error_samples"]) for t in trials)
    spent = np.median([t["cpu_s"] for t in trials])
    print(f"delay: worst error {worst:.3f} samples of {1e3 / RATE_HZ:g} ms; {spent:.0f} s of one core each")
    if args.json:
        report.save({"schema": 1, "robot": ROBOT, "machine": report.machine(), "seed": args.seed, "trials": trials}, args.json)


if __name__ == "__main__":
    main()
