"""No bad model stays: refused before it is used, found out when it is wrong, and given up for the one before."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace

import carts
import numpy as np
import pytest
import safetensors.numpy
from asking import Cart, spec_of

from mbrl_control.data.episodes import Episode
from mbrl_control.planning import limits
from mbrl_control.runtime.model_watch import SHADOW_LEAST_S, WRONG_RUN
from mbrl_control.runtime.planner_core import INVALID_RUN, WRONG_S, PlannerCore
from mbrl_control.store import ModelStore, snapshot
from mbrl_control.store.snapshot import MANIFEST, WEIGHTS
from mbrl_control.training.trainer import Trainer

SPEC = spec_of()
PERIOD = 1 / SPEC.plan_hz
SPAN = math.ceil(SPEC.model_dt / PERIOD)
"""Plans until a model step lies behind what has changed."""


def trained(folder, spec=SPEC, episode=None):
    """A snapshot as the trainer publishes it, from a minute of a cart."""
    store = ModelStore(folder)
    trainer = Trainer(spec, store, seed=0)
    trainer.set_data([episode or carts.cart(60.0, noise=1e-4)])
    return store.read(trainer.refit().version)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def other_cart(tmp_path_factory):
    """Of a cart that is pushed three times as hard."""
    return trained(tmp_path_factory.mktemp("other"), episode=carts.cart(60.0, noise=1e-4, gain=3.0))


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """Of commands that were another's."""
    data = carts.cart(60.0, noise=1e-4)
    mixed = Episode(data.time, data.state, np.random.default_rng(0).permutation(data.action))
    return trained(tmp_path_factory.mktemp("shuffled"), episode=mixed)


def with_weights(found, **arrays):
    return replace(found, weights={**found.weights, **arrays})


def harder(found, factor):
    """The same model of a cart that is pushed so much harder."""
    matrix = found.weights["matrix"].copy()
    matrix[2] *= factor
    return with_weights(found, matrix=matrix)


class World:
    """A planner's core with a store, and a cart that asks it."""

    def __init__(self, folder, spec=SPEC, **cart):
        self.store, self.cart = ModelStore(folder), Cart(**cart)
        self.core = PlannerCore(spec, self.store, seed=0)

    def give(self, *found):
        return [self.store.publish(some).version for some in found]

    def plans(self, count):
        return [self.core.plan(self.cart.request())[0] for _ in range(count)]

    def reason(self, version):
        self.core.settle()
        return self.store.refused()[version]

    @property
    def counts(self):
        return vars(self.core.swaps)


@pytest.fixture
def world(tmp_path, good):
    made = World(tmp_path / "store")
    made.give(good)
    assert made.core.swap()
    return made


def test_a_good_model_is_never_spoken_of(world):
    assert [plan.faults for plan in world.plans(300)] == 300 * [()]
    assert world.counts == {"accepted": 1, "refused": 0, "rolled_back": 0}


@pytest.mark.fault(row=18)
def test_one_trained_on_shuffled_commands_is_refused_by_what_has_just_happened(world, shuffled, record_property):
    world.plans(120)
    world.give(shuffled)
    assert not world.core.swap()
    assert world.core.model.version == 1
    found = re.search(r"6-step error was ([\d.e-]+) .* in use ([\d.e-]+)", world.reason(2))
    assert float(found[1]) > 2 * float(found[2])
    ratio = float(found[1]) / float(found[2])
    record_property("measured", f"trained on shuffled commands: error over the last 3 s {ratio:.0f} times that of the model in use, "
                                "refused before it is used")
    assert world.counts == {"accepted": 1, "refused": 1, "rolled_back": 0}
    assert (world.store.versions(), world.store.newest()) == ([1], 1)


def test_one_that_errs_a_little_more_is_accepted(world, good):
    world.plans(120)
    world.give(harder(good, 1.02))
    assert world.core.swap()
    assert world.core.model.version == 2


def test_with_too_little_behind_it_is_accepted_as_verified(world, shuffled):
    world.plans(round(SHADOW_LEAST_S / PERIOD) - 5)
    world.give(shuffled)
    assert world.core.swap()


