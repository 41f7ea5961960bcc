"""Whether a planner keeps its rate: figures by hand from made-up planners, and a real one in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from fakes import plan_of, spec_with

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.runtime import fit_check, plan_timer
from mbrl_control.runtime.fit_check import Fit, assess, greatest, planner_with

MS = 1e-3


class Affine:
    """A planner of 1 ms and `per_ms` for each candidate, model step and iteration: 1/3200 for 1 ms per iteration of 128 x 25."""

    def __init__(self, per_ms):
        self.per_s, self.asked = per_ms * MS, []

    def __call__(self, spec, iterations):
        self.asked.append((spec.planner.candidates, spec.planner.horizon, iterations))
        return MS + iterations * spec.planner.candidates * spec.planner.horizon * self.per_s


def spec_of(**planner):
    """50 plans per second: 16 ms are allowed."""
    return spec_with(plan_hz=50.0, planner={"candidates": 128, "horizon": 25, "iterations": 3, "knots": None} | planner)


def test_a_planner_that_fits_costs_two_measurements_and_says_nothing():
    measure = Affine(1 / 3200)
    fit = assess(spec_of(), measure)
    assert measure.asked == [(128, 25, 3), (128, 25, 1)]
    assert (fit.allowed_s, fit.one_s, fit.whole_s) == pytest.approx((16 * MS, 2 * MS, 4 * MS))
    assert fit.most == {}
    assert fit.demand() is None
    assert fit.demand(anytime=False) is None


def test_one_that_does_not_do_all_its_iterations_is_warned_of_with_the_largest_settings():
    # 10 ms an iteration: 11, 21 and 31 ms. 15 ms are left for three: candidates 128 x 15/30 = 64, horizon 25 x 15/30 = 12.5.
    fit = assess(spec_of(), Affine(10 / 3200))
    assert (fit.one_s, fit.whole_s) == pytest.approx((11 * MS, 31 * MS))
    # 31 ms / 0.8 = 38.75 ms: two ticks of 20 ms a plan
    assert fit.most == {"candidates": 64, "horizon": 12, "iterations": 1, "plan_hz": 25.0}
    said = fit.demand()
    assert said == ("planner 'icem': a plan of 3 iterations takes 31 ms on this machine, 16 ms are allowed (0.8 of the period of 50 plans "
                    "per second): plans will stop early; a whole plan fits with candidates = 64, or with horizon = 12, or with "
                    "iterations = 1, or with plan_hz = 25")
    with pytest.raises(UserError, match="plans will be late"):
        fit.demand(anytime=False)


def test_one_of_which_not_one_iteration_fits_is_refused_with_the_largest_settings():
    # 20 ms an iteration, 61 ms in all: candidates 128 x 15/60 = 32, horizon 25 x 15/60 = 6.25; 61 / 0.8 = 76.25 ms: four ticks
    fit = assess(spec_of(), Affine(20 / 3200))
    assert fit.most == {"candidates": 32, "horizon": 6, "plan_hz": 12.5}
    with pytest.raises(UserError, match=r"cannot keep its rate: one iteration takes 21 ms .* 16 ms are allowed .*candidates = 32, or with "
                                        r"horizon = 6, or with plan_hz = 12.5$"):
        fit.demand()


def test_one_iteration_that_takes_most_of_a_period_is_warned_of_and_one_beyond_it_refused():
    # 17 ms an iteration, 18 and 52 ms in all; 52 / 0.8 = 65 ms: four ticks. Then 19 ms: 20 ms, all of the period; and 20.1 ms.
    fit = assess(spec_of(), Affine(17 / 3200))
    assert (fit.one_s, fit.one_fits, fit.keeps_up) == (pytest.approx(18 * MS), False, True)
    said = fit.demand()
    assert said == ("planner 'icem': one iteration takes 18 ms on this machine, 16 ms are allowed (0.8 of the period of 50 plans per "
                    "second): plans will stop after it and many will be late; a whole plan fits with candidates = 37, or with "
                    "horizon = 7, or with plan_hz = 12.5")
    with pytest.raises(UserError, match="cannot keep its rate"):
        fit.demand(anytime=False)
    period = Fit("icem", 50.0, 3, 16 * MS, 20 * MS, 60 * MS)
    assert period.demand() is not None
    with pytest.raises(UserError, match=r"cannot keep its rate: one iteration takes 20\.1 ms"):
        replace(period, one_s=20.1 * MS).demand()


def test_what_is_named_was_measured_and_the_next_larger_does_not_fit():
    measure = Affine(20 / 3200)
    fit = assess(spec_of(), measure)
    assert {(32, 25, 3), (128, 6, 3)} <= set(measure.asked)
    for larger in ({"candidates": 33}, {"horizon": 7}):
        assert measure(planner_with(spec_of(), **larger), 3) > fit.allowed_s


def test_a_machine_that_is_busy_for_a_moment_refuses_nothing():
    times = iter([90 * MS, 4 * MS, 50 * MS, 2 * MS])
    fit = assess(spec_of(), lambda spec, iterations: next(times))
    assert (fit.whole_s, fit.one_s) == (4 * MS, 2 * MS)


def test_where_neither_candidates_nor_horizon_help_the_layers_are_halved():
    def measure(spec, iterations):  # all of it goes with the width: 128 takes 64 ms an iteration
        return iterations * 64 * MS * (spec.model.hidden[0] / 128) ** 2

    fit = assess(spec_of(iterations=1), measure)
    assert fit.most == {"plan_hz": 12.5, "model.hidden": [64, 64]}  # 64 / 0.8 = 80 ms: four ticks
    assert "or with model.hidden = [64, 64]" in fit.sentence()


def test_a_hopeless_size_is_scaled_from_a_smaller_one_and_never_tried():
    measure = Affine(10 / 3200)
    fit = assess(spec_of(candidates=100_000, horizon=200), measure)
    # 500 candidates x 200 steps take 313.5 ms, 200 times as many 62.7 s
    assert measure.asked[0] == (500, 200, 1)
    assert max(c * h for c, h, _ in measure.asked) <= fit_check.LARGE_CELLS
    assert fit.scaled
    assert fit.one_s == pytest.approx(200 * (1 + 312.5) * MS)
    horizon, candidates = fit.most["[horizon, candidates]"]
    assert (horizon, len(fit.most)) == (20, 1)
    assert 0.97 * 80 <= candidates <= 80  # 15 ms / 3 / 20 steps / (10/3200 ms)
    with pytest.raises(UserError, match=r"takes about 62.7 s .*\[horizon, candidates\] = \[20, "):
        fit.demand()


def test_a_large_size_that_may_be_right_for_this_machine_is_tried():
    fit = assess(spec_of(candidates=16_384, horizon=15, iterations=1), Affine(1e-5))
    assert not fit.scaled
    assert fit.whole_s == pytest.approx(MS + 16_384 * 15 * 1e-8)


def test_nothing_at_all_fits():
    fit = assess(spec_of(), lambda spec, iterations: 2.0)
    assert fit.most == {}
    with pytest.raises(UserError, match=r"one iteration takes 2 s on this machine, .*; no smaller number of candidates, horizon, rate or "
                                        "network was found to fit"):
        fit.demand()


def test_the_greatest_is_found_where_times_are_not_straight():
    asked = []

    def seconds_at(value):
        asked.append(value)
        return float(value**2)

    found = greatest(seconds_at, 1, 100, 1e4, 900.0)
    assert 27 <= found <= 30
    assert found in asked
    assert len(asked) <= 1 + fit_check.ROUNDS
    assert greatest(seconds_at, 40, 100, 1e4, 900.0) is None
    assert greatest(seconds_at, 100, 100, 1e4, 900.0) is None


def test_a_fit_goes_through_json_and_what_is_none_is_told():
    fit = assess(spec_of(), Affine(20 / 3200))
    assert fit_check.from_json(fit_check.to_json(fit)) == fit
    for line in ("", "{}", '{"kind": 1, "more": 2}'):
        with pytest.raises(ValueError):
            fit_check.from_json(line)


class StubCore:
    """A planner whose first three plans compile, and whose others take turns of 5, 7 and 6 ms an iteration."""

    made = 0

    def __init__(self, spec, store, seed):
        StubCore.made += 1
        self.spec, self.plans = spec, []
        self.model = type("Known", (), {"version": 1})()
        self.behaviours, self.taking_part = self, 0

    def untrained(self):
        self.taking_part += 1

    def plan(self, request, iterations=None):
        self.plans.append(request)
        each = 1.0 if len(self.plans) <= 3 else (5 * MS, 7 * MS, 6 * MS)[len(self.plans) % 3]
        return plan_of(self.spec, [0.0] * 25, request.apply_time, latency_s=iterations * each), -1


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(plan_timer, "PlannerCore", StubCore)
    monkeypatch.setattr(plan_timer, "LIMIT_S", 1e9)
    StubCore.made = 0


def test_the_time_is_the_median_after_the_first_plans_and_a_planner_is_built_once(stub):
    timer = plan_timer.PlanTimer()
    assert timer(spec_of(), 1) == pytest.approx(6 * MS)
    assert timer(spec_of(), 2) == pytest.approx(12 * MS)
    assert StubCore.made == 1
    timer(spec_of(horizon=24), 1)
    assert StubCore.made == 2


def test_long_plans_are_made_only_twice(stub, monkeypatch):
    monkeypatch.setattr(plan_timer, "LIMIT_S", 0.0)
    bed = plan_timer.Bed(spec_of())
    assert plan_timer.latencies(bed, 1) == [1.0]
    assert len(bed.core.plans) == 2
    assert bed.core.taking_part == 1, "policies count in the time, learned or not"


def test_settings_that_the_planner_refuses_are_not_named_and_a_planner_that_cannot_be_built_is_told():
    affine = Affine(10 / 3200)

    def measure(spec, iterations):
        if spec.planner.candidates < 128:
            raise UserError("too few")
        return affine(spec, iterations)

    assert set(assess(spec_of(), measure).most) == {"horizon", "iterations", "plan_hz"}
    with pytest.raises(UserError, match="too few"):
        assess(spec_of(candidates=64), measure)


def test_requests_are_those_of_a_controller_in_full_flight():
    spec = spec_of()
    one, two = plan_timer.request(spec, 1), plan_timer.request(spec, 2)
    assert two.state_time - one.state_time == pytest.approx(1 / 50)
    assert one.apply_time - one.sent_time[-1] == pytest.approx(spec.tick_s)
    assert len(one.sent) == len(one.sent_time) == 20  # 0.4 s at 50 Hz
    assert (one.sent_time[1:] > one.sent_time[:-1]).all()


@pytest.mark.parametrize("kind", ["ensemble", "linear", "greybox"])
def test_any_learned_model_is_timed_without_data(kind):
    spec = spec_with("pendulum", planner={"horizon": 4, "candidates": 16, "iterations": 2, "knots": None})
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"kind": kind, "members": 2, "hidden": [8], "options": {}})})
    rows = plan_timer.by_iterations(spec)
    assert [count for count, _ in rows] == [1, 2]
    assert all(second > 0 for _, seconds in rows for second in seconds)
    assert [count for count, _ in plan_timer.by_iterations(planner_with(spec, iterations=7), rows=3)] == [1, 4, 7]


def yaml_of(tmp_path, **planner):
    data = yaml.safe_load(robot.shipped()["pendulum"].read_text())
    data["planner"] |= planner
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def test_a_process_without_torch_is_told_by_one_that_has_it(tmp_path):
    small = yaml_of(tmp_path, horizon=4, candidates=16, iterations=2)
    code = ("import sys\nfrom mbrl_control.runtime.fit_check import assess_in_child, to_json\n"
            f"print(to_json(assess_in_child({small!r})))\nassert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fit = Fit(**json.loads(done.stdout))
    assert (fit.kind, fit.iterations, fit.scaled) == ("icem", 2, False)
    assert 0 < fit.one_s <= fit.whole_s
    assert fit.allowed_s == pytest.approx(0.8 / fit.plan_hz)


def test_what_the_process_cannot_do_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^planning 'icem': unknown option 'elite'"):
        fit_check.assess_in_child(yaml_of(tmp_path, options={"elite": 3}))
    monkeypatch.setattr(fit_check, "CHILD_S", 0.01)
    with pytest.raises(UserError, match=r"was not over after 0.01 s"):
        fit_check.assess_in_child("pendulum")
