"""kill -9 of every process of a live run, at random instants: does the robot stop, does the cadence hold, is anything left or lost?

    python benchmarks/kills.py --kills 200 --what planner trainer recorder --json runs/kills.json

A run ends with the kill of controller, sim or mbrl. In the first runs each helper (the planner and its keeper, the trainer, the recorder)
is killed four times before, in random order; where no helpers are left to kill the last kill may come at any phase, from the process's
first instant on. With a --json file that exists the kills in it are gone on with, whatever is wanted now; a run that is interrupted does
not count.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from kill_figures import FATAL, HELPERS, LOOK_S, MOST_IN_RUN, Kill, count, next_run, passed, summary
from kill_run import SPREAD_S, NothingToKill, carry_out

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec
from mbrl_control.stack import report

MOST_IN_VAIN = 3
RUN_S, WAIT_S, HELPER_S = 8.0, 5.0, 2 * LOOK_S + SPREAD_S / 2
"""About so long a run takes, waiting for killed helpers to be back at its end, and each kill of a helper."""


@dataclass
class Done:
    """What there is so far.

    Attributes:
        runs: carried out.
        wall_s: that they took.
        kills: of them.
    """

    runs: int = 0
    wall_s: float = 0.0
    kills: list[Kill] = field(default_factory=list)


def load(path: Path, robot_name: str, seed: int) -> Done:
    """What an earlier call left; nothing where there is no file.

    Raises:
        UserError: it is not such a file, or one of another robot or seed.
    """
    if not path.exists():
        return Done()
    try:
        left = json.loads(path.read_text("utf-8"))
        done = Done(int(left["runs"]), float(left["wall_s"]),
                    [Kill(**{k: float("nan") if v is None else v for k, v in kill.items()}) for kill in left["kills"]])
        of = (left["robot"], left["seed"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is no file of this program ({error}); name another one with --json") from error
    if of != (robot_name, seed):
        raise UserError(f"{path}: is of robot '{of[0]}' and seed {of[1]}, not '{robot_name}' and {seed}; name another one with --json")
    return done


def save(path: Path, spec: RobotSpec, seed: int, done: Done) -> None:
    """Write everything; whole, or not at all."""
    by = summary(done.kills)
    report.save({"schema": 1, "robot": spec.name, "seed": seed, "tick_s": spec.tick_s, "machine": report.machine(), "runs": done.runs,
                 "wall_s": done.wall_s, "passed": passed(spec.command_timeout_s, by), "by_process": by,
                 "kills": [asdict(k) for k in done.kills]}, path)


def left_s(wanted: dict[str, int], kills: list[Kill]) -> float:
    """About how long the kills that are left will take, s."""
    have = count(kills)
    left = {what: max(0, number - have[what]) for what, number in wanted.items()}
    helped = max((-(-left[h] // MOST_IN_RUN) for h in HELPERS if h in left), default=0)
    ended = sum(left.get(f, 0) for f in FATAL)
    return RUN_S * max(helped, ended) + WAIT_S * helped + HELPER_S * sum(left.get(h, 0) for h in HELPERS)


def estimate(wanted: dict[str, int], done: Done) -> str:
    """The time left in words, as fast as the machine has been so far."""
    expected = left_s(count(done.kills), [])
    pace = done.wall_s / expected if expected else 1.0
    return f"about {pace * left_s(wanted, done.kills) / 60:.0f} min left"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="cartpole")
    parser.add_argument("--kills", type=int, default=3, help="of each process, those in the --json file included")
    parser.add_argument("--what", nargs="+", choices=(*FATAL, *HELPERS), default=(*FATAL, *HELPERS), help="processes to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domain", type=int, default=77, help="of ROS")
    parser.add_argument("--json", type=Path, help="write everything here after each run; a file that is there is gone on with")
    args = parser.parse_args()
    spec, wanted = robot.load(args.robot), dict.fromkeys(args.what, args.kills)
    try:
        done = load(args.json, spec.name, args.seed) if args.json else Done()
    except UserError as error:
        raise SystemExit(str(error)) from error
    if done.runs:
        print(f"{args.json}: going on after run {done.runs} with {len(done.kills)} kills", flush=True)
    print(estimate(wanted, done), flush=True)
    vain = 0
    while (plan := next_run(wanted, count(done.kills), np.random.default_rng([args.seed, done.runs, 1]))) is not None:
        begin = time.monotonic()
        try:
            made = carry_out(plan, args.robot, args.seed + done.runs, args.domain, np.random.default_rng([args.seed, done.runs]))
        except KeyboardInterrupt:
            raise SystemExit("interrupted: the run under way does not count; the same command goes on with those in --json") from None
        except NothingToKill as error:
            print(f"run {done.runs + 1} does not count: {error}", flush=True)
            if (vain := vain + 1) == MOST_IN_VAIN:
                raise SystemExit(f"{vain} runs in a row came to nothing; look whether `mbrl demo` runs") from None
            continue
        vain = 0
        done = Done(done.runs + 1, done.wall_s + time.monotonic() - begin, done.kills + made)
        print(f"run {done.runs}, {time.monotonic() - begin:.0f} s, {estimate(wanted, done)}: "
              + ", ".join(f"{k.what} at {k.phase_s:.1f} s" for k in made), flush=True)
        if args.json:
            save(args.json, spec, args.seed, done)
    by = summary(done.kills)
    for what, figures in by.items():
        print(f"{what:11}", "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if np.isfinite(value)))
    promises = passed(spec.command_timeout_s, by)
    for promise, held in promises.items():
        print(f"{'holds' if held else 'FAILS':6} {promise}")
    raise SystemExit(0 if all(promises.values()) else 1)


if __name__ == "__main__":
    main()
