"""The cadence benchmark: the real tick, planner and trainer at chosen rates, with model swaps, with and without binding to cores."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mbrl_control import robot, strict_yaml
from mbrl_control.errors import UserError
from mbrl_control.part_checks import check_parts
from mbrl_control.planning.plan import Verdict
from mbrl_control.priority import cores_for, pin
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.freezes import Seen
from mbrl_control.runtime.mailbox import Mailbox, shared_folder
from mbrl_control.runtime.process_link import child_environment
from mbrl_control.stack import bench_plant, report
from mbrl_control.stack.cadence_load import save_episodes
from mbrl_control.stack.cadence_swaps import DAMAGES, Damage, Offered, offer, swap_part
from mbrl_control.stack.cadence_tick import PROGRESS, PlanNote
from mbrl_control.stack.interruption import Interruption
from mbrl_control.stack.machine_watch import beside_ticks, freeze_part
from mbrl_control.stack.processes import end
from mbrl_control.store import ModelStore
from mbrl_control.training.refit_lines import RefitLines

DATA_S = 60.0
POLL_S = 0.25
FIRST_MODEL_S = 180.0
GRACE_S = 10.0
LAST_S = 0.5
"""So long before the end the last snapshot is offered, as what becomes of it is to be seen."""

START_S = 12.0
"""Rough time from the start of a part to its first tick, for the estimate of the time left."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        robot: shipped name or YAML path.
        folder: for everything that it needs and leaves.
        seconds: of ticks, for each part.
        rates: Hz; each is a part, or two.
        pinning: whether processes are bound to cores, for each part of a rate.
        swap_every_s: seconds from one model swap to the next.
        bad_every: every so many snapshots offered are bad on purpose; 0: none.
        seed: of data, fits, excitation and planner.
    """

    robot: str
    folder: Path
    seconds: float
    rates: tuple[float, ...]
    pinning: tuple[bool, ...] = (True,)
    swap_every_s: float = 5.0
    bad_every: int = 0
    seed: int = 0

    def parts(self) -> list[tuple[float, bool]]:
        """(rate, pinned) of each part."""
        return [(rate, pinned) for rate in self.rates for pinned in self.pinning]


@dataclass(frozen=True)
class Progress:
    """Where it stands.

    Attributes:
        rate_hz: rate of the part under way.
        pinned: whether its processes are bound to cores.
        done_s: seconds of ticks so far; 0 while it starts.
        left_s: estimate of the time to the end of all parts.
        figures: see `cadence_tick.PROGRESS`; empty while it starts.
        refits: so far.
        swaps: snapshots offered so far.
        ended: reports of the parts that are over.
    """

    rate_hz: float
    pinned: bool
    done_s: float
    left_s: float
    figures: dict[str, float]
    refits: int
    swaps: int
    ended: tuple[dict[str, Any], ...]


Watch = Callable[[Progress], None]


def robot_at(source: str, rate_hz: float, path: Path) -> RobotSpec:
    """Write a robot's YAML with another tick rate, plans no more often than ticks and from the first tick on, and read it.

    Raises:
        UserError: the robot is not valid, or not at this rate.
    """
    robot.load(source)
    data = strict_yaml.read(robot.shipped().get(source, Path(source))).data
    default = RobotSpec.model_fields["plan_hz"].default
    data |= {"rate_hz": rate_hz, "plan_hz": min(rate_hz, data.get("plan_hz", default)),
             "trainer": {**data.get("trainer", {}), "explore_s": 0}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    try:
        return robot.load(path)
    except UserError as error:
        raise UserError(f"robot '{source}' cannot run at {rate_hz:g} Hz: {error}") from error


class Part:
    """One rate, bound to cores or not: its processes, and the publishing of snapshots at even times.

    Args:
        settings: see there.
        rate_hz: of the tick.
        pinned: bind processes to cores.
        folder: of this part, with `robot.yaml`.
    """

    def __init__(self, settings: Settings, rate_hz: float, pinned: bool, folder: Path) -> None:
        self.settings, self.rate_hz, self.pinned, self.folder = settings, rate_hz, pinned, folder
        self.spec = robot.load(folder / "robot.yaml")
        self._fits, self._store = ModelStore(folder / "fits"), ModelStore(folder / "store")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.box = Mailbox(shared_folder() / f"mbrl-{os.getpid()}-bench-{time.monotonic_ns()}.box", len(PROGRESS), create=True)
        self.figures: dict[str, float] = {}
        self._good: list[tuple[float, int]] = []
        self._bad: list[tuple[int, Damage]] = []
        self.began = math.nan
        self._refits: list[dict[str, Any]] = []
        self._lines, self._trainer_ended = RefitLines(folder), False
        self._machine = beside_ticks(folder, folder, rate_hz)
        self._seen: Seen | None = None
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def _start(self, name: str, **arguments: object) -> None:
        given = [part for key, value in arguments.items() if value is not None for part in (f"--{key}", str(value))]
        command = [sys.executable, "-m", f"mbrl_control.stack.cadence_{name}", "--robot", str(self.folder / "robot.yaml"),
                   "--folder", str(self.folder), "--seed", str(self.settings.seed), *given, *(["--pin"] if self.pinned else [])]
        with open(self.folder / f"{name}.log", "ab") as log:
            self._children[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                                    env=child_environment(), start_new_session=True)

    def ended(self, name: str) -> bool:
        """Whether a process has ended."""
        return self._children[name].poll() is not None

    def fault(self, name: str) -> UserError:
        """What a process that ended before its time left behind."""
        lines = (self.folder / f"{name}.log").read_text("utf-8", "replace").splitlines()[-5:]
        return UserError(f"the {name} process ended with status {self._children[name].returncode}:\n" + "\n".join(lines))

    def start(self, base: Path | None, point: Callable[[], None]) -> None:
        """Start the trainer, wait for its first model, start the tick.

        Args:
            base: folder that the robot's files are relative to.
            point: called where the wait may be left.

        Raises:
            UserError: no model came.
        """
        self._start("load", data=self.settings.folder / "data.npz", store=self._fits.folder)
        end = time.monotonic() + FIRST_MODEL_S
        while not self._fits.newest():
            if self.ended("load"):
                raise self.fault("load")
            if time.monotonic() > end:
                raise UserError(f"no model was fitted within {FIRST_MODEL_S:g} s; see {self.folder / 'load.log'}")
            point()
            time.sleep(0.05)
        self.publish()
        self._machine.start()
        self._start("tick", base=base, store=self._store.folder, box=self.box.path, seconds=self.settings.seconds)
        if self.pinned:  # after the others were started, as they inherit it
            pin(cores_for("trainer"))

    def publish(self) -> None:
        """Give the planner the newest model that passed the trainer's gate (the same one again costs a swap as well), or spoil it first."""
        snapshot, often = self._fits.read(self._fits.newest()), self.settings.bad_every
        if often and self.offers and self.offers % often == 0:
            damage = DAMAGES[len(self._bad) % len(DAMAGES)]
            self._bad.append((offer(self._store, snapshot, damage), damage))
        else:
            version = self._store.publish(snapshot).version
            self._good.append((time.monotonic(), version))

    @property
    def offers(self) -> int:
        """Snapshots published so far, good and bad, the first one included."""
        return len(self._good) + len(self._bad)

    def look(self) -> None:
        """Take in how far the ticks are."""
        numbers = self.box.read()
        if numbers is not None:
            self.figures = dict(zip(PROGRESS, map(float, numbers), strict=True))
            if math.isnan(self.began):
                self.began = time.monotonic() - self.done_s

    def poll(self) -> bool:
        """Take in progress and publish when it is time; False when the ticks are over.

        Raises:
            UserError: the tick's process failed.
        """
        self.look()
        if self.ended("tick"):
            if self._children["tick"].returncode:
                raise self.fault("tick")
            return False
        self._trainer_ended = self._trainer_ended or self.ended("load")
        gone_s = time.monotonic() - self.began  # nan before the first tick: nothing is due then
        if self.offers * self.settings.swap_every_s <= gone_s < self.settings.seconds - LAST_S:
            self.publish()
        return True

    @property
    def done_s(self) -> float:
        """Seconds of ticks so far."""
        return (self.figures["ticks"] + self.figures["missed"]) / self.rate_hz if self.figures else 0.0

    def refits(self) -> list[dict[str, Any]]:
        """What the trainer has noted of its refits."""
        self._refits += self._lines.read()
        return self._refits

    def stop(self) -> None:
        """End the processes, the tick first, and tidy up."""
        for name in ("tick", "load"):
            if name in self._children:
                end(self._children[name], GRACE_S)
        self._seen = self._machine.stop()
        self.box.unlink()
        if self._cores:
            pin(self._cores)
        self.look()  # at what the tick said in its last moment

    def report(self) -> dict[str, Any] | None:
        """The part's figures; None when there are none, as the ticks had not begun."""
        try:
            left = json.loads((self.folder / "ticks.json").read_text("utf-8"))
        except OSError:
            return None
        plans = [PlanNote(at, Verdict(verdict), latency, version, winner) for at, verdict, latency, version, winner in left["plans"]]
        late = sum(plan.latency_s > 1 / self.spec.plan_hz for plan in plans)
        cadence = {**left["cadence"], "machine": freeze_part(self._seen, left["cadence"])}
        planner = report.planner_part(self.spec, plans, late, left["reused"])
        return {
            "rate_hz": self.rate_hz, "pinned": self.pinned, "seconds": self.done_s, "cadence": cadence,
            "planner": {**planner, "plan_hz": self.spec.plan_hz, "restarts": left["planner_restarts"]},
            "trainer": {**trainer_part(self.refits()), "ended_early": self._trainer_ended},
            "swaps": swap_part(Offered(self._good, self._bad), plans, left["misses"], self._store.refused(), self.spec.plan_hz),
            "modes": left["modes"], "refused": left["refused"],
        }


