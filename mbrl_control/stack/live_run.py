"""A run with real processes over ROS topics, from start to report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbrl_control import robot
from mbrl_control.data.episode_tail import EpisodeTail
from mbrl_control.errors import UserError
from mbrl_control.part_checks import check_parts
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime import plan_timer
from mbrl_control.runtime.fit_check import Fit
from mbrl_control.runtime.freezes import Seen
from mbrl_control.stack import picture, report
from mbrl_control.stack.interruption import Interruption
from mbrl_control.stack.leftovers import sweep_dds
from mbrl_control.stack.machine_watch import beside_ticks, freeze_part
from mbrl_control.stack.model_report import model_part
from mbrl_control.stack.processes import Node, Processes, require_ros, wait_for
from mbrl_control.stack.run_log import RunLog
from mbrl_control.stack.run_reader import RunReader
from mbrl_control.stack.run_span import RunSpan
from mbrl_control.stack.upkeep import HELPERS, Upkeep
from mbrl_control.store import ModelStore
from mbrl_control.store.store import ROLLED_BACK

POLL_S = 0.25
START_TIMEOUT_S = 60.0
Watch = Callable[[RunLog], bool | None]
"""Looks at what has been logged; True ends the run."""



@dataclass(frozen=True)
class LiveSettings:
    """How a live run goes.

    Attributes:
        robot: shipped name or YAML path.
        run_dir: folder for everything that the run leaves; must be new or empty.
        duration_s: from the first command.
        seed: of start state, excitation, planner and trainer.
        sim: start the simulated robot too.
        train: start the trainer.
        store: model store to start from; by default the run's own, empty one.
        sim_parameters: further parameters of the simulated robot.
        keep_mb: the oldest files of the bag are dropped beyond so many MB; 0: none ever is.
        course: file of a course to play instead of plans (`mbrl_control.runtime.course`); then nothing plans.
    """

    robot: str
    run_dir: Path
    duration_s: float
    seed: int = 0
    sim: bool = True
    train: bool = True
    store: Path | None = None
    sim_parameters: tuple[tuple[str, str], ...] = ()
    course: Path | None = None
    keep_mb: int = 0


def nodes(settings: LiveSettings) -> list[Node]:
    """The processes of a run."""
    common = {"robot": settings.robot, "seed": str(settings.seed)}
    folders = {"run_dir": str(settings.run_dir), "store_dir": str(settings.store or settings.run_dir / "store")}
    recording = {"robot": settings.robot, "run_dir": folders["run_dir"], "keep_mb": str(settings.keep_mb)}
    out = [Node("recorder", "mbrl_control_ros.recorder_node", recording, heartbeat=True),
           *(Node(name, "mbrl_control_ros.recorder_standby", {**recording, "resume": "true"}, heartbeat=True, later=True, log="recorder")
             for name in HELPERS["recorder"].standby)]
    if settings.train:
        out.append(Node("trainer", "mbrl_control_ros.trainer_node", {**common, **folders}, heartbeat=True))
    if settings.sim:
        out.append(Node("sim", "mbrl_control_ros.sim_node", {**common, **dict(settings.sim_parameters)}))
    course = {"course": str(settings.course)} if settings.course is not None else {}
    out.append(Node("controller", "mbrl_control_ros.controller_node",
                    {**common, **folders, "autostart": "true", "check_fit": "false", **course}))
    return out


def require_empty(run_dir: Path) -> None:
    """Raise a sentence unless a run may leave its files in a folder: it is new or empty."""
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"{run_dir} is not an empty folder; name a new one with --out")


@dataclass(frozen=True)
class Prepared:
    """A run that may begin: its folder is made, and its planner keeps its rate on this machine.

    Attributes:
        spec: the robot.
        fit: what its planner takes; None where nothing plans.
    """

    spec: RobotSpec
    fit: Fit | None


def prepare(settings: LiveSettings) -> Prepared:
    """Check everything that can be checked before a process is started.

    Raises:
        UserError: something is missing, or not even one iteration of the planner fits into its period.
    """
    spec = robot.load(settings.robot)
    if settings.sim and spec.sim is None:
        raise UserError(f"robot '{spec.name}' has no `sim` section, so nothing can be simulated; use `mbrl control` with the real robot")
    check_parts(spec)
    require_empty(settings.run_dir)
    require_ros()
    fit = plan_timer.check(spec) if settings.course is None else None
    if fit is not None:
        fit.demand()
    sweep_dds()
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    known = robot.shipped().get(settings.robot)
    shutil.copyfile(known or settings.robot, settings.run_dir / "robot.yaml")
    facts = {"schema": 1, "robot": settings.robot, "seed": settings.seed, "store": str(settings.store or settings.run_dir / "store")}
    (settings.run_dir / "run.json").write_text(json.dumps(facts) + "\n", "utf-8")
    return Prepared(spec, fit)


def run(settings: LiveSettings, command: str, watch: Watch | None = None, prepared: Prepared | None = None,
        tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Run to the end or to Ctrl-C, then write `report.json` and `picture.png`; both also after an interruption.

    Trainer and recorder are started again when they end, the trainer also when it is silent; without them the robot goes on.

    Args:
        settings: see there.
        command: how the report names the run.
        watch: called four times a second; where it gives True the run ends.
        prepared: what `prepare` gave, when it was called before.
        tell: called with a sentence for each thing that happens to a helper.

    Raises:
        UserError: something is missing, or a process ended by itself.
    """
    ready = prepared or prepare(settings)
    spec = ready.spec
    begin, refused_before = time.monotonic(), _refused(settings)
    processes = Processes(nodes(settings), settings.run_dir)
    machine = beside_ticks(settings.run_dir, settings.run_dir / "logs", spec.rate_hz)
    seen: Seen | None = None
    reader = RunReader(spec, settings.run_dir)
    ended: dict[str, int] = {}
    interrupted = False
    upkeep = Upkeep(processes, tell)
    with Interruption() as end:  # also while they are stopped: impatience must not leave a controller without its watcher
        try:
            machine.start()
            processes.start()
            wait_for(settings.run_dir / "bag", processes, START_TIMEOUT_S, end.point)
            span = RunSpan(settings.duration_s)
            while not ended and not span.over(reader.log.time[-1] if reader.log.time else None, time.monotonic()):
                end.point()
                log = reader.poll()
                if watch is not None and watch(log):
                    break
                if not log.time and time.monotonic() - begin > START_TIMEOUT_S:
                    raise UserError(f"no command was recorded within {START_TIMEOUT_S:g} s; see the logs in {settings.run_dir / 'logs'}")
                ended = upkeep.look(time.monotonic(), log.time[-1] if log.time else 0.0)
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            processes.stop()
            seen = machine.stop()
    return finish(spec, reader, settings, command, time.monotonic() - begin, seen, upkeep.fault_parts(),
                  {"interrupted": interrupted, "plan_fit": asdict(ready.fit) if ready.fit is not None else None,
                   "trainer_restarts": upkeep.restarts("trainer"), "recorder_restarts": upkeep.restarts("recorder"),
                   "ended_early": {n: processes.last_words(n) for n in ended}},
                  refused_before)


