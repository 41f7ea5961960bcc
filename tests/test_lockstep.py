"""The whole stack on a virtual clock: reproducible to the bit, resets and changes in mid-run, reports, pictures, success."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from bag_tools import JOINTS
from matplotlib import pyplot as plt

from mbrl_control import robot
from mbrl_control.data.message_types import encode
from mbrl_control.data.tail import TailMessage
from mbrl_control.errors import DataError
from mbrl_control.planning.plan import Plan, Verdict
from mbrl_control.runtime import faults
from mbrl_control.runtime.faults import Mode
from mbrl_control.stack import lockstep, picture, plants, report
from mbrl_control.stack.run_log import RunLog
from mbrl_control.stack.run_reader import RunReader
from mbrl_control.stack.success import holds, solved_at
from mbrl_control.training.trainer import Refit


def small(name="pendulum"):
    """A shipped robot with a model and a planner that cost little."""
    spec = robot.load(name)
    return spec.model_copy(update={
        "planner": spec.planner.model_copy(update={"horizon": 8, "candidates": 24, "iterations": 2, "knots": None}),
        "model": spec.model.model_copy(update={"members": 2, "hidden": [16]}),
        "trainer": spec.trainer.model_copy(update={"first_fit_s": 1.0, "explore_s": 1.0, "updates": 20, "refit_every_s": 0.5}),
    })


def run(folder, spec=None, duration=3.0, seed=0, **settings):
    spec = spec or small()
    made = lockstep.Lockstep(spec, plants.make("mujoco", spec), folder / "store", lockstep.Settings(duration, seed, **settings))
    return spec, made.run()


def same(one, two):
    return all(np.array_equal(np.array(getattr(one, n)), np.array(getattr(two, n))) for n in
               ("time", "state", "command", "cost", "mode", "version", "starts", "swaps"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run"))


def test_equal_seeds_give_equal_logs_bit_for_bit_and_others_do_not(tmp_path, finished):
    (tmp_path / "other").mkdir()
    assert same(finished[1], run(tmp_path)[1])
    assert not same(finished[1], run(tmp_path / "other", seed=1)[1])


def test_the_log_does_not_depend_on_how_fast_the_machine_is(tmp_path, finished, monkeypatch):
    import time

    real = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: 50 * real())
    monkeypatch.setattr(time, "monotonic", lambda: 50 * real())
    monkeypatch.setattr("mbrl_control.planning.base.SamplingPlanner.clock", staticmethod(lambda: 50 * real()))
    assert same(finished[1], run(tmp_path)[1])


def test_what_happens_in_a_run(finished):
    spec, log = finished
    assert len(log.time) == len(log.cost) == 150
    assert np.diff(log.time) == pytest.approx(spec.tick_s)
    assert log.mode[0] == Mode.EXPLORE
    assert log.mode[-1] == Mode.ACTIVE
    assert [r.version for r in log.refits if r.version] == list(range(1, 1 + sum(bool(r.version) for r in log.refits)))
    assert len(log.swaps) >= 2
    assert log.version[-1] == log.swaps[-1][1]
    assert (np.abs(np.array(log.command)) <= spec.action_high).all()
    # a refit's model is used `refit_latency_s` after the refit began, at the next fifth tick
    assert log.swaps[0][0] == pytest.approx(1.0 + 0.5, abs=0.21)


def test_resets_begin_new_episodes(tmp_path):
    spec, log = run(tmp_path, resets_s=(1.0, 2.5))
    assert log.starts == [0, 50, 125]
    assert [len(e) for e in log.episodes()] == [50, 75, 25]
    start = [spec.sim.start.get(n, 0.0) for n in spec.state_names]
    for k in log.starts:
        assert log.state[k] == pytest.approx(start, abs=0.1)
    assert log.bounds() == [(0, 50), (50, 125), (125, 150)]


def test_a_change_in_mid_run_changes_the_run_from_there_on(tmp_path, finished):
    log = run(tmp_path, changes=((2.0, lambda plant: plant.change("gear:motor", 0.2)),))[1]
    before = finished[1]
    assert np.array_equal(np.array(log.state)[:101], np.array(before.state)[:101])
    assert not np.array_equal(np.array(log.state)[102:], np.array(before.state)[102:])


@pytest.mark.parametrize("latency", [0.001, 0.035, 0.07, 0.15])
def test_a_planner_of_any_latency_is_followed(tmp_path, latency):
    _, log = run(tmp_path, plan_latency_s=latency)
    later = log.mode[round(50 * 2.5):]
    # A model of so few steps may well be doubtful; the plan is followed all the same.
    late = ["plan_late" in faults.codes(number) for number in log.faults[round(50 * 2.5):]]
    followed = [mode in (Mode.ACTIVE, Mode.DEGRADED) and not is_late for mode, is_late in zip(later, late, strict=True)]
    assert sum(followed) > 0.5 * len(later)
    assert Mode.BRAKE not in later


def test_it_ends_when_solved_if_asked_to(tmp_path):
    spec = small()
    easy = spec.success.model_copy(update={"conditions": [spec.success.conditions[0].model_copy(update={"within": 10.0})], "hold_s": 0.5})
    _, log = run(tmp_path, spec.model_copy(update={"success": easy}), stop_when_solved=True)
    assert 0.5 <= log.time[-1] <= 0.8


KEYS = {
    "schema": int, "command": str, "robot": str, "seed": int, "wall_s": float, "machine": dict, "cadence": dict, "planner": dict,
    "trainer": dict, "swaps": dict, "episodes": list, "model": dict, "faults": list, "solved": bool,
    "solved_at_experience_s": (float, type(None)),
}
INSIDE = {
    "machine": {"cores": int, "cpu": str, "gpu": (str, type(None))},
    "cadence": {"rate_hz": float, "ticks": int, "missed": int, "lateness_us": (dict, type(None))},
    "planner": {"kind": str, "candidates": int, "horizon": int, "iterations": int, "device": str, "dtype": str, "plans": int, "late": int,
                "met": int, "early_stop": int, "reused": int, "fallback": int, "latency_ms": dict, "winners": dict},
    "trainer": {"refits": int, "published": int, "rejected": int, "refit_s": dict, "transitions": int},
    "swaps": {"accepted": int, "refused": int, "rolled_back": int, "missed_ticks_during": int},
}


def test_the_report_has_every_key_in_the_right_type_and_is_json_for_anybody(tmp_path, finished):
    spec, log = finished
    cadence = {"rate_hz": spec.rate_hz, "ticks": len(log.time), "missed": 0, "lateness_us": None}
    made = report.build(spec, log, command="test", seed=0, wall_s=1.0, cadence=cadence)
    made["note"] = math.nan
    report.save(made, tmp_path / "deep" / "report.json")
    found = json.loads((tmp_path / "deep" / "report.json").read_text(), parse_constant=pytest.fail)
    for key, kind in KEYS.items():
        assert isinstance(found[key], kind), key
    for part, keys in INSIDE.items():
        for key, kind in keys.items():
            assert isinstance(found[part][key], kind), (part, key)
    assert set(found["planner"]["latency_ms"]) >= {"p50", "p99", "max"}
    assert set(found["trainer"]["refit_s"]) >= {"p50", "max"}
    assert set(found["planner"]["winners"]) == {"nominal", "explore", "mbpo", "dreamer", "hold", "newton", "learned"}
    assert set(found["episodes"][0]) >= {"start_s", "experience_s", "return", "solved"}
    assert found["planner"]["plans"] == found["planner"]["met"] > 0  # in lockstep no plan is stopped by a clock
    assert found["planner"]["plans"] == len(log.plans) == sum(found["planner"]["winners"].values())
    assert found["trainer"]["published"] + found["trainer"]["rejected"] == found["trainer"]["refits"] == len(log.refits)
    assert found["episodes"][0]["return"] == pytest.approx(-sum(log.cost))
    assert found["note"] is None
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_a_planner_slower_than_its_period_reuses_plans(tmp_path, finished):
    assert finished[1].reused == 0
    spec, log = run(tmp_path, plan_latency_s=1.5 / finished[0].plan_hz)
    # a plan takes one and a half periods: every second request finds the planner busy, and the period after it has no new plan
    active = sum(mode == Mode.ACTIVE for mode in log.mode) * spec.plan_hz / spec.rate_hz
    assert log.reused == pytest.approx(active / 2, abs=2)
    assert report.build(spec, log, command="test", seed=0, wall_s=0.0, cadence={})["planner"]["reused"] == log.reused


def test_verdicts_are_counted():
    spec, log = small(), RunLog(reused=4)
    rows = np.zeros((1, 1))
    for verdict, count in ((Verdict.MET, 3), (Verdict.EARLY_STOP, 2), (Verdict.FALLBACK, 1)):
        log.plans += count * [Plan(0, 0.0, 0.1, rows, 0.0, verdict, 1, 1, 0.01, "hold", rows[None])]
    planner = report.build(spec, log, command="test", seed=0, wall_s=0.0, cadence={})["planner"]
    assert [planner[key] for key in ("plans", "met", "early_stop", "fallback", "reused")] == [6, 3, 2, 1, 4]
    log.reused = None  # a controller that was killed could not tell
    assert report.build(spec, log, command="test", seed=0, wall_s=0.0, cadence={})["planner"]["reused"] is None


def test_reports_of_nothing_and_of_faults():
    spec = small()
    empty = report.build(spec, RunLog(), command="test", seed=0, wall_s=0.0, cadence={})
    assert (empty["episodes"], empty["solved"], empty["faults"]) == ([], False, [])
    log = RunLog()
    for k, mode in enumerate([Mode.EXPLORE, Mode.ACTIVE, Mode.DEGRADED, Mode.BRAKE, Mode.BRAKE]):
        log.add(0.1 * k, np.zeros(2), np.zeros(1), int(mode), 0)
        log.cost.append(1.0)
    log.starts.append(0)
    faults = report.build(spec, log, command="test", seed=0, wall_s=0.0, cadence={})["faults"]
    assert [(f["code"], f["count"], f["first_s"]) for f in faults] == [("DEGRADED", 1, 0.2), ("BRAKE", 2, pytest.approx(0.3))]
    assert all(f["action"] for f in faults)


def test_a_reader_counts_new_models_and_ways_back(tmp_path):
    """Decisions tell the version in use: 0 while nothing is planned, which is no swap."""
    reader = RunReader(robot.load("pendulum"), tmp_path)
    for version in (0, 1, 1, 0, 1, 2, 1, 1, 3, 0, 3):
        body = {"name": ["mode", "model_version"], "position": [2.0, float(version)]}
        reader._take(TailMessage("/mbrl/decision", JOINTS, 1, 1, encode(JOINTS, body)))
    assert [version for _, version in reader.log.swaps] == [1, 2, 3]
    assert reader.log.rolled_back == 1


def test_a_reader_takes_what_is_no_message_as_if_it_had_not_come(tmp_path):
    """Whatever others publish, it ends no run."""
    spec = robot.load("pendulum")
    reader = RunReader(spec, tmp_path)

    def take(topic, kind, **body):
        reader._take(TailMessage(topic, kind, 1, 1, encode(kind, body)))

    take("/joint_states", JOINTS, name=["pivot"], position=[3.0], velocity=[0.0])
    take("/mbrl/command", JOINTS, name=["torque"], position=[0.0])
    take("/mbrl/decision", JOINTS, name=["mode", "model_version"], position=[2.0, 3.0])
    assert (len(reader.log.time), list(reader.log.mode), reader.log.swaps) == (1, [2], [(0.0, 3)])
    for position in ([9.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [2.0, math.nan], [2.0], []):
        take("/mbrl/decision", JOINTS, name=["mode", "model_version"], position=position)
    take("/mbrl/decision", JOINTS, name=["model_version"], position=[4.0])
    for command in ([], [0.0, 0.0], [math.nan]):
        take("/mbrl/command", JOINTS, name=["torque"], position=command)
    for plan in ([], [math.nan] * 1000, [1e300] * 1000, [0.0] * 12):
        take("/mbrl/plan", "std_msgs/msg/Float64MultiArray", data=plan)
    for topic in ("/mbrl/decision", "/mbrl/command", "/mbrl/plan", "/joint_states"):
        reader._take(TailMessage(topic, JOINTS, 1, 1, b"\x00\x01\x00\x00" + b"\xff" * 20))
    assert (len(reader.log.time), list(reader.log.mode), reader.log.swaps, len(reader.log.plans)) == (1, [2], [(0.0, 3)], 0)


def ink(path):
    pixels = plt.imread(path)[..., :3]
    return pixels.shape, len(np.unique(pixels[::3, ::3].reshape(-1, 3), axis=0)), float((pixels.min(-1) < 0.9).mean())


def test_the_picture_shows_something(tmp_path, finished):
    spec, log = finished
    picture.draw(spec, log, tmp_path / "sub" / "picture.png", "a run")
    (height, width, _), colours, dark = ink(tmp_path / "sub" / "picture.png")
    assert (height, width) == (1100, 1320)
    assert colours > 50
    assert dark > 0.01
    bare = RunLog()
    bare.add(0.0, np.zeros(2), np.zeros(1), 0, 0)
    bare.cost.append(0.0)
    picture.draw(spec, bare, tmp_path / "bare.png", "one tick")
    assert ink(tmp_path / "bare.png")[2] < dark


def test_pictures_with_refits_that_have_no_score(tmp_path):
    log = RunLog(refits=[Refit(1, 0.1, 10, math.nan, math.nan, 2.0), Refit(0, 0.1, 10, math.inf, 1.0, 3.0)])
    picture.draw(small(), log, tmp_path / "picture.png", "nothing finite")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def trace(good, spec=None):
    """A pendulum that is upright (angle a full turn away) where `good`, and hangs elsewhere; 50 Hz."""
    good = np.asarray(good, bool)
    return np.arange(len(good)) / 50, np.column_stack([np.where(good, 2 * math.pi, math.pi), np.zeros(len(good))])


def test_success_needs_the_whole_time_without_a_break():
    spec = robot.load("pendulum")  # 0.2 rad for 3 s
    time, state = trace([False] * 10 + [True] * 151)
    assert solved_at(spec, time, state) == pytest.approx(160 / 50)
    assert solved_at(spec, time[:-1], state[:-1]) is None
    broken = [True] * 140 + [False] + [True] * 140
    assert solved_at(spec, *trace(broken)) is None
    assert solved_at(spec, *trace([*broken, *[True] * 11])) == pytest.approx((141 + 150) / 50)
    assert solved_at(spec, np.array([]), np.empty((0, 2))) is None
    assert solved_at(spec.model_copy(update={"success": None}), time, state) is None


def test_conditions_compare_angles_around_the_circle_and_others_not():
    spec = robot.load("pendulum")
    angles = np.array([0.0, 0.19, 0.21, -0.19, 2 * math.pi + 0.1, 4 * math.pi - 0.1, math.pi])
    assert holds(spec, np.column_stack([angles, np.zeros(7)])).tolist() == [True, True, False, True, True, True, False]
    rate = spec.success.model_copy(update={"conditions": [spec.success.conditions[0].model_copy(update={"signal": "theta_dot"})]})
    spec = spec.model_copy(update={"success": rate})
    assert holds(spec, np.column_stack([np.zeros(3), [0.0, 2 * math.pi, -0.1]])).tolist() == [True, False, True]


def test_data_that_is_too_little_for_a_fit_is_waited_for(tmp_path, monkeypatch):
    spec = small()
    made = lockstep.Lockstep(spec, plants.make("mujoco", spec), tmp_path, lockstep.Settings(4.0, 0))
    refit, refused = made.trainer.refit, []

    def too_little_at_first():
        if len(refused) < 3:
            refused.append(made.log.time[-1])
            raise DataError("too little")
        return refit()

    monkeypatch.setattr(made.trainer, "refit", too_little_at_first)
    log = made.run()
    assert len(log.time) == 4.0 * spec.rate_hz
    assert np.diff(refused) == pytest.approx(5 * spec.tick_s)
    assert any(log.version)
