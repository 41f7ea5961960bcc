"""The planner's side of a swap: what cannot be used is refused and kept aside, and the model in use goes on."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from fakes import spec_with

from mbrl_control import parts
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import sequences
from mbrl_control.errors import SnapshotError
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.store import ModelStore


@pytest.fixture(scope="module")
def good():
    """A robot and a snapshot of a small model of it."""
    spec = spec_with("pendulum", planner={"horizon": 5, "candidates": 24, "iterations": 2})
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"members": 2, "hidden": [8]})})
    rng = np.random.default_rng(0)
    model = parts.find("models", "ensemble").build(spec, parts.options("models", "ensemble", dict(spec.model.options)))
    time = np.arange(200) * spec.tick_s
    model.fit(sequences(Episode(time, rng.normal(size=(200, 2)), rng.normal(size=(200, 1))), spec), rng, epochs=1)
    return spec, model.snapshot()


def bad(snapshot, **arrays):
    return replace(snapshot, weights={**snapshot.weights, **{name.replace("__", "."): value for name, value in arrays.items()}})


BROKEN = {
    "another kind": (lambda s: replace(s, kind="linear"), "is of kind 'linear'"),
    "another robot": (lambda s: replace(s, spec_hash="beef"), "another robot"),
    "shape": (lambda s: bad(s, layer0__weight=np.zeros((2, 3, 8), np.float32)), "must have shape"),
    "missing": (lambda s: replace(s, weights={k: v for k, v in s.weights.items() if k != "elites"}), "array 'elites' must have shape"),
    "unknown": (lambda s: bad(s, layer9__weight=np.zeros(3, np.float32)), r"has no array \['layer9.weight'\]"),
    "members": (lambda s: bad(s, elites=np.array([0, 9])), r"elites \[0, 9\] are not among 2 members"),
    "negative": (lambda s: bad(s, elites=np.array([0, -1])), "are not among 2 members"),
    "precision": (lambda s: bad(s, layer0__weight=s.weights["layer0.weight"].astype(np.float64)), "must not be of type float64"),
    "bits": (lambda s: bad(s, elites=np.array([0, 1], np.uint8)), "must not be of type uint8; it must be int64"),
    "limits": (lambda s: replace(s, figures={"limits": {"low": [1]}}), "figure 'limits'"),
    "type": (lambda s: bad(s, elites=np.zeros(2, np.float32)), "must not be of type float32"),
}


@pytest.mark.fault(row=17)
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_is_refused_with_the_reason_and_the_model_in_use_goes_on(good, tmp_path, name):
    spec, snapshot = good
    store = ModelStore(tmp_path)
    store.publish(snapshot)
    core = PlannerCore(spec, store, seed=0)
    assert core.swap()
    request = PlanRequest(1, np.array([3.0, 0.0]), 0.0, 0.02, np.zeros(0), np.zeros((0, 1)))
    before = core.planner.plan(request)
    make, reason = BROKEN[name]
    store.publish(make(snapshot))
    assert not core.swap()
    assert core.model.version == 1
    assert store.versions() == [1]
    said = (tmp_path / "refused-v000002" / "reason.txt").read_text()
    assert re.search(reason, said), said
    assert np.array_equal(core.planner.plan(request).actions, before.actions)
    store.publish(snapshot)
    assert core.swap()
    assert core.model.version == 3


LINEAR = {
    "shape": (lambda w: w | {"matrix": np.zeros((2, 2), np.float32)}, r"'matrix' must have shape \(3, 2\)"),
    "missing": (lambda w: {k: v for k, v in w.items() if k != "std"}, "'std' must have shape"),
    "unknown": (lambda w: w | {"more": np.zeros(1)}, r"no array \['more'\]"),
    "type": (lambda w: w | {"offset": np.zeros(2, np.int64)}, "'offset' must not be of type int64; it must be float32"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_model_takes_its_own_arrays_only(name):
    model = parts.find("models", "linear").build(spec_with("pendulum"))
    model.version = 1
    change, reason = LINEAR[name]
    fine = model.snapshot()
    with pytest.raises(SnapshotError, match=reason):
        model.load(replace(fine, weights=change(fine.weights), version=2))
    assert model.version == 1
    model.load(replace(fine, version=2))
    assert model.version == 2
