"""Proposal sources that are of no use are asked now and then only, and a plan says so itself."""

from __future__ import annotations

import planning_fakes as fakes
import torch

from mbrl_control.planning import idling

START = [1.0, 0.0]


class Source:
    """Proposes to push, well or badly, and counts how often it was asked."""

    def __init__(self, name="mbpo", push=0.0, helps=False):
        self.name, self.push, self.helps = name, push, helps
        self.asked, self.passed = [], 0

    def rows(self, request):
        self.asked.append(request.seq)
        return torch.full((1, 10, 1), self.push)

    def pass_over(self):
        self.passed += 1

    def useful(self):
        return self.helps


def plans(planner, count, previous=None, first=0):
    for seq in range(first, first + count):
        previous = planner.plan(fakes.request(START, seq=seq), previous)
        yield previous


def test_a_source_in_vain_idles_and_is_asked_in_each_sixteenth_plan():
    planner = fakes.planner(fakes.spec(horizon=10, candidates=16))
    bad, other = Source("mbpo", 4.0), Source("dreamer", 4.0)  # towards where it is already
    planner.sources = (bad, other)
    made = list(plans(planner, 100))
    assert bad.asked == [*range(25), *range(32, 100, 16)]
    assert other.asked == [*range(25), *range(31, 100, 16)], "not in the same plans"
    assert bad.passed == 100 - len(bad.asked)
    assert [plan.idle for plan in made[:3]] == [(1, 1), (2, 2), (3, 3)]
    assert made[-1].idle == (len(bad.asked), len(other.asked))


def test_one_that_wins_or_helps_is_asked_always():
    planner = fakes.planner(fakes.spec(horizon=10, candidates=2, iterations=1))
    optimum, _ = fakes.riccati(planner.model, planner.cost, START, 10)

    class Good(Source):
        def rows(self, request):
            super().rows(request)
            return torch.as_tensor(optimum)[None]

    good, helping = Good("dreamer"), Source("mbpo", 4.0, helps=True)
    planner.sources = (good, helping)
    made = list(plans(planner, 60))
    assert len(helping.asked) == 60
    assert all(plan.idle[1] == 0 for plan in made)
    assert sum(plan.winner == "dreamer" for plan in made) > 0
    assert all(plan.idle[0] == 0 for plan in made if plan.winner == "dreamer")


def test_one_that_is_of_use_again_is_asked_always_again():
    idle: tuple[int, ...] = (idling.AFTER,)
    assert [seq for seq in range(40) if idling.asked(idle, 0, seq)] == [0, 16, 32]
    assert idling.after(idle, 5, [False]) == idle, "one that was not asked was not asked in vain"
    assert idling.after(idle, 16, [False]) == (idling.AFTER + 1,)
    assert idling.after((idling.MOST,), 16, [False]) == (idling.MOST,)
    woken = idling.after(idle, 16, [True])
    assert woken == (0,)
    assert all(idling.asked(woken, 0, seq) for seq in range(17, 33))
    assert idling.after((), 0, [False, True]) == (1, 0)
    assert idling.after((4, 5, 6), 0, [False]) == (5,)


def test_an_idle_source_changes_no_bit_of_a_plan():
    one, other = (fakes.planner(fakes.spec(horizon=10, candidates=16), seed=3) for _ in range(2))
    one.sources = (Source("mbpo", 4.0),)
    *_, last = plans(one, 30)
    (with_it,), (without,) = plans(one, 1, last, 33), plans(other, 1, last, 33)
    assert with_it.actions.tobytes() == without.actions.tobytes()
    assert with_it.cost == without.cost
