"""Planners on another device. Here tensors without data stand for it: mixing devices and reading back both fail on them."""

import numpy as np
import planning_fakes as fakes
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mbrl_control import parts
from mbrl_control.costs import base as costs
from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import sequences
from mbrl_control.errors import UserError
from mbrl_control.planning.placing import placed
from mbrl_control.planning.search import Problem, Search
from mbrl_control.robot import RobotSpec

META = torch.device("meta")
KINDS = ("random_shooting", "predictive_sampling", "cem", "icem", "mppi")


def robot(kind="icem", cost=None, **planner):
    """Two axes of unequal delay and limited rate, one of them an angle; every term of the score is in use."""
    state = [{"name": "q1", "unit": "rad", "wraps": True}, {"name": "q2", "unit": "m", "range": [-2, 2]},
             {"name": "v1", "unit": "rad/s", "rate_of": "q1"}, {"name": "v2", "unit": "m/s", "rate_of": "q2"}]
    command = [{"name": "u1", "unit": "N", "limits": [-2, 6], "delay_s": 0.05}, {"name": "u2", "unit": "N", "limits": [-1, 1],
               "max_rate": 5.0, "delay_s": 0.13}]
    cost = cost or {"kind": "quadratic", "options": {"weight": {"q1": 1.0, "q2": 2.0, "v2": 0.1}, "saturation": {"v2": 1.0},
                                                     "target": {"q2": 0.5}, "effort": {"u1": 0.1}, "terminal": 2.0}}
    settings = {"kind": kind, "candidates": 24, "iterations": 3, "horizon": 7, "risk": "cvar", "disagreement": 0.1, "smoothness": 0.1}
    return RobotSpec.model_validate({"name": "two", "rate_hz": 50, "plan_hz": 25, "model_dt": 0.05, "state": state, "command": command,
                                     "cost": cost, "model": {"kind": "ensemble", "members": 3, "hidden": [8, 8],
                                                             "options": {"friction": 0.5, "linear": True}},
                                     "planner": settings | planner})


def fitted(spec, seed=0, scale=1.0, model=None):
    """An ensemble fitted to numbers without meaning, or fitted further."""
    rng = np.random.default_rng(seed)
    model = model or parts.find("models", "ensemble").build(spec, parts.options("models", "ensemble", dict(spec.model.options)))
    time = np.arange(150) * spec.tick_s
    episode = Episode(time, scale * rng.normal(size=(150, 4)).cumsum(0) * 0.1, rng.normal(size=(150, 2)))
    model.fit(sequences(episode, spec), rng, epochs=1)
    return model


def planner_of(spec, model=None, seed=0):
    """With the same operations wherever they run: the native refit rounds otherwise (see test_elites.py)."""
    planner = fakes.planner(spec, model or fitted(spec), costs.build(spec), seed)
    planner.native = None
    return planner


def request(seq=0, time=0.0, sent=()):
    rng = np.random.default_rng(seq)
    return fakes.request(rng.normal(size=4), seq=seq, apply_time=time, state_time=time - 0.02,
                         sent_time=time - 0.02 * np.arange(len(sent), 0, -1), sent=sent, axes=2)


def on_meta(problem, search):
    moved = placed(problem, META)
    return (Problem(**(vars(moved) | {"part": torch.empty((), device="meta"), "sets": torch.empty(3, device="meta")})),
            Search(*(t.to(META) for t in (search.mean, search.std, search.kept))))


SWING_UP = {"kind": "swing_up", "options": {"position": "q2", "angle": "q1", "rate": "v1", "rail": 1.0}}
TIP_HEIGHT = {"kind": "tip_height", "options": {"angles": ["q1", "q2"], "rates": ["v1", "v2"]}}
SETTINGS = [{}, {"knots": 3, "propagation": "mean"}, {"cost": SWING_UP}, {"cost": TIP_HEIGHT, "dtype": "bfloat16"}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_an_iteration_stays_on_its_device_and_never_reads_back(kind, settings):
    spec = robot(kind, **settings)
    planner = planner_of(spec)
    planner.model.prepare(torch.bfloat16 if "dtype" in settings else torch.float32)
    twin = planner.on(META, planner.model.on(META))
    twin.model.follow(planner.model)
    with planner.guard():
        problem, search = on_meta(*planner.prepare(request(), planner.plan(request())))
    with planner.guard(), FakeTensorMode(allow_non_fake_inputs=True):
        twin.reserve(problem, search, 3)
        for i in range(3):
            twin.iterate(search, problem, i, i == 2)
        twin.close(search, problem)
        assert {t.device.type for t in (search.mean, search.std, search.kept, twin.record.flat)} == {"meta"}
    assert planner.bank.device.type == planner.space.mid.device.type == "cpu"


def test_a_models_twin_predicts_the_same_and_follows_in_place():
    spec = robot()
    model = fitted(spec)
    twin = model.on(torch.device("cpu"))
    with pytest.raises(UserError, match="has not been fitted"):
        twin.step(torch.zeros(3, 1, 4), torch.zeros(1, 2))
    twin.follow(model)
    state, action = torch.randn(3, 6, 4), torch.randn(6, 2)
    assert torch.equal(twin.step(state, action).state, model.step(state, action).state)
    places = [t.data_ptr() for t in (twin._folded.first[0], twin._folded.last, twin._folded.base[1])]
    before = twin.step(state, action).state
    fitted(spec, seed=1, scale=3.0, model=model)
    assert torch.equal(twin.step(state, action).state, before)  # its own weights, until it is told
    twin.follow(model)
    assert torch.equal(twin.step(state, action).state, model.step(state, action).state)
    assert not torch.equal(twin.step(state, action).state, before)
    assert [t.data_ptr() for t in (twin._folded.first[0], twin._folded.last, twin._folded.base[1])] == places
    assert twin.version == model.version == 2


def test_placing_moves_tensors_and_shares_the_rest():
    class Part:
        def __init__(self):
            self.one, self.several, self.named, self.words = torch.ones(2), [torch.ones(3), torch.ones(4)], {"a": torch.ones(1)}, ["x"]

    part = Part()
    twin = placed(part, META)
    assert (twin.one.device, twin.several[1].device, twin.named["a"].device) == (META, META, META)
    assert twin.words is part.words
    assert part.several[0].device.type == "cpu"
    assert placed(None, META) is None
