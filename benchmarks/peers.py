"""The competitors of `planning.py`: our planner, the same loop in plain torch, the matrix products alone, and two public libraries."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import os
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import problems
import torch
from problems import Problem, Weights
from torch.nn import functional

from mbrl_control import parts
from mbrl_control.costs import base as costs
from mbrl_control.models.ensemble import Ensemble
from mbrl_control.planning import base as planning
from mbrl_control.planning.plan import Plan, PlanRequest

STD = 0.5
START_S = 180.0
MPPI_SPREAD = 0.25
"""Variance of pytorch-mppi's noise."""


class MissingError(Exception):
    """A competitor cannot take part; the message is the reason."""


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


class Competitor(ABC):
    """What is timed: one plan after the other.

    Attributes:
        device: `cpu` or `cuda`.
    """

    device = "cpu"

    def prepare(self, i: int) -> None:  # noqa: B027 (most have nothing to do)
        """What is not timed of plan i."""

    @abstractmethod
    def plan(self, i: int) -> None:
        """Plan i, from start state i of the bank."""

    def time_ms(self, i: int) -> float:
        """Milliseconds that plan i takes."""
        self.prepare(i)
        synchronise(self.device)
        begin = time.perf_counter()
        self.plan(i)
        synchronise(self.device)
        return 1e3 * (time.perf_counter() - begin)

    def close(self) -> None:  # noqa: B027 (most have nothing to do)
        """Let go of what the competitor holds."""


