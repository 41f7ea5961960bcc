"""From a run of an agent on a robot's task to a policy that the robot's planner starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mbrl_control import parts, robot
from mbrl_control.agents.base import Saved, TaskSpec
from mbrl_control.agents.dreamer import Dreamer
from mbrl_control.agents.dreamer import Options as DreamerSettings
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.policies import learned
from mbrl_control.policies.dreamer import DreamerPolicy
from mbrl_control.policies.dreamer import Options as DreamerOptions
from mbrl_control.policies.sac import Sac, SacOptions
from mbrl_control.policies.view import View
from mbrl_control.robot import RobotSpec
from mbrl_control.stack import agent_checkpoint

FAMILY, AGENTS, PART = "robot:", ("sac", "mbpo", "dreamer"), "sac."


def export(run_dir: Path, folder: Path) -> dict[str, Any]:
    """Write the policy of a run's newest checkpoint.

    Args:
        run_dir: of `mbrl agent`.
        folder: that is made.

    Returns:
        What it was made from: agent, task, seed, steps, repeat; and `value`: whether its critic can end plans.

    Raises:
        UserError: the run has no checkpoint, is not of a robot, or is of an agent without such a policy; or the folder is there already.
        SnapshotError: the checkpoint is damaged, or of what the robot's YAML no longer says.
    """
    identity, progress, saved = agent_checkpoint.newest(run_dir)
    who = {key: identity.get(key) for key in ("agent", "task", "seed", "repeat", "options")}
    agent, task = str(who["agent"]), str(who["task"])
    if not task.startswith(FAMILY):
        raise UserError(f"{run_dir}: task '{task}' is no robot; only what was learned on --task robot:NAME (or robot:FILE.yaml) "
                        "can be exported")
    if agent not in AGENTS:
        raise UserError(f"{run_dir}: agent '{agent}' has no policy that could be exported; {', '.join(AGENTS)} have")
    if folder.exists():
        raise UserError(f"{folder} is there already; name another folder")
    spec = robot.load(task.removeprefix(FAMILY))
    if not agent_checkpoint.same_contents(identity, learned.fingerprint(spec)):
        raise SnapshotError(f"{run_dir}: '{spec.name}' has other signals, limits or another cost than when this was learned; undo that, or "
                            "let it learn anew")
    options = parts.options("agents", agent, who["options"] if isinstance(who["options"], dict) else {})
    figures = {"agent": agent, "task": task, "seed": who["seed"], "steps": progress.steps, "repeat": who["repeat"],
               "eval_returns": [list(row) for row in progress.rows]}
    step_s = int(identity.get("repeat", 1)) * spec.tick_s
    networks: learned.Networks | learned.Recurrent
    if agent == "dreamer":
        networks = learned.Recurrent(options.version, options.size, step_s)
        found = dreamer_arrays(spec, options, saved, run_dir)
    else:
        sac = trained(spec, options, {name.removeprefix(PART): a for name, a in saved.arrays.items() if name.startswith(PART)}, run_dir)
        networks = learned.Networks(options.hidden, options.critics, options.norm, options.discount ** (1 / step_s))
        found = arrays(spec, sac)
    learned.write(folder, spec, networks, found, progress.steps, figures)
    return {**figures, "value": agent != "dreamer"}


def trained(spec: RobotSpec, options: SacOptions, given: dict[str, np.ndarray], run_dir: Path) -> Sac:
    """The learner of a checkpoint.

    Raises:
        SnapshotError: its arrays do not fit the robot.
    """
    sac = Sac(View(spec).size, spec.action_dim, options, 0)
    try:
        sac.load(given)
    except SnapshotError as error:
        raise SnapshotError(f"{run_dir}: {error}; is '{spec.name}' still the robot that it was learned on?") from error
    return sac


def arrays(spec: RobotSpec, sac: Sac) -> dict[str, np.ndarray]:
    """What `learned.write` takes. The task's rewards are minus costs of single ticks, so a critic's 1 is a tick's cost times its length."""
    view = View(spec)
    return {"actor": sac.actor.flat.vector.numpy().copy(), "critics": sac.critics.flat.vector.numpy().copy(), "mean": view.mean.numpy(),
            "inverse": view.inverse.numpy(), "unit": np.array([spec.tick_s], np.float32)}


def dreamer_arrays(spec: RobotSpec, options: DreamerSettings, saved: Saved, run_dir: Path) -> dict[str, np.ndarray]:
    """As `arrays`, of a checkpoint of Dreamer.

    Raises:
        SnapshotError: its arrays do not fit the robot.
    """
    policy = DreamerPolicy(spec, DreamerOptions(options.version, options.size))
    agent = Dreamer(TaskSpec(spec.name, (policy.view.size,), spec.action_dim, 1), 0, options)
    try:
        agent.load(saved)
    except SnapshotError as error:
        raise SnapshotError(f"{run_dir}: {error}; is '{spec.name}' still the robot that it was learned on?") from error
    policy.encoder, policy.rssm, policy.actor = agent.world.encoder, agent.world.rssm, agent.behaviour.actor
    policy.unit.fill_(spec.tick_s)
    return policy.arrays()
