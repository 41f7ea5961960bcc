"""The native refit to elites is the one in torch, whatever the costs are."""

from __future__ import annotations

import math

import numpy as np
import planning_fakes as fakes
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbrl_control.planning import elites

needs_native = pytest.mark.skipif(elites.kernel() is None, reason="no compiler, or native code is switched off")


def planner_of(kind="icem", native=True, **options):
    planner = fakes.planner(fakes.spec(kind=kind, candidates=40, horizon=6, iterations=3, options=options))
    if not native:
        planner.native = None
    return planner


def refitted(planner, rows, costs):
    search = planner.prepare(fakes.request(np.array([1.0, 0.0])), None)[1]
    search.std = torch.linspace(0.1, 0.6, 6)[:, None]
    search.mean = torch.linspace(-0.3, 0.3, 6)[:, None]
    planner.refit(search, rows, costs, costs.min())
    return search


@needs_native
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0, 1), st.booleans())
def test_the_refit_is_the_definition(seed, count, dead, ties):
    """Random candidates, some or all of which cost infinitely much, some as much as others."""
    rng = np.random.default_rng(seed)
    rows = torch.tensor(rng.uniform(-1, 1, (count, 6, 1)), dtype=torch.float32)
    costs = torch.tensor(np.where(rng.uniform(size=count) < dead, np.inf, rng.integers(0, 5, count) if ties else rng.normal(size=count)),
                         dtype=torch.float32)
    found = refitted(planner_of(elites=9, momentum=0.2, min_std=0.15), rows, costs)
    order = sorted(range(count), key=lambda n: (costs[n], n))[:9]
    alive = [n for n in order if costs[n] < math.inf]
    mean, std = np.linspace(-0.3, 0.3, 6)[:, None], np.linspace(0.1, 0.6, 6)[:, None]
    if alive:
        chosen = rows[alive].double().numpy()
        mean = 0.8 * chosen.mean(0) + 0.2 * mean
        std = np.maximum(0.8 * chosen.std(0) + 0.2 * std, 0.15)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.std, std, atol=1e-6)
    assert torch.equal(found.kept, rows[order[: min(2, count)]])
    assert found.figures["ess"] == len(alive)


@needs_native
@pytest.mark.parametrize("kind", ["cem", "icem"])
def test_it_is_the_one_in_torch(kind):
    rng = torch.Generator().manual_seed(0)
    rows, costs = torch.rand(40, 6, 1, generator=rng) * 2 - 1, torch.rand(40, generator=rng)
    ours, theirs = (refitted(planner_of(kind, native), rows, costs) for native in (True, False))
    for name in ("mean", "std", "kept"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    assert ours.figures["ess"] == pytest.approx(float(theirs.figures["ess"]), rel=1e-5)


@needs_native
def test_plans_with_and_without_it_cost_the_same():
    plans = [planner_of(native=native).plan(fakes.request(np.array([1.0, 0.0]))) for native in (True, False)]
    assert plans[0].cost == pytest.approx(plans[1].cost, rel=1e-4)
    np.testing.assert_allclose(plans[0].actions, plans[1].actions, atol=1e-4)
