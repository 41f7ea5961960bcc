"""A planner's iterations on a GPU, each one CUDA graph that is captured when the planner is configured and replayed in every plan.

The shapes of an iteration are fixed, so there is one graph per iteration and one for the end of the plan. Inside a graph there is nothing
but operations on buffers that stay: what differs from plan to plan (state, limits, rows, the number of the noise set) comes in one copy
from pinned memory, costs and best rows go back in one, and a new model is copied into the weights that were captured. Between graphs the
host looks at an event, without waiting for anything else, and decides whether another iteration fits the budget.

What a rollout costs inside a graph is not known from here, only how many operations there are: an ensemble's model step is 3 and 2 per
hidden layer, so with 4 hidden layers of 200, 512 candidates and a horizon of 15 (problem P2) an iteration is 215 and the end of the plan,
which scores one row, 188; a plan of 3 iterations some 830. At 1.5 to 3 microseconds for a small kernel that is 1.3 to 2.5 ms before any
product is large. Fusing a whole step into one kernel is worth its code only where a profile of the replay shows that gaps and small
kernels, not the products, take most of the time at the sizes wanted: compare the products alone with a replay, and look first at the end
of the plan, which has next to no arithmetic. The place for a fused step is the model's twin, whose `step` everything here goes through;
bfloat16 layers come before it, since single-precision products leave the tensor cores idle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol, cast

import torch

from mbrl_control.errors import UserError
from mbrl_control.models.base import Model
from mbrl_control.planning.base import SamplingPlanner
from mbrl_control.planning.engine import Found
from mbrl_control.planning.record import Record, Shape
from mbrl_control.planning.search import Problem, Search

STALL_S = 0.25
"""An answer that takes so much longer than any plan may is not coming; with a plan on the processor it stays below 0.5 s."""

CLOSE = -1
Body = Callable[[], None]
Key = tuple[int, bool, int, int]


class Twin(Model, Protocol):
    """A learned model's copy on another device, as its `on(device)` gives it."""

    def follow(self, other: Model) -> None:
        """Copy the other's weights into the buffers here, whose addresses stay."""
        ...


class DeviceLost(RuntimeError):
    """The device does not answer."""


class Runner(Protocol):
    """How a device is told to do something over and over.

    Attributes:
        device: where tensors are.
    """

    device: torch.device

    def capture(self, body: Body) -> Body:
        """Something that does what the body does; may run it some times for that."""
        ...

    def mark(self) -> None:
        """Note the present end of what was started."""
        ...

    def done(self) -> bool:
        """Whether everything before the last mark is done."""
        ...


class Eager:
    """Operation by operation: for what cannot be captured, and for tests without a GPU."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def capture(self, body: Body) -> Body:
        """The body itself."""
        return body

    def mark(self) -> None:
        """Nothing to note: reading the answer waits."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def done(self) -> bool:
        """Always."""
        return True


class CudaGraphs:
    """CUDA graphs. Captured one after the other and replayed on one stream, so that they share their memory."""

    WARM_UPS = 3

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def capture(self, body: Body) -> Body:
        """Warm up on a side stream, then capture; other threads of the process may go on using the device meanwhile."""
        here = torch.cuda.current_stream(self.device)
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            for _ in range(self.WARM_UPS):
                body()
        here.wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
            body()
        return graph.replay

    def mark(self) -> None:
        """Record the event."""
        self._event.record()

    def done(self) -> bool:
        """Query the event."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]


class Parcel:
    """Named float32 tensors in one flat buffer on the host and one on a device, so that one copy sends them all.

    Attributes:
        host: by name, views to be filled.
        device: by name, views where they arrive; they stay where they are.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], device: torch.device) -> None:
        total = sum(math.prod(shape) for shape in shapes.values())
        self._from = torch.zeros(total, pin_memory=device.type == "cuda")
        self._to = torch.zeros(total, device=device)
        self.shapes = shapes
        self.host, self.device = self._views(self._from), self._views(self._to)

    def send(self) -> None:
        """Copy; the host's side must stay as it is until the device is done."""
        self._to.copy_(self._from, non_blocking=True)

    def _views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


