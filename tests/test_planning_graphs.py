"""Replayed iterations without a GPU: a tape stands for the graph. It holds every operation with the very tensors that it was captured on
and does them again, so a number that was baked in, or a buffer that moved, shows as it would in a CUDA graph."""

import dataclasses
import time

import numpy as np
import planning_fakes as fakes
import pytest
import torch
from test_planning_devices import KINDS, SWING_UP, fitted, planner_of, request, robot
from test_planning_loop import DRAWING, WAITING
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mbrl_control.costs import base as costs
from mbrl_control.errors import UserError
from mbrl_control.models.ensemble import Ensemble
from mbrl_control.planning import base, graphs
from mbrl_control.planning.plan import Verdict


class Tape(TorchDispatchMode):
    """Operations as they are done."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name.removeprefix("aten::") not in WAITING + DRAWING
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def play(self):
        for func, args, kwargs, out in self.done:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes(graphs.Eager):
    """Captures tapes, after the three warm-ups of CUDA graphs; counts captures and replays; fails when told to."""

    def __init__(self):
        super().__init__()
        self.captures = self.replays = 0
        self.broken = self.stalled = False

    def capture(self, body):
        for _ in range(3):
            body()
        with Tape() as tape:
            body()
        self.captures += 1

        def replay():
            if self.broken:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")
            self.replays += 1
            tape.play()

        return replay

    def done(self):
        return not self.stalled


def replayed(spec, model=None, seed=0, captured=True, runner=None):
    """A planner whose iterations are replayed from tapes."""
    planner = planner_of(spec, model, seed)
    planner.engine = graphs.Replays(planner, runner or Tapes())
    if captured:
        planner.capture()
    return planner


def series(planner, count=4, **kwargs):
    """Plans one after the other, at times on the grid and off it, under commands that differ."""
    plans = [None]
    for k in range(count):
        ask = request(k, 0.02 * k, [[0.1 * k, -0.1 * k], [1.0 - k, 0.3]])
        plans.append(planner.plan(ask, plans[-1], **kwargs))
    return plans[1:]


def same(one, two, atol=0.0):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.actions, b.actions, atol=atol, rtol=0)
        np.testing.assert_allclose(a.carry, b.carry, atol=atol, rtol=0)
        assert a.cost == pytest.approx(b.cost, abs=atol, rel=atol)
        assert (a.winner, a.verdict, a.iterations) == (b.winner, b.verdict, b.iterations)
        figures = [{n: v for n, v in p.stats.items() if n not in ("device_faults", "uncaptured")} for p in (a, b)]
        assert figures[0] == pytest.approx(figures[1], rel=10 * atol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"knots": 3, "propagation": "mean", "risk": "std", "risk_weight": 1.0}, {"cost": SWING_UP},
                                      {"newton_rows": 2}])
def test_replays_are_the_plans_of_the_processor(kind, settings, monkeypatch):
    # Torch on both sides: native code rounds otherwise, which MPPI amplifies.
    monkeypatch.setattr(Ensemble, "rollout", lambda *_: None)
    spec = robot(kind, **settings)
    model = fitted(spec)
    planner = replayed(spec, model)
    found = series(planner)
    same(found, series(planner_of(spec, model)), atol=1e-6)
    assert all(plan.stats["uncaptured"] == plan.stats["device_faults"] == 0 for plan in found)
    # The first plan of a series keeps nothing from before, later ones of iCEM do: one more first iteration, and the end once.
    assert planner.engine.runner.captures == (5 if kind == "icem" else 4)
    same(found, series(replayed(spec, model)))  # to the last bit
    same(found, series(planner))


def test_a_swapped_model_is_seen_without_another_capture():
    spec = robot()
    model = fitted(spec)
    planner = replayed(spec, model)
    before, captures = series(planner), planner.engine.runner.captures
    fitted(spec, seed=5, scale=3.0, model=model)
    after = series(planner)
    same(after, series(planner_of(spec, model)), atol=1e-6)
    assert np.abs(after[0].actions - before[0].actions).max() > 1e-3
    assert planner.engine.runner.captures == captures
    assert after[0].model_version == 2


def test_what_was_not_captured_still_runs_and_is_counted():
    spec = robot()
    model = fitted(spec)
    late = replayed(spec, model, captured=False)
    found = series(late, 2)
    same(found, series(planner_of(spec, model), 2), atol=1e-6)
    assert [plan.stats["uncaptured"] for plan in found] == [4, 4]

    class Source:
        name = "mbpo"

        def rows(self, request):
            return torch.zeros(2, 7, 2)

        def useful(self):
            return True

    early, plain = replayed(spec, model), planner_of(spec, model)
    early.sources = plain.sources = (Source(),)  # more rows than there were at the time of capture
    found = series(early, 2)
    same(found, series(plain, 2), atol=1e-6)
    assert found[0].stats["uncaptured"] == 4
    early.capture()
    assert series(early, 2)[1].stats["uncaptured"] == 0
    assert series(early, 1, iterations=5)[0].stats["uncaptured"] == 6  # and longer plans than the spec's


def test_rows_cut_from_what_is_carried_are_captured_too():
    planner = replayed(robot(options={"elites": 10, "keep": 0.5}), captured=False)
    planner.capture(carry_rows=4)
    first = planner.plan(request())
    assert first.carry.shape[0] == 6
    cut = dataclasses.replace(first, carry=first.carry[:4])
    assert planner.plan(request(1, 0.02), cut).stats["uncaptured"] == 0


def test_an_early_stop_replays_to_the_same_bits():
    spec = robot(iterations=5)
    model = fitted(spec)
    planner = replayed(spec, model)
    now = [0.0]

    def clock():
        now[0] += 0.001
        return now[0]

    planner.clock = clock
    found = planner.plan(request(), budget_s=0.0085)
    assert found.verdict is Verdict.EARLY_STOP
    assert 1 <= found.iterations < 5
    again = replayed(spec, model).plan(request(), iterations=found.iterations)
    np.testing.assert_array_equal(again.actions, found.actions)
    np.testing.assert_array_equal(again.carry, found.carry)
    assert again.cost == found.cost
    assert found.stats["uncaptured"] == 0


@pytest.mark.fault(row=13)
@pytest.mark.parametrize("fault", ["broken", "stalled"])
def test_when_the_device_fails_the_processor_plans_in_time(fault, record_property):
    spec = robot()
    model = fitted(spec)
    planner, plain = replayed(spec, model), planner_of(spec, model)
    good = planner.plan(request())
    same([good], [plain.plan(request())], atol=1e-6)
    setattr(planner.engine.runner, fault, True)
    replays = planner.engine.runner.replays
    begin = time.perf_counter()
    plan = planner.plan(request(1, 0.02), good, budget_s=0.02 if fault == "stalled" else None)
    taken = time.perf_counter() - begin
    assert taken < 0.5
    how = {"broken": "fails", "stalled": "never answers"}[fault]
    record_property("measured", f"a stand-in for the GPU {how}: the same request planned by the processor {1e3 * taken:.0f} ms after it "
                    "came (a real GPU: not measured)")
    reference = plain.plan(request(1, 0.02), good, iterations=plan.iterations)
    np.testing.assert_array_equal(plan.actions, reference.actions)  # the processor's own plan, to the last bit
    np.testing.assert_array_equal(plan.carry, reference.carry)
    assert plan.stats["device_faults"] == 1
    assert planner.fault == {"broken": "CUDA error: an illegal memory access was encountered",
                             "stalled": "cpu has not answered for 0.25 s"}[fault]
    begin = time.perf_counter()
    later = planner.plan(request(2, 0.04), plan)
    assert time.perf_counter() - begin < 0.2  # nothing is asked of the device any more
    assert later.verdict is Verdict.MET
    assert later.stats["device_faults"] == 1
    assert planner.engine is planner.direct
    assert planner.lost[0].runner.replays - replays in (0, 1)
    planner.capture()


@pytest.mark.fault(row=12)
def test_a_device_that_fails_at_capture_or_at_a_swap_is_given_up(record_property):
    spec = robot()

    class Full(graphs.Eager):
        def capture(self, body):
            raise torch.OutOfMemoryError("CUDA out of memory")

    planner = replayed(spec, runner=Full())
    assert planner.fault == "CUDA out of memory"
    begin = time.perf_counter()
    assert planner.plan(request()).stats["device_faults"] == 1
    taken = time.perf_counter() - begin
    assert taken < 0.5
    record_property("measured", f"a stand-in for the GPU without memory left: given up, planned by the processor in {1e3 * taken:.0f} ms "
                    "(a real GPU: not measured)")
    planner = replayed(spec)

    def follow(other):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    planner.engine.model.follow = follow
    fitted(spec, seed=2, model=planner.model)
    assert planner.plan(request()).verdict is Verdict.MET
    assert planner.fault == "CUDA error: unspecified launch failure"


def test_a_fault_of_the_processor_is_not_hidden():
    planner = planner_of(robot())
    planner.score = lambda rows, problem: torch.zeros(3) + torch.zeros(2)
    with pytest.raises(RuntimeError, match="size of tensor"):
        planner.plan(request())


def test_nothing_finite_on_the_device_is_a_fallback():
    spec = robot()
    planner = replayed(spec)
    good = planner.plan(request())
    bad = planner.plan(fakes.request([np.nan] * 4, seq=1, apply_time=0.02, axes=2), good)
    assert bad.verdict is Verdict.FALLBACK
    assert bad.stats["device_faults"] == 0
    np.testing.assert_array_equal(bad.actions, good.actions)
    assert planner.plan(request(2, 0.04), bad).verdict is Verdict.MET


def test_parcels_arrive_under_their_names():
    parcel = graphs.Parcel({"a": (2,), "none": (0, 3), "b": (), "c": (2, 2)}, torch.device("cpu"))
    parcel.host["a"].copy_(torch.tensor([1.0, 2.0]))
    parcel.host["b"].fill_(3.0)
    parcel.host["c"].fill_(4.0)
    assert parcel.device["c"].abs().max() == 0
    parcel.send()
    assert parcel.device["a"].tolist() == [1, 2]
    assert (parcel.device["b"].item(), parcel.device["c"].tolist(), parcel.device["none"].shape) == (3, [[4, 4], [4, 4]], (0, 3))


@pytest.mark.parametrize(("settings", "there", "reason"), [
    ({}, False, "torch sees no CUDA device here"),
    ({"kind": "gradient"}, True, "planner 'gradient' runs on the processor only"),
    ({"model": "linear"}, True, "model 'linear' runs on the processor only"),
])
def test_a_device_that_cannot_be_used_is_told_or_left_alone(settings, there, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    kind = settings.get("model", "ensemble")
    spec = robot(settings.get("kind", "icem"), risk="mean", device="cuda")
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"kind": kind, "options": {}})})
    model = base.parts.find("models", kind).build(spec)
    with pytest.raises(UserError, match=f"'cuda': {reason}; set it to 'cpu'"):
        base.build(spec, model, costs.build(spec), 0)
    for device in ("auto", "cpu"):
        planner = base.build(spec, model, costs.build(spec), 0, device)
        assert planner.engine is planner.direct
        assert not planner.lost
