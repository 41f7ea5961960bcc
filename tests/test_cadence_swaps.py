"""Model swaps of the cadence benchmark: snapshots that are bad on purpose are refused for what is bad about them, and counted."""

from __future__ import annotations

import carts
import numpy as np
import pytest
import torch

from mbrl_control import parts, robot
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError
from mbrl_control.planning.limits import predicted
from mbrl_control.planning.plan import Verdict
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.stack import cadence_bench, cadence_swaps
from mbrl_control.stack.cadence_bench import Settings
from mbrl_control.stack.cadence_swaps import DAMAGES, Offered
from mbrl_control.stack.cadence_tick import PlanNote
from mbrl_control.store import ModelStore

SMALL = carts.CART + """
name: small
plan_hz: 25
model: {members: 2, hidden: [8]}
planner: {horizon: 6, candidates: 24, iterations: 2}
"""
DRAWS = np.random.default_rng(0)
ROWS = Sequences(DRAWS.normal(size=(60, 2, 2)), DRAWS.uniform(-1, 1, size=(60, 1, 1)), 0.06 * np.arange(60))


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def fitted(spec, rows):
    model = parts.find("models", "ensemble").build(spec)
    model.fit(rows, np.random.default_rng(0), epochs=1)
    return model


def test_swaps_last_until_a_plan_with_the_new_model_and_misses_meanwhile_are_theirs():
    plans = [PlanNote(at, Verdict.MET, 0.01, version, "nominal") for at, version in
             ((9.0, 1), (10.0, 1), (10.3, 2), (15.5, 4), (16.0, 4))]
    published = [(5.0, 1), (10.1, 2), (15.0, 3), (15.2, 4), (20.0, 5)]
    found = cadence_swaps.swap_part(Offered(published), plans, [(9.5, 1), (10.2, 2), (10.4, 4), (15.3, 8), (21.0, 16)])
    assert found["published"] == 4
    assert found["accepted"] == 2  # 2 and 4; 3 was overtaken, 5 never used
    assert found["missed_ticks_during"] == 2 + 8 + 16  # the last swap is not over
    assert found["swap_s"]["p50"] == pytest.approx(0.3)  # of 0.2, 0.5 and 0.3


def damage(name):
    return next(d for d in DAMAGES if d.name == name)


def test_bad_snapshots_are_counted_with_what_became_of_them_and_rollbacks_in_plan_periods():
    plans = [PlanNote(0.1 * k, Verdict.MET, latency, version, "nominal") for k, (version, latency) in
             enumerate([(1, 0.01), (3, 0.01), (5, 0.01), (3, 0.03), (6, 0.01), (7, 0.01), (6, 0.005)])]
    good, bad = [(0.0, 1), (0.05, 3), (0.35, 6)], [(2, damage("hash")), (4, damage("shape")), (5, damage("worse")), (7, damage("shape"))]
    refused = {2: "its SHA-256 …", 4: "must have shape", 5: "rolled back to version 3, which was better: …", 9: "over the last 3 s …"}
    found = cadence_swaps.swap_part(Offered(good, bad), plans, [], refused, plan_hz=50.0)
    assert (found["published"], found["accepted"]) == (2, 2)
    assert (found["offered_bad"], found["refused_bad"], found["accepted_bad"]) == (3, 2, 1)  # 7 was used
    assert (found["offered_worse"], found["rolled_back"], found["refused"]) == (1, 1, 3)
    assert found["rollback_periods"]["max"] == pytest.approx(0.03 * 50)  # from 5 to 3; from 7 to 6 in a quarter of a period
    assert found["rollback_periods"]["p50"] == pytest.approx((1.5 + 0.25) / 2)


@pytest.mark.fault(row=17)
@pytest.mark.parametrize("how", [d.name for d in DAMAGES if d.known])
def test_a_snapshot_that_is_bad_on_purpose_is_refused_for_what_is_bad_about_it(tmp_path, small, how):
    spec = robot.load(small)
    model = fitted(spec, ROWS)
    store = ModelStore(tmp_path / "store")
    store.publish(model.snapshot())
    core = PlannerCore(spec, store, seed=0)
    assert core.swap()
    version = cadence_swaps.offer(store, model.snapshot(), damage(how))
    assert version == 2
    assert not core.swap()
    reasons = {"not finite": "not finite", "shape": "must have shape", "truncated": "bytes where the manifest says",
               "hash": "SHA-256 is not the manifest's", "another robot": "fitted for another robot"}
    assert reasons[how] in store.refused()[2]
    assert sorted(p.name for p in store.folder.iterdir()) == ["refused-v000002", "v000001"]


def test_a_worse_snapshot_is_one_that_can_be_used_and_is_off_by_a_little(tmp_path, small):
    spec = robot.load(small)
    model = fitted(spec, ROWS)
    store = ModelStore(tmp_path / "store")
    cadence_swaps.offer(store, model.snapshot(), damage("worse"))
    worse = parts.find("models", "ensemble").build(spec)
    worse.load(store.read(1, spec.hash))
    start, actions = (torch.as_tensor(a, dtype=torch.float32) for a in (ROWS.state[:, 0], ROWS.action))
    off = (predicted(worse, start, actions) - predicted(model, start, actions))[:, :, -1].mean((0, 1)).numpy()
    assert off[1] == pytest.approx(cadence_swaps.WORSE * float(model.scale()[1]), rel=0.01)


def test_every_so_many_offers_are_bad_and_never_the_first(tmp_path, small, monkeypatch):
    spec = cadence_bench.robot_at(str(small), 50.0, tmp_path / "part" / "robot.yaml")
    made = cadence_bench.Part(Settings(str(small), tmp_path, 1.0, (50.0,), bad_every=3), 50.0, False, tmp_path / "part")
    ModelStore(tmp_path / "part" / "fits").publish(fitted(spec, ROWS).snapshot())
    sound = []
    for version in range(1, 11):
        made.publish()
        try:
            PlannerCore(spec, ModelStore(tmp_path / "part" / "store"), 0).load(version)
            sound.append(version)
        except SnapshotError:
            continue
    made.box.unlink()
    assert made.offers == 10
    assert sound == [1, 2, 3, 5, 6, 8, 9]