def trainer_part(refits: list[dict[str, Any]]) -> dict[str, Any]:
    """The report's `trainer`; `busy` is the share of the time, from the first refit's end to the last's, that went into refits."""
    published = sum(bool(r["version"]) for r in refits)
    span = refits[-1]["wall_s"] - refits[0]["wall_s"] if len(refits) > 1 else 0.0
    return {"refits": len(refits), "published": published, "rejected": len(refits) - published,
            "refit_s": report.quantiles([r["seconds"] for r in refits]), "transitions": refits[-1]["transitions"] if refits else 0,
            "busy": sum(r["seconds"] for r in refits[1:]) / span if span else None}


def run(settings: Settings, command: str, watch: Watch) -> dict[str, Any]:
    """Measure every part, to the end or to Ctrl-C. Gives the report of what there is.

    Args:
        settings: see there.
        command: how the report names the run.
        watch: called four times a second.

    Raises:
        UserError: the robot is not valid at a rate, or a process failed.
    """
    begin, parts = time.monotonic(), settings.parts()
    folders = [settings.folder / f"{rate:g}hz-{'pinned' if pinned else 'free'}" for rate, pinned in parts]
    specs = [robot_at(settings.robot, rate, folder / "robot.yaml") for (rate, _), folder in zip(parts, folders, strict=True)]
    check_parts(specs[0])
    base = None if settings.robot in robot.shipped() else Path(settings.robot).absolute().parent
    save_episodes(bench_plant.excited(specs[0], bench_plant.make(specs[0], base), DATA_S, settings.seed), settings.folder / "data.npz")
    ended: list[dict[str, Any]] = []
    with Interruption() as interruption:
        for number, ((rate, pinned), folder) in enumerate(zip(parts, folders, strict=True)):
            part = Part(settings, rate, pinned, folder)
            _measure(part, base, watch, number, ended, interruption)
            if (found := part.report()) is not None:
                ended.append(found)
            if interruption.asked:
                break
    return whole(settings, command, ended, time.monotonic() - begin, interruption.asked)


