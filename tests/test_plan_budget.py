"""A plan ends when its time is up, with the best that it has found until then."""

import itertools

import numpy as np
import planning_fakes as fakes

from mbrl_control.planning.plan import Verdict

START = [1.0, -0.5]


class Clock:
    """Seconds that pass by a fixed amount whenever somebody looks."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def test_a_budget_ends_the_search_with_the_best_so_far():
    robot = fakes.spec(horizon=10, kind="icem", candidates=40, iterations=6)
    planner = fakes.planner(robot)
    planner.clock = Clock(0.001)  # an iteration looks three times at most, so it takes 1 to 2 ms
    plan = planner.plan(fakes.request(START), budget_s=0.0065)
    assert plan.verdict is Verdict.EARLY_STOP
    assert 1 <= plan.iterations < 6
    replay = fakes.planner(robot).plan(fakes.request(START), iterations=plan.iterations)
    assert replay.verdict is Verdict.MET
    np.testing.assert_array_equal(replay.carry, plan.carry)
    assert replay.cost == plan.cost
    assert planner.plan(fakes.request(START), budget_s=0.0).iterations == 1
    assert planner.plan(fakes.request(START), budget_s=10.0).verdict is Verdict.MET


def test_one_slow_iteration_makes_later_plans_careful():
    planner = fakes.planner(fakes.spec(horizon=10, kind="cem", candidates=16, iterations=3))
    planner.clock = clock = Clock(0.0)
    iterate, waits = planner.iterate, itertools.chain([0.010, 0.030, 0.010], itertools.repeat(0.010))

    def slow(*args):
        clock.now += next(waits)
        iterate(*args)

    planner.iterate = slow
    assert planner.plan(fakes.request(START), budget_s=0.075).iterations == 3  # 10 + 30, and the last may take 30 again
    assert planner.plan(fakes.request(START), budget_s=0.055).iterations == 3  # 10 + 10, likewise
    late = planner.plan(fakes.request(START), budget_s=0.035)
    assert (late.iterations, late.verdict) == (1, Verdict.EARLY_STOP)
