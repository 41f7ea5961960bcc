"""From a wrong datasheet to a right one: how much of the closed-loop cost that a wrong model loses is won back by calibration.

    python benchmarks/sim_to_real.py --seeds 0-9 --json report.json

The "real" cart-pole differs from its MJCF in both masses, both frictions and the delay, each by 30 % up or down as the seed says. It is
driven for 30 s by random commands around the middle of its rail; its noisy log is calibrated, and the swing-up is done three times by the
same planner: with the model of the datasheet, with the calibrated YAML, and with the truth. Costs are mean stage costs of the episode.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import parallel
import torch

from mbrl_calibration import dynamics, mechanism, outputs, runs, twin
from mbrl_control import parts, robot
from mbrl_control.costs import base as costs
from mbrl_control.planning import base as planning
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.excitation import excitation
from mbrl_control.stack import report
from mbrl_sim.plant import MujocoPlant

OFF, DELAY_S = 0.3, 0.04
DAMPING = {"damping:slider": 0.5, "damping:hinge": 0.003}
HISTORY, LOG_S, RATE_HZ = 60, 30.0, 100.0
NOISE = {"x": 1e-4, "theta": 1e-3, "x_dot": 5e-3, "theta_dot": 2e-2}
MIDDLE, SETTLE = 1.0, 1.0
"""Gains (command per m and per m/s) that keep the cart off the ends of its rail while it is excited."""

CASES = ("datasheet", "calibrated", "truth")


def datasheet() -> dict[str, Any]:
    """YAML data of the robot as its makers describe it."""
    data = robot.load("cartpole").model_dump(exclude_unset=True)
    data["command"] = [{**data["command"][0], "delay_s": DELAY_S}]
    data["nominal"] = {"system": "cartpole", "parameters": {"b_cart": DAMPING["damping:slider"], "b_pole": DAMPING["damping:hinge"]}}
    data["sim"] = {**data["sim"], "values": dict(DAMPING)}
    data["model"] = {**data["model"], "kind": "casadi", "options": {"substeps": 4}}
    data["planner"] = {**data["planner"], "newton_rows": 0, "candidates": 96, "options": {"execute": "best"}}
    return dict(data)


def truth(seed: int) -> dict[str, Any]:
    """YAML data of the robot as it is."""
    data, rng = datasheet(), np.random.default_rng([seed, 1])
    cart, pole, slider, hinge, late = 1 + OFF * rng.choice([-1.0, 1.0], 5)
    p = {"m_cart": 1.0 * cart, "m_pole": 0.1 * pole, "I": 0.0344245927672956 * pole, "b_cart": DAMPING["damping:slider"] * slider,
         "b_pole": DAMPING["damping:hinge"] * hinge}
    data["nominal"] = {"system": "cartpole", "parameters": p}
    data["sim"] = {**data["sim"], "changes": {"mass:cart": cart, "mass:pole": pole},
                   "values": {"damping:slider": p["b_cart"], "damping:hinge": p["b_pole"]}}
    data["command"] = [{**data["command"][0], "delay_s": DELAY_S * late}]
    return data


def record(real: RobotSpec, seed: int, path: Path) -> None:
    """Half a minute of random commands, as a CSV log."""
    rng = np.random.default_rng([seed, 2])
    plant, ticks = MujocoPlant(real, longest_step_s=0.001), round(LOG_S * RATE_HZ)
    state = plant.reset(rng)
    commands = excitation(RobotSpec.model_validate({**real.model_dump(exclude_unset=True), "rate_hz": RATE_HZ}), ticks, rng)
    noise = np.array([NOISE[name] for name in real.state_names])
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["time", *real.state_names, *real.command_names])
        for k in range(ticks):
            measured = state + noise * rng.standard_normal(len(noise))
            command = np.clip(0.7 * commands[k] - MIDDLE * measured[0] - SETTLE * measured[2], real.action_low, real.action_high)
            out.writerow([f"{k / RATE_HZ:.6f}", *(f"{v:.9g}" for v in measured), *(f"{v:.9g}" for v in command)])
            state = plant.step(command, 1 / RATE_HZ)


def calibrate(given: dict[str, Any], log: Path, seed: int, out: Path) -> RobotSpec:
    """The YAML that `mbrl calibrate dynamics --find-delays` writes."""
    spec = RobotSpec.model_validate(given)
    m = mechanism.build(spec)
    found = dynamics.identify(runs.load([log], spec), [], m, spec.delays, dynamics.Settings(find_delays=True))
    parameters = m.system(dict(zip(m.names, found.values.tolist(), strict=True)))
    match = twin.match(spec, m, found.values, np.random.default_rng(seed))
    plain = json.loads(json.dumps(given))
    return outputs.write(out, outputs.calibrated(spec, plain, parameters, found.delays, match), "calibrated")


def swing_up(believed: RobotSpec, real: RobotSpec, seed: int, seconds: float) -> float:
    """Mean stage cost of an episode on the real robot, planned with the model of `believed`."""
    cost = costs.build(real)
    model = parts.find("models", "casadi").build(believed, parts.options("models", "casadi", dict(believed.model.options)))
    optimiser, plant = planning.build(believed, model, cost, seed), MujocoPlant(real, longest_step_s=0.001)
    state, plan, total = plant.reset(np.random.default_rng([seed, 7])), None, 0.0
    sent_time, sent = np.zeros(0), np.zeros((0, 1))
    ticks = round(seconds * real.rate_hz)
    for k in range(ticks):
        now = k * real.tick_s
        plan = optimiser.plan(PlanRequest(k, state, now, now, sent_time, sent), plan)
        command = plan.at(now)
        assert command is not None
        state = plant.step(command, real.tick_s)
        sent_time, sent = np.append(sent_time, now)[-HISTORY:], np.vstack([sent, command])[-HISTORY:]
        total += float(cost.stage(torch.as_tensor(state), torch.as_tensor(command)))
    return total / ticks


def trial(seed: int, seconds: float) -> dict[str, Any]:
    """All of one seed."""
    torch.set_num_threads(1)
    given, real = datasheet(), RobotSpec.model_validate(truth(seed))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        record(real, seed, log)
        found = calibrate(given, log, seed, Path(folder) / "calibrated.yaml")
    specs = {"datasheet": RobotSpec.model_validate(given), "calibrated": found, "truth": real}
    told = {name: {**(s.nominal.parameters if s.nominal else {}), "delay_s": float(s.delays[0])} for name, s in specs.items()}
    return {"seed": seed, "cost": {name: swing_up(specs[name], real, seed, seconds) for name in CASES}, "parameters": told}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(trial(args.one, args.seconds)))
        return
    jobs = [["--seconds", str(args.seconds), "--one", str(seed)] for seed in parallel.seeds(args.seeds)]
    trials = parallel.run(__file__, jobs, args.jobs, lambda t: f"seed {t['seed']}: {t['cost']}")
    mean = {name: float(np.mean([t["cost"][name] for t in trials])) for name in CASES}
    lost, left = mean["datasheet"] - mean["truth"], mean["calibrated"] - mean["truth"]
    print(", ".join(f"{name} {value:.4f}" for name, value in mean.items()))
    print(f"won back of what the datasheet loses: {100 * (1 - left / lost):.1f} %")
    if args.json:
        report.save({"schema": 1, "seconds": args.seconds, "machine": report.machine(), "mean": mean, "won_back": 1 - left / lost,
                     "trials": trials}, args.json)


if __name__ == "__main__":
    main()