def test_one_without_finite_predictions_is_refused(world, good):
    world.plans(120)
    world.give(with_weights(good, matrix=np.full_like(good.weights["matrix"], 1e30)))
    assert not world.core.swap()
    assert "step error was inf" in world.reason(2)


@pytest.mark.fault(row=15)
def test_a_model_of_another_cart_is_found_out_within_the_plans_that_the_documentation_says(tmp_path, other_cart, record_property):
    """There is nothing to go back to, so it stays, and every plan says that it is wrong."""
    world = World(tmp_path)
    world.give(other_cart)
    assert world.core.swap()
    plans = world.plans(120)
    first = next(k for k, plan in enumerate(plans) if "model_wrong" in plan.faults)
    assert WRONG_RUN <= first <= WRONG_RUN + SPAN
    assert world.core.model.version == 1
    assert world.store.versions() == [1]
    record_property("measured", f"model of another cart: model_wrong, which degrades, with plan {first + 1}")


def test_a_robot_that_changes_is_told_of_but_an_older_model_is_no_better(world, good):
    world.give(harder(good, 1.01))
    assert world.core.swap()
    world.plans(100)
    world.cart.gain = 3.0
    plans = world.plans(60)
    assert any("model_wrong" in plan.faults for plan in plans)
    assert world.core.model.version == 2
    assert world.counts == {"accepted": 2, "refused": 0, "rolled_back": 0}


@pytest.mark.fault(row=18)
@pytest.mark.parametrize("remembered", [True, False], ids=["same worker", "worker restarted"])
def test_one_that_is_wrong_where_the_robot_goes_is_rolled_back_and_never_comes_back(tmp_path, good, remembered, record_property):
    """While nothing is pushed, a model of a cart pushed three times as hard is as good as any."""
    pushing = [False]
    world = World(tmp_path, push=lambda t: 0.8 * pushing[0])
    world.give(good)
    assert world.core.swap()
    assert [plan.faults for plan in world.plans(120)] == 120 * [()]
    world.give(harder(good, 3.0))
    assert world.core.swap()
    assert world.core.model.version == 2
    if not remembered:
        world.core = PlannerCore(SPEC, world.store, seed=0)
        assert world.core.swap()
    assert not any("model_wrong" in plan.faults for plan in world.plans(50))
    pushing[0] = True
    plans = world.plans(200)
    first = next(k for k, plan in enumerate(plans) if "model_wrong" in plan.faults)
    assert WRONG_RUN <= first <= WRONG_RUN + SPAN
    # the plan that says so is already made with the one before
    assert [plan.model_version for plan in plans] == first * [2] + (200 - first) * [1]
    told = round(WRONG_S / PERIOD)
    assert ["model_wrong" in plan.faults for plan in plans] == first * [False] + told * [True] + (200 - first - told) * [False]
    assert world.reason(2).startswith("rolled back to version 1")
    assert not world.core.swap()
    assert world.counts == {"accepted": 2 if remembered else 1, "refused": 0, "rolled_back": 1}
    assert world.store.versions() == [1]
    world.give(good)
    assert world.core.swap()
    assert world.core.model.version == 3
    record_property("measured", f"wrong only where the robot goes later: rolled back with plan {first + 1} from there on, refused "
                                "for good")


@pytest.mark.parametrize("refused", [False, True], ids=["at once", "another refused in between"])
def test_what_was_in_use_is_gone_back_to_without_the_store(tmp_path, good, shuffled, refused):
    """It was read and looked at when it was taken into use; a plan must not wait for that again."""
    pushing = [False]
    world = World(tmp_path, push=lambda t: 0.8 * pushing[0])
    for some in (good, harder(good, 1.01), harder(good, 3.0)):
        world.give(some)
        assert world.core.swap()
    if refused:
        # Not of another gain: while nothing is pushed nothing speaks against that.
        world.give(replace(shuffled, spec_hash="beef"))
        assert not world.core.swap()
    world.plans(50)
    pushing[0] = True
    for version in (1, 2):
        world.store.path(version).rename(tmp_path / f"elsewhere{version}")
    assert [plan.model_version for plan in world.plans(100)][-1] == 2
    assert 3 not in world.store.refused(), "a plan waited for the disk"
    assert world.reason(3).startswith("rolled back to version 2")