class Ours(Competitor):
    """mbrl_control's planner, through its public interface alone.

    It scores more than fresh samples: the last plan, resting, kept elites, the refitted mean. All of them count as candidates, so it
    samples fewer, but never so few that it would score less rows than the problem asks for.

    Args:
        problem: sizes.
        weights: network and cost.
        dtype: of the hidden layers.
        kind: `icem` or `cem`.
        device: where to plan.

    Raises:
        MissingError: the planner cannot be put on that device.
    """

    def __init__(self, problem: Problem, weights: Weights, dtype: str, kind: str, device: str) -> None:
        self.device = device
        self._build(problem, weights, dtype, kind, problem.candidates)
        for i in range(2):
            self.prepare(i)
            self.plan(i)
        more = self.rows - problem.candidates * problem.iterations
        self._build(problem, weights, dtype, kind, problem.candidates - more // problem.iterations)

    def _build(self, problem: Problem, weights: Weights, dtype: str, kind: str, candidates: int) -> None:
        spec = problems.spec(problem, weights, dtype, kind, candidates)
        model = parts.find("models", "ensemble").build(spec, parts.options("models", "ensemble", {}))
        assert isinstance(model, Ensemble)
        model.load(problems.snapshot(model, weights))
        model.prepare(getattr(torch, dtype))
        given: dict[str, Any] = {}
        if "device" in inspect.signature(planning.build).parameters:
            given["device"] = self.device
        elif self.device != "cpu":
            raise MissingError("mbrl_control.planning.build has no parameter `device`: this version plans on the CPU only")
        self.spec, self.model, self.cost = spec, model, costs.build(spec)
        self.planner = planning.build(spec, model, self.cost, 0, **given)
        self.states = problems.starts(problem)
        self.request: PlanRequest | None = None
        self.last: Plan | None = None

    def prepare(self, i: int) -> None:
        """The request: a new state each time, one model step after the last."""
        now, dt = i * self.spec.model_dt, self.spec.model_dt
        sent = np.zeros((0, self.spec.action_dim)) if self.last is None else self.last.actions[:1]
        self.request = PlanRequest(i, self.states[i % len(self.states)], now, now, np.full(len(sent), now - dt), sent)

    def plan(self, i: int) -> None:
        """One call of the planner, warm-started by the last plan."""
        assert self.request is not None
        self.last = self.planner.plan(self.request, self.last)

    @property
    def rows(self) -> int:
        """Candidates that the last plan scored, in all iterations together."""
        assert self.last is not None
        return int(self.last.stats["rollouts"])


class Naive(Competitor):
    """The cross-entropy method over the ensemble as one writes it down in torch: nothing preallocated, nothing folded.

    Args:
        problem: sizes.
        weights: network and cost.
        dtype: of the layers; state, statistics and cost are float32 all the same.
        device: where to plan.
    """

    def __init__(self, problem: Problem, weights: Weights, dtype: torch.dtype, device: str) -> None:
        self.problem, self.dtype, self.device = problem, dtype, device
        self.layers = [(self._put(w).to(dtype), self._put(b).to(dtype)) for w, b in weights.layers]
        self.input_mean, self.input_inverse, self.target_mean, self.target_scale, self.goal, self.state_cost, self.effort = (
            self._put(a) for a in (weights.input_mean, weights.input_inverse, weights.target_mean, weights.target_scale, weights.goal,
                                   weights.state_cost, weights.effort))
        self.states = self._put(problems.starts(problem).astype(np.float32))
        self.mean = torch.zeros(problem.horizon, problem.actions, device=device)

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array).to(self.device)

    def step(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[E, N, S] every member's next states, from state [E, N, S] and action [N, A]."""
        inputs = torch.cat([state, action.expand(len(state), -1, -1)], -1)
        hidden = ((inputs - self.input_mean) * self.input_inverse).to(self.dtype)
        for i, (weight, bias) in enumerate(self.layers):
            hidden = torch.baddbmm(bias, hidden, weight)
            if i < len(self.layers) - 1:
                hidden = functional.silu(hidden)
        return state + hidden[..., : self.problem.states].float() * self.target_scale + self.target_mean

    def stage(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[E, N] quadratic cost of states [E, N, S] and actions [N, A]."""
        return (state - self.goal).square() @ self.state_cost + action.square() @ self.effort

    def returns(self, start: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """[N] cost of actions [N, H, A] from start [S], summed over the horizon, mean over the members."""
        state = start.expand(self.problem.members, len(actions), -1)
        total = torch.zeros(state.shape[:2], device=self.device)
        for k in range(actions.shape[1]):
            state = self.step(state, actions[:, k])
            total = total + self.stage(state, actions[:, k])
        return total.mean(0)

    def plan(self, i: int) -> None:
        """Iterations of sampling, scoring and refitting to the elites."""
        with torch.inference_mode():
            mean = torch.cat([self.mean[1:], self.mean[-1:]])
            std = torch.full_like(mean, STD)
            for _ in range(self.problem.iterations):
                noise = torch.randn(self.problem.candidates, *mean.shape, device=self.device)
                actions = (mean + std * noise).clamp(-1, 1)
                cost = self.returns(self.states[i % len(self.states)], actions)
                best = actions[cost.topk(problems.elites(self.problem), largest=False).indices]
                mean, std = best.mean(0), best.std(0)
            self.mean = mean


class PytorchMppi(Naive):
    """MPPI of the package pytorch-mppi; one `command` per iteration, of which the first shifts the nominal.

    Its fast path (`rollout_samples=1`) hands the state from one call of the dynamics to the next as it is, so the five members'
    states stay [E, N, S]: all are evaluated in one batched product, and nothing is rearranged. With `rollout_samples=E` the library
    itself also stores all states and the variance over the members, which costs more.

    Args:
        problem: sizes.
        weights: network and cost.
        device: where to plan.
        compiled: with the library's own `compile()`.

    Raises:
        MissingError: not installed.
    """

    def __init__(self, problem: Problem, weights: Weights, device: str, compiled: bool = False) -> None:
        if importlib.util.find_spec("pytorch_mppi") is None:
            raise MissingError("pytorch-mppi is not installed; pip install pytorch-mppi==0.9.1")
        from pytorch_mppi import MPPI  # noqa: PLC0415 (an optional peer)

        super().__init__(problem, weights, torch.float32, device)
        one = torch.ones(problem.actions, device=device)
        self.mppi = MPPI(self.dynamics, self.running_cost, problem.states, MPPI_SPREAD * torch.diag(one), num_samples=problem.candidates,
                         horizon=problem.horizon, device=device, u_min=-one, u_max=one,
                         U_init=torch.zeros(problem.horizon, problem.actions, device=device))
        if compiled:
            self.mppi.compile()

    def dynamics(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[E, N, S] next states, from [N, S] (the first time: the start) or [E, N, S], and actions [N, A]."""
        return self.step(state.expand(self.problem.members, -1, -1) if state.ndim == 2 else state, action)

    def running_cost(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[N] mean cost over the members of states [E, N, S]."""
        return self.stage(state, action).mean(0)

    def plan(self, i: int) -> None:
        """As many calls as there are iterations."""
        with torch.inference_mode():
            for k in range(self.problem.iterations):
                self.mppi.command(self.states[i % len(self.states)], shift_nominal_trajectory=k == 0)


class Products(Competitor):
    """The matrix products of a plan and nothing else: batched products into preallocated outputs; on CUDA in one graph.

    Args:
        problem: sizes; the last layer is the full one, mean and log-variance.
        weights: of the layers.
        dtype: of everything.
        device: where to compute.
    """

    def __init__(self, problem: Problem, weights: Weights, dtype: torch.dtype, device: str) -> None:
        self.steps, self.device = problem.steps, device
        self.weights = [torch.as_tensor(w).to(device, dtype) for w, _ in weights.layers]
        shapes = [(problem.members, problem.candidates, size) for size in problem.sizes]
        self.values = [torch.randn(shapes[0], device=device).to(dtype), *(torch.empty(s, device=device, dtype=dtype) for s in shapes[1:])]
        self.graph: torch.cuda.CUDAGraph | None = None
        if device == "cuda":
            self._multiply()
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._multiply()

    def _multiply(self) -> None:
        layers = [(before, w, after) for (before, after), w in zip(itertools.pairwise(self.values), self.weights, strict=True)]
        for _ in range(self.steps):
            for before, weight, after in layers:
                torch.bmm(before, weight, out=after)

    def plan(self, i: int) -> None:
        """All model steps of all iterations."""
        with torch.inference_mode():
            if self.graph is None:
                self._multiply()
            else:
                self.graph.replay()


class MbrlLib(Competitor):
    """mbrl-lib's planner in a Python of its own (see `peer_mbrl_lib.py`), which times itself when it is told to.

    Args:
        problem: sizes.
        weights: network and cost.
        python: of the environment that mbrl-lib is installed in; None where there is none.
        threads: for its torch.
        device: where to plan.
        shipped: with the noise, sampler and precision of its PETS examples, instead of the least work that the problem needs.

    Raises:
        MissingError: it cannot be started.
    """

    def __init__(self, problem: Problem, weights: Weights, python: Path | None, threads: int, device: str, shipped: bool = False) -> None:
        if python is None:
            raise MissingError("no Python with mbrl-lib was named (--mbrl-python or MBRL_PYTHON); see benchmarks/peer_mbrl_lib.py")
        self.folder = tempfile.TemporaryDirectory()
        file, log = Path(self.folder.name) / "weights.npz", Path(self.folder.name) / "stderr"
        save(file, problem, weights)
        # Not resolved: a virtual environment's Python is a link whose place matters.
        command = [os.path.abspath(python), str(Path(__file__).resolve().with_name("peer_mbrl_lib.py")), "--weights", str(file),
                   "--threads", str(threads), "--device", device, "--serve", *(["--shipped"] if shipped else [])]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        try:
            with log.open("w") as errors:
                self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                                                env=environment, cwd=self.folder.name)
        except OSError as error:
            self.folder.cleanup()
            raise MissingError(f"{python.name} cannot be started: {error.strerror}") from error
        killer = threading.Timer(START_S, self.process.kill)
        killer.start()
        line = self._read()
        killer.cancel()
        if line is None:
            last = (log.read_text("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            self.close()
            raise MissingError(f"mbrl-lib does not run in the Python that was named: {last}")
        self.check: dict[str, Any] = line

    def _read(self) -> dict[str, Any] | None:
        """The next JSON line; None when the process has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        return None

    def plan(self, i: int) -> None:
        """Not used: the other process takes the time."""
        self.time_ms(i)

    def time_ms(self, i: int) -> float:
        """Milliseconds that plan i takes there."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{i}\n")
        self.process.stdin.flush()
        answer = self._read()
        if answer is None:
            raise MissingError("mbrl-lib's process ended while it was timed")
        return float(answer["ms"])

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


def save(file: Path, problem: Problem, weights: Weights) -> None:
    """Write what mbrl-lib needs: sizes, folded layers, statistics, cost, start states and the rows to be compared."""
    state, actions = check_rows(problem)
    arrays = {f"weight{i}": w for i, (w, _) in enumerate(weights.folded())} | {f"bias{i}": b for i, (_, b) in enumerate(weights.folded())}
    np.savez(file, **arrays, input_mean=weights.input_mean, input_inverse=weights.input_inverse, goal=weights.goal,
             state_cost=weights.state_cost, effort=weights.effort, starts=problems.starts(problem), check_state=state,
             check_actions=actions, sizes=np.array([problem.candidates, problem.horizon, problem.iterations]))


def check_rows(problem: Problem, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A state [S] and action sequences [count, H, A] that all competitors predict before any is timed."""
    rng = np.random.default_rng(5)
    actions = rng.uniform(-1, 1, (count, problem.horizon, problem.actions))
    return (0.5 * rng.standard_normal(problem.states)).astype(np.float32), actions.astype(np.float32)
