"""What this package offers under the entry-point group `mbrl_control.tasks`: gymnasium's and dm_control's tasks for agents."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbrl_control.agents.base import Outcome, TaskSpec
from mbrl_control.errors import UserError, nearest
from mbrl_sim.ends import ENDS

PIXELS, IMAGE = "@pixels", 64
USUAL_LIMIT = 1000


def required(module: str, what: str) -> Any:
    """A module of the extra packages.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without a display glfw warns at import; nothing is shown here
            return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise UserError(f"{what} needs '{package}', which is not installed: pip install mbrl_control[agents]") from error


class _Actions:
    """The line from decisions in [-1, 1] to the task's own actions.

    Args:
        low: [A] finite.
        high: [A] finite.
        name: of the task, for the message.
    """

    def __init__(self, low: NDArray[np.floating], high: NDArray[np.floating], name: str) -> None:
        self.low, self.high = np.asarray(low, np.float64).ravel(), np.asarray(high, np.float64).ravel()
        if not (np.isfinite(self.low) & np.isfinite(self.high)).all():
            raise UserError(f"task '{name}' has actions without bounds; agents here need bounds on every axis")

    def __call__(self, action: NDArray[np.floating]) -> NDArray[np.float64]:
        share = 0.5 * (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0)
        return self.low + share * (self.high - self.low)


class GymnasiumTask:
    """A task of gymnasium with continuous actions and vectors as observations.

    Args:
        env_id: as registered there, e.g. `Pendulum-v1`.
        name: as on the command line.
        repeat: environment steps of a decision.

    Raises:
        UserError: gymnasium or what the task needs is not installed, there is no such task, or its spaces are not such.
    """

    def __init__(self, env_id: str, name: str, repeat: int = 1) -> None:
        gymnasium = required("gymnasium", f"task '{name}'")
        try:
            self._env: Any = gymnasium.make(env_id)
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"task '{name}': {error}; pip install mbrl_control[agents]") from error
        except gymnasium.error.Error as error:
            known = [n for n, s in gymnasium.registry.items() if str(s.entry_point).startswith("gymnasium.envs.")]
            raise UserError(f"task '{name}' is not known to gymnasium{nearest(env_id, known).split(' (')[0]}") from error
        seen, done, box = self._env.observation_space, self._env.action_space, gymnasium.spaces.Box
        if not isinstance(seen, box) or not isinstance(done, box) or len(done.shape) != 1:
            self._env.close()
            raise UserError(f"task '{name}' has observations {seen} and actions {done}; agents here need vectors for both")
        self._action = _Actions(done.low, done.high, name)
        self._dtype = done.dtype
        limit = self._env.spec.max_episode_steps or USUAL_LIMIT
        self.spec = TaskSpec(name, (math.prod(seen.shape),), done.shape[0], math.ceil(limit / repeat), repeat, ENDS.get(env_id))
        self._count = 0

    def reset(self, seed: int | None = None) -> NDArray[np.float32]:
        """Begin an episode; gives its first observation [S]."""
        self._count = 0
        return np.asarray(self._env.reset(seed=seed)[0], np.float32).ravel()

    def step(self, action: NDArray[np.floating]) -> Outcome:
        """Carry out a decision [A] in [-1, 1]."""
        given, total, terminated, truncated, seen = self._action(action).astype(self._dtype), 0.0, False, False, None
        for _ in range(self.spec.repeat):
            seen, reward, terminated, truncated, _ = self._env.step(given)
            total += float(reward)
            if terminated or truncated:
                break
        self._count += 1
        return Outcome(np.asarray(seen, np.float32).ravel(), total, bool(terminated),
                       bool(truncated) or (self._count >= self.spec.limit and not terminated))

    def close(self) -> None:
        """Give back what it holds."""
        self._env.close()


class SuiteTask:
    """A task of the control suite (Tassa et al. 2018): its dictionary of observations as one vector, or an image of its first camera.

    Args:
        task_id: `domain-task`, e.g. `cartpole-swingup`, with `@pixels` after it for images (3, 64, 64).
        name: as on the command line.
        repeat: control steps of a decision.

    Raises:
        UserError: dm_control is not installed, there is no such task, or images cannot be drawn here.
    """

    def __init__(self, task_id: str, name: str, repeat: int = 1) -> None:
        self._pixels = task_id.endswith(PIXELS)
        if self._pixels:
            os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when dm_control is imported; its own first choice needs a display
        suite = required("dm_control.suite", f"task '{name}'")
        domain, _, task = task_id.removesuffix(PIXELS).partition("-")
        if (domain, task) not in suite.ALL_TASKS:
            known = ["-".join(pair) for pair in suite.ALL_TASKS]
            raise UserError(f"task '{name}' is not known to the control suite{nearest(f'{domain}-{task}', known).split(' (')[0]}")
        self._env: Any = suite.load(domain, task, task_kwargs={"random": 0})
        actions = self._env.action_spec()
        self._action = _Actions(actions.minimum, actions.maximum, name)
        steps = getattr(self._env, "_step_limit", math.inf)  # the suite keeps it to itself
        self._limit = int(steps) if math.isfinite(steps) else USUAL_LIMIT
        self._count = 0
        shape = self._picture(name).shape if self._pixels else self._vector(self._env.reset().observation).shape
        self.spec = TaskSpec(name, tuple(shape), len(self._action.low), math.ceil(self._limit / repeat), repeat)

    @staticmethod
    def _vector(seen: dict[str, Any]) -> NDArray[np.float32]:
        return np.concatenate([np.ravel(value) for value in seen.values()]).astype(np.float32)

    def _picture(self, name: str) -> NDArray[np.uint8]:
        try:
            drawn = self._env.physics.render(IMAGE, IMAGE, camera_id=0)
        except Exception as error:  # each GL backend has errors of its own
            raise UserError(f"task '{name}' cannot draw here with MUJOCO_GL={os.environ.get('MUJOCO_GL')} ({error}); "
                            "set it to egl (with a GPU driver or Mesa) or osmesa (with libosmesa6)") from error
        return np.ascontiguousarray(drawn.transpose(2, 0, 1))

    def _observe(self, seen: dict[str, Any]) -> NDArray[Any]:
        return self._picture(self.spec.name) if self._pixels else self._vector(seen)

    def reset(self, seed: int | None = None) -> NDArray[Any]:
        """Begin an episode; gives its first observation."""
        if seed is not None:
            self._env.task.random.seed(seed % 2**32)
        self._count = 0
        return self._observe(self._env.reset().observation)

    def step(self, action: NDArray[np.floating]) -> Outcome:
        """Carry out a decision [A] in [-1, 1]."""
        given, total, terminated = self._action(action), 0.0, False
        while True:
            now = self._env.step(given)
            total += float(now.reward or 0.0)
            self._count += 1
            over = now.last() or self._count >= self._limit
            terminated = now.last() and now.discount == 0.0
            if over or self._count % self.spec.repeat == 0:
                return Outcome(self._observe(now.observation), total, terminated, over and not terminated)

    def close(self) -> None:
        """Give back what it holds."""
        self._env.close()


def gymnasium_task(rest: str, name: str, repeat: int) -> GymnasiumTask:
    """See `GymnasiumTask`."""
    return GymnasiumTask(rest, name, repeat)


def suite_task(rest: str, name: str, repeat: int) -> SuiteTask:
    """See `SuiteTask`."""
    return SuiteTask(rest, name, repeat)