def test_it_never_comes_back_even_where_its_folder_cannot_be_moved(world, shuffled, monkeypatch):
    world.plans(120)
    world.give(shuffled)
    monkeypatch.setattr("pathlib.Path.rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "read-only")))
    assert not world.core.swap()
    assert world.store.versions() == [1, 2]
    for _ in range(3):
        assert not world.core.swap()
    assert world.counts["refused"] == 1
    assert world.core.model.version == 1


@pytest.mark.fault(row=14)
def test_three_plans_without_a_finite_cost_bring_the_model_before_back(world, good, record_property):
    world.give(with_weights(good, matrix=np.full_like(good.weights["matrix"], 1e30)))
    assert world.core.swap()  # with nothing behind it there is nothing to try it on
    plans = world.plans(INVALID_RUN + 2)
    assert [plan.model_version for plan in plans] == INVALID_RUN * [2] + 2 * [1]
    assert [plan.faults for plan in plans] == [*(INVALID_RUN - 1) * [("plan_invalid",)], ("plan_invalid", "model_wrong"),
                                               *2 * [("model_wrong",)]]
    assert "rolled back to version 1" in world.reason(2)
    assert np.isfinite(plans[-1].cost)
    record_property("measured", f"plan_invalid with every such plan, rolled back with the {INVALID_RUN}rd, finite again with the "
                                "one after it")


def test_costs_that_are_never_finite_are_no_fault_of_the_model(world, good, monkeypatch):
    world.give(good)
    assert world.core.swap()
    monkeypatch.setattr(world.core.planner.cost, "terminal", lambda state: state[..., 0] * math.nan)
    plans = world.plans(10)
    assert all("plan_invalid" in plan.faults for plan in plans)
    assert world.core.model.version == 2
    assert world.counts["rolled_back"] == 0


@pytest.mark.fault(row=15)
def test_plans_that_leave_the_data_are_doubtful(world, record_property):
    box = world.core.limits
    assert np.isfinite(box.low).all()
    world.plans(5)
    world.cart.state = np.array([box.high[0] + 0.5, 0.0])
    assert world.plans(1)[0].faults == ("model_doubtful",)
    world.cart.state = np.array([box.high[0] - 0.5, 0.0])
    assert world.plans(1)[0].faults == ()
    record_property("measured", "half a metre outside of the data's box: model_doubtful, which degrades, with the first plan")


@pytest.mark.fault(row=15)
def test_members_that_disagree_are_doubtful(tmp_path, record_property):
    spec = spec_of("{kind: ensemble, members: 3, hidden: [8]}", updates=50)
    found = trained(tmp_path / "one", spec)
    last = found.weights["layer1.weight"]
    apart = with_weights(found, **{"layer1.weight": last + np.random.default_rng(0).normal(0, 10, last.shape).astype(np.float32)})
    for some, faults in ((found, ()), (apart, ("model_doubtful",))):
        world = World(tmp_path / f"store{len(faults)}", spec)
        world.give(some)
        assert world.core.swap()
        assert [plan.faults for plan in world.plans(10)] == 10 * [faults]
    record_property("measured", "members that disagree: model_doubtful with the first plan")


def test_snapshots_of_before_there_were_limits_are_used_without(world, good):
    world.give(replace(harder(good, 3.0), figures={"score": 0.1}))
    assert world.core.swap()
    assert world.core.limits is None
    assert [plan.faults for plan in world.plans(100)] == 100 * [()]


def test_the_gates_change_no_plan(tmp_path, good):
    watched, bare = World(tmp_path / "a"), World(tmp_path / "b")
    watched.give(good)
    bare.give(replace(good, figures={}))
    assert watched.core.swap()
    assert bare.core.swap()
    for one, two in zip(watched.plans(50), bare.plans(50), strict=True):
        assert np.array_equal(one.actions, two.actions)
        assert np.array_equal(one.carry, two.carry)


def test_a_known_model_takes_no_snapshots(tmp_path, good):
    spec = spec_of()
    world = World(tmp_path, spec)
    world.core.model = world.core._spare = object.__new__(type("Known", (), {"version": 1, "members": 1}))
    world.core._learned = False
    world.give(good, good)
    assert not world.core.swap()
    assert "takes no snapshots" in world.reason(2)


def vouched(folder, weights):
    """Put weights in that could not be published, with a manifest that vouches for them."""
    data = safetensors.numpy.save(weights)
    (folder / WEIGHTS).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
                 "arrays": {n: {"shape": list(w.shape), "dtype": w.dtype.name} for n, w in weights.items()}}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.fault(row=18)