def _measure(part: Part, base: Path | None, watch: Watch, number: int, ended: list[dict[str, Any]], interruption: Interruption) -> None:
    """Part `number` from start to end, or to Ctrl-C."""
    try:
        watch(progress(part, number, ended))
        part.start(base, interruption.point)
        while part.poll():
            watch(progress(part, number, ended))
            interruption.point()
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        pass
    finally:
        part.stop()


def progress(part: Part, number: int, ended: list[dict[str, Any]]) -> Progress:
    """Where it stands, with part `number` under way and others over."""
    settings = part.settings
    later = (len(settings.parts()) - number - 1) * (settings.seconds + START_S)
    left = settings.seconds - part.done_s + (0.0 if part.figures else START_S) + later
    return Progress(part.rate_hz, part.pinned, part.done_s, left, part.figures, len(part.refits()), max(0, part.offers - 1),
                    tuple(ended))


def whole(settings: Settings, command: str, runs: list[dict[str, Any]], wall_s: float, interrupted: bool) -> dict[str, Any]:
    """The report: the keys of report.json for the first part, and all parts under `runs`.

    `kept` says whether no tick was missed where processes were bound to cores (or everywhere, if none were), every part ran to its
    end, planner and trainer were at work all the time, and no snapshot that was bad on purpose was used.
    """
    judged = [r for r in runs if r["pinned"] or True not in settings.pinning]
    kept = (not interrupted and len(runs) == len(settings.parts())
            and all(r["cadence"]["missed"] == 0 and r["planner"]["plans"] and not r["trainer"]["ended_early"] for r in judged)
            and not any(r["swaps"].get("accepted_bad") for r in runs))
    first = {key: runs[0][key] for key in ("cadence", "planner", "trainer", "swaps")} if runs else {}
    return {"schema": 1, "command": command, "robot": settings.robot, "seed": settings.seed, "wall_s": wall_s, "machine": report.machine(),
            **first, "swap_every_s": settings.swap_every_s, "bad_every": settings.bad_every,
            "interrupted": interrupted, "kept": kept, "runs": runs}


def tidy(settings: Settings) -> None:
    """Remove what the parts left."""
    shutil.rmtree(settings.folder, ignore_errors=True)