def _refused(settings: LiveSettings) -> int:
    """Snapshots in the run's store that were refused without having been used."""
    reasons = ModelStore(settings.store or settings.run_dir / "store").refused().values()
    return sum(not reason.startswith(ROLLED_BACK) for reason in reasons)


def finish(spec: RobotSpec, reader: RunReader, settings: LiveSettings, command: str, wall_s: float, seen: Seen | None,
           faults: list[dict[str, Any]], extra: dict[str, Any], refused_before: int = 0) -> dict[str, Any]:
    """Report and picture of what was recorded, and of what was seen of the machine meanwhile.

    `faults` are entries of the report beside those that the recording shows. Of the snapshots refused in the store, `refused_before` were
    so when the run began.
    """
    log = reader.poll()
    log.refused = _refused(settings) - refused_before
    left = reader.controller()
    log.reused = left.get("plans_reused")
    cadence = left.get("cadence", {"rate_hz": spec.rate_hz, "ticks": sum(log.ticks), "missed": None, "lateness_us": None})
    cadence["machine"] = freeze_part(seen, cadence)
    tail = EpisodeTail(settings.run_dir / "bag", spec)
    tail.poll()
    model = model_part(spec, settings.store or settings.run_dir / "store", tail.episodes()) if log.time else {}
    out = report.build(spec, log, command=command, seed=settings.seed, wall_s=wall_s, cadence=cadence, model=model,
                       late=sum(1 for p in log.plans if p.latency_s > 1 / spec.plan_hz), extra={**extra, "run_dir": str(settings.run_dir)})
    out["faults"] += faults
    report.save(out, settings.run_dir / "report.json")
    if log.time:
        picture.draw(spec, log, settings.run_dir / "picture.png", f"{spec.title or spec.name}: {command}")
    return out