def test_of_a_thousand_swaps_no_bad_one_is_accepted_and_no_good_one_refused(world, good, shuffled, other_cart, monkeypatch,
                                                                            record_property):
    monkeypatch.setattr(snapshot, "_sync", lambda path: None)  # what is tested is not the disk
    world.store.keep = 3
    rng = np.random.default_rng(1)
    world.plans(200)
    gain = good.weights["matrix"]
    bad = (
        lambda: shuffled, lambda: other_cart, lambda: harder(good, -1.0), lambda: replace(good, spec_hash="beef"),
        lambda: replace(good, kind="ensemble"), lambda: with_weights(good, matrix=gain[:2]), lambda: with_weights(good, more=gain),
        lambda: with_weights(good, matrix=gain.astype(np.float64)), lambda: with_weights(good, matrix=1e30 * np.ones_like(gain)),
        lambda: replace(good, figures={limits.FIGURE: {"low": "x"}}), lambda: "nan", lambda: "bit",
    )
    accepted = {True: 0, False: 0}
    before = world.core.swaps.accepted
    for _ in range(1000):
        fine = bool(rng.random() < 0.5)
        made = harder(good, rng.uniform(0.98, 1.02)) if fine else bad[rng.integers(len(bad))]()
        version = world.store.publish(good if isinstance(made, str) else made).version
        if made == "nan":
            vouched(world.store.path(version), {**good.weights, "matrix": np.full_like(gain, np.nan)})
        elif made == "bit":
            path = world.store.path(version) / WEIGHTS
            data = bytearray(path.read_bytes())
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
        swapped = world.core.swap()
        assert swapped == fine, world.store.refused().get(version)
        accepted[fine] += swapped
        assert world.plans(1)[0].faults == ()
    assert accepted[False] == 0
    assert world.core.swaps.accepted - before == accepted[True] > 400
    assert world.core.swaps.refused == 1000 - accepted[True]
    assert world.core.swaps.rolled_back == 0
    record_property("measured", f"1000 swaps: 0 of {1000 - accepted[True]} bad snapshots of twelve kinds accepted, {accepted[True]} of "
                                f"{accepted[True]} good ones")


def test_a_robot_with_recalibrated_intervals_finds_a_model_out_that_is_wrong_by_little(tmp_path):
    """Pushed harder by 4 per cent: no great part of a typical change, and far more than the model and its own variances allow for."""
    data = SPEC.model_dump(exclude_unset=True)
    names = SPEC.state_names
    section = {"steps": [1], "width_68": {n: [1.0] for n in names}, "width_95": {n: [2.0] for n in names}}
    told = type(SPEC).model_validate({**data, "intervals": section})
    codes = {}
    for name, spec in (("plain", SPEC), ("told", told)):
        found = trained(tmp_path / f"{name}_trained", spec)
        world = World(tmp_path / name, spec)
        world.give(found)
        world.core.swap()
        calm = [p.faults for p in world.plans(2 * SPAN + WRONG_RUN)]
        assert not any("model_wrong" in faults for faults in calm), name
        world.cart.gain, world.cart.push = 1.04, lambda _time: 1.0
        codes[name] = any("model_wrong" in p.faults for p in world.plans(2 * SPAN + WRONG_RUN + 5))
    assert codes == {"plain": False, "told": True}
