"""Planning on a GPU: what the tapes of `test_planning_graphs` stand for, with real graphs."""

import time

import numpy as np
import pytest
import torch
from test_planning_devices import KINDS, SWING_UP, TIP_HEIGHT, fitted, planner_of, request, robot
from test_planning_graphs import same, series

from mbrl_control.costs import base as costs
from mbrl_control.planning import base, graphs
from mbrl_control.planning.plan import Verdict

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(spec, model=None, eager=False):
    planner = planner_of(spec, model)
    planner.engine = graphs.Replays(planner, graphs.Eager("cuda") if eager else graphs.CudaGraphs())
    planner.capture()
    assert not planner.fault
    return planner


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"knots": 3, "propagation": "mean"}, {"cost": SWING_UP}, {"cost": TIP_HEIGHT}])
def test_replays_are_what_runs_eagerly_and_repeat_to_the_last_bit(kind, settings):
    spec = robot(kind, **settings)
    model = fitted(spec)
    planner = on_gpu(spec, model)
    found = series(planner)
    same(found, series(on_gpu(spec, model, eager=True)), atol=1e-4)
    same(found, series(planner))
    assert all(plan.stats["uncaptured"] == plan.stats["device_faults"] == 0 for plan in found)


def test_costs_on_the_device_are_those_of_the_processor():
    spec = robot("random_shooting", iterations=1)
    model = fitted(spec)
    one, two = on_gpu(spec, model).plan(request()), planner_of(spec, model).plan(request())
    assert one.stats["best_cost"] == pytest.approx(two.stats["best_cost"], rel=1e-4)
    np.testing.assert_allclose(one.actions, two.actions, atol=1e-4)


def test_bfloat16_layers_are_captured_too():
    spec = robot()
    model = fitted(spec)
    model.prepare(torch.bfloat16)
    plan = on_gpu(spec, model).plan(request())
    assert plan.verdict is Verdict.MET
    assert plan.stats["uncaptured"] == plan.stats["device_faults"] == 0


def test_a_swapped_model_is_seen_without_another_capture():
    spec = robot()
    model = fitted(spec)
    planner = on_gpu(spec, model)
    before, captured = series(planner), dict(planner.engine._captured)
    fitted(spec, seed=5, scale=3.0, model=model)
    after = series(planner)
    assert planner.engine._captured == captured
    same(after, series(on_gpu(spec, model)))
    assert np.abs(after[0].actions - before[0].actions).max() > 1e-3


def test_an_early_stop_replays_to_the_same_bits():
    spec = robot(iterations=5)
    model = fitted(spec)
    planner = on_gpu(spec, model)
    planner.engine.slowest = 1.0
    found = planner.plan(request(), budget_s=0.5)
    assert (found.verdict, found.iterations) == (Verdict.EARLY_STOP, 1)
    again = on_gpu(spec, model).plan(request(), iterations=1)
    np.testing.assert_array_equal(again.actions, found.actions)
    np.testing.assert_array_equal(again.carry, found.carry)


@pytest.mark.parametrize("kind", KINDS)
def test_no_iteration_waits_for_the_device(kind):
    spec = robot(kind)
    planner = on_gpu(spec, eager=True)
    engine = planner.engine
    with planner.guard():
        engine.begin(*planner.prepare(request(), None), 3)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for i in range(3):
                engine.iterate(i, i == 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert np.isfinite(engine.finish().record.best.numpy()).all()


def test_particles_that_change_members_run_eagerly():
    spec = robot(propagation="ts1", device="cuda")
    planner = base.build(spec, fitted(spec), costs.build(spec), 0)
    planner.capture()
    assert isinstance(planner.engine.runner, graphs.Eager)
    assert planner.plan(request()).verdict is Verdict.MET


def test_when_a_replay_fails_the_processor_plans_in_time():
    spec = robot(device="cuda")
    model = fitted(spec)
    planner, plain = base.build(spec, model, costs.build(spec), 0), planner_of(spec, model)
    planner.capture()
    assert isinstance(planner.engine, graphs.Replays)
    good = planner.plan(request())

    def broken():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    planner.engine._captured = dict.fromkeys(planner.engine._captured, broken)
    begin = time.perf_counter()
    plan = planner.plan(request(1, 0.02), good)
    assert time.perf_counter() - begin < 0.5
    np.testing.assert_array_equal(plan.actions, plain.plan(request(1, 0.02), good).actions)
    assert plan.stats["device_faults"] == 1
    assert planner.engine is planner.direct