class Replays:
    """The engine of a planner whose iterations are replayed on a device (see `Engine`).

    The first dimensions of what comes in vary: rows that proposals add, and candidates kept from the last plan (none after a reset).
    Each combination met in `capture` has its own graphs; any other runs operation by operation, which is slow and is counted.

    Args:
        host: the planner that prepares problems and reads answers; it keeps a way of its own in case this one fails.
        runner: the device.
    """

    def __init__(self, host: SamplingPlanner, runner: Runner) -> None:
        self.host, self.runner = host, runner
        self.model = cast(Twin, host.model.on(runner.device))  # type: ignore[attr-defined]
        self.twin = host.on(runner.device, self.model)
        self.slowest = self.closing = 0.0
        self.stall_s = STALL_S
        self.clock: Callable[[], float] = time.perf_counter
        self._parcel = Parcel({}, runner.device)
        self._answer: Record
        self._figures: dict[str, torch.Tensor] = {}
        self._captured: dict[Key, Body] = {}
        self._carried: dict[Key, int] = {}
        self._capturing = False
        self._fixed = self._kept = self._uncaptured = 0

    def capture(self, problem: Problem, search: Search) -> None:
        """See `Engine.capture`."""
        self._capturing = True
        self.begin(problem, search, self.host.iterations)
        for i in range(self.host.iterations):
            self.iterate(i, i == self.host.iterations - 1)
        self.finish()
        self._capturing = False

    def begin(self, problem: Problem, search: Search, iterations: int) -> None:
        """See `Engine.begin`. Buffers that are too small are made anew, and what was captured with the old ones is lost."""
        if self.model.version != self.host.model.version:
            self.model.follow(self.host.model)
        given = self._given(problem, search, iterations)
        shape = self.twin.shape(problem, search, iterations)
        if not self._holds(given, shape):
            self._allocate(given, shape)
        self._fixed, self._kept, self._uncaptured = len(problem.fixed), len(search.kept), 0
        for name, value in given.items():
            place = self._parcel.host[name]
            (place[: len(value)] if value.ndim else place).copy_(value)
        self._parcel.send()

    def iterate(self, i: int, final: bool) -> None:
        """See `Engine.iterate`."""
        key = (i, final, self._fixed, self._kept)
        self._run(key)
        self._kept = self._carried[key]

    def settle(self) -> None:
        """Look again and again whether the device is done.

        Raises:
            DeviceLost: it is not within `stall_s`.
        """
        self.runner.mark()
        until = self.clock() + self.stall_s
        while not self.runner.done():
            if self.clock() > until:
                raise DeviceLost(f"{self.runner.device} has not answered for {self.stall_s} s")

    def finish(self) -> Found:
        """See `Engine.finish`."""
        self._run((CLOSE, False, self._fixed, self._kept))
        self._answer.flat.copy_(self.twin.record.flat, non_blocking=True)
        self.settle()
        return Found(self._answer, self._kept, list(self._figures), self._uncaptured)

    def _given(self, problem: Problem, search: Search, iterations: int) -> dict[str, torch.Tensor]:
        """All that a plan brings along, by name."""
        first, sets = problem.seq * self.host.iterations, len(self.host.bank)
        given = {"start": problem.start, "last": problem.last, "fixed": problem.fixed, "mean": search.mean, "std": search.std,
                 "kept": search.kept, "part": torch.zeros(()) if problem.part is None else problem.part,
                 "sets": torch.tensor([float((first + i) % sets) for i in range(iterations)])}
        if problem.pending is not None:
            given["pending"] = problem.pending
        if problem.scale is not None:
            given["scale"] = problem.scale
        return given

    def _holds(self, given: dict[str, torch.Tensor], shape: Shape) -> bool:
        room = self._parcel.shapes
        return (room.keys() == given.keys() and all(v.ndim == 0 or len(v) <= room[n][0] for n, v in given.items())
                and self.twin.record.shape.holds(shape))

    def _allocate(self, given: dict[str, torch.Tensor], shape: Shape) -> None:
        shapes = {name: tuple(value.shape) for name, value in given.items()} | {"kept": (shape.kept, shape.horizon, shape.axes)}
        self._parcel = Parcel(shapes, self.runner.device)
        self.twin.allocate(shape)
        self._answer = Record(shape, torch.device("cpu"), pinned=self.runner.device.type == "cuda")
        self._captured.clear()

    def _run(self, key: Key) -> None:
        replay = self._captured.get(key)
        if replay is None:
            replay = self._end(key) if key[0] == CLOSE else self._iteration(key)
            if self._capturing:
                replay = self._captured[key] = self.runner.capture(replay)
            else:
                self._uncaptured += 1
        replay()

    def _problem(self, fixed: int) -> Problem:
        """The problem as it stands on the device, with the first of its fixed rows."""
        have = self._parcel.device
        return Problem(0, have["start"], have["last"], have["part"], have.get("pending"), have["fixed"][:fixed], have.get("scale"), [],
                       have["sets"])

    def _iteration(self, key: Key) -> Body:
        i, final, fixed, count = key
        problem, have = self._problem(fixed), self._parcel.device
        mean, std, kept = have["mean"], have["std"], have["kept"]

        def body() -> None:
            if i == 0:
                self.twin.record.clear()
            search = Search(mean, std, kept[:count])
            self.twin.iterate(search, problem, i, final)
            mean.copy_(search.mean)
            std.copy_(search.std)
            kept[: len(search.kept)].copy_(search.kept)
            self._carried[key] = len(search.kept)
            for name, value in search.figures.items():
                if name not in self._figures:
                    self._figures[name] = torch.empty_like(value)
                self._figures[name].copy_(value)

        return body

    def _end(self, key: Key) -> Body:
        problem, have = self._problem(key[2]), self._parcel.device
        search = Search(have["mean"], have["std"], have["kept"][: key[3]], self._figures)
        return lambda: self.twin.close(search, problem)


def attach(planner: SamplingPlanner, device: str) -> None:
    """Let a planner's iterations run where `device` (auto, cpu or cuda) says.

    Raises:
        UserError: `cuda` is asked for and there is none, or the model or the planner cannot use it.
    """
    kind, reason = planner.spec.planner, ""
    if not torch.cuda.is_available():
        reason = "torch sees no CUDA device here"
    elif not planner.placeable:
        reason = f"planner '{kind.kind}' runs on the processor only"
    elif not hasattr(planner.model, "on"):
        reason = f"model '{planner.spec.model.kind}' runs on the processor only"
    if device == "cuda" and reason:
        raise UserError(f"planner.device = 'cuda': {reason}; set it to 'cpu', or to 'auto' to use a GPU only where that is possible")
    if device == "cpu" or reason:
        return
    try:
        # Trajectory sampling that hands particles round draws a permutation on the host at every step.
        planner.engine = Replays(planner, Eager("cuda") if kind.propagation == "ts1" else CudaGraphs())
    except RuntimeError as error:
        planner.lose(error)
