"""The kills of benchmarks/kills.py as figures: what to kill next, what was lost, what is promised, and going on after an interruption."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_figures import FATAL, HELPERS, MOST_IN_RUN, Kill, Plan, cadence, chance, count, next_run, passed, recorded, summary

T, S = 0.02, 1_000_000_000


def kill(what="recorder", at=10.0, commanding=True, **more):
    return Kill(what, 5.0, at, round(at * S), commanding, **more)


def all_runs(wanted, done=None):
    """The runs until everything is done."""
    done, runs = dict(done or {}), []
    while (plan := next_run(wanted, done, np.random.default_rng(len(runs)))) is not None:
        runs.append(plan)
        for what in (*plan.helpers, *([plan.fatal] if plan.fatal else [])):
            done[what] = done.get(what, 0) + 1
    return runs, done


def test_every_process_is_killed_as_often_as_wanted_and_no_helper_too_often_in_a_run():
    wanted = dict.fromkeys((*FATAL, *HELPERS), 10)
    runs, done = all_runs(wanted)
    assert done == wanted
    assert [r.fatal for r in runs] == 10 * list(FATAL), "each run ends with one"
    assert [len(r.helpers) for r in runs if r.helpers] == [16, 16, 8]
    assert all(r.helpers.count(h) <= MOST_IN_RUN for r in runs for h in HELPERS)
    orders = {tuple(r.helpers) for r in runs if len(r.helpers) == 16}
    assert len(orders) == 2, "drawn anew for each run"


def test_helpers_come_first_and_their_runs_end_with_a_fatal_kill_where_one_is_left():
    runs, _ = all_runs({"controller": 4, "trainer": 8})
    assert runs == [Plan("controller", 4 * ("trainer",)), Plan("controller", 4 * ("trainer",)), Plan("controller"), Plan("controller")]
    assert all_runs({"trainer": 2})[0] == [Plan("", ("trainer", "trainer"))]


def test_only_what_is_left_is_killed_after_an_interruption():
    runs, _ = all_runs({"controller": 2, "recorder": 6}, {"controller": 1, "recorder": 4, "sim": 7})
    assert runs == [Plan("controller", ("recorder", "recorder"))]
    assert next_run({"sim": 2}, {"sim": 3}, np.random.default_rng(0)) is None


def test_ticks_missed_before_and_after_a_kill():
    sent = np.arange(5.0, 20.0, T)
    sent = np.delete(sent, [200, 251, 252, 600])  # at 9.0, at 10.02 and 10.04, at 17.0 s
    made = kill(at=10.0)
    cadence(made, T, (sent + 0.001).tolist(), np.round(sent * S).astype(int).tolist(), [(10.03, 10.048)])
    assert (made.before_missed, made.missed) == (1, 2)
    assert (made.before_frozen, made.frozen) == (0, 1), "18 ms less would have left one missed"
    assert made.before_gap_s == pytest.approx(2 * T)
    assert made.gap_s == pytest.approx(3 * T)


def test_what_a_killed_recorder_cost_by_hand():
    sent = np.arange(0, 30 * S, S // 50)
    # A part to 9.8 s, the next from 10.3 to 19.9 s but without one command at 15 s, the last from 20.5 s on.
    held = sent[(sent <= 9.8 * S) | ((sent >= 10.3 * S) & (sent <= 19.9 * S) & (sent != 15 * S)) | (sent >= 20.5 * S)]
    kills = [kill(at=10.0), kill(at=20.0)]
    recorded(kills, sent.tolist(), held.tolist())
    assert [k.lost_s for k in kills] == pytest.approx([0.2, 0.1])
    assert [k.unrecorded_s for k in kills] == pytest.approx([0.5, 0.6])
    assert [k.unrecorded for k in kills] == [24, 29]
    assert kills[0].readable == 1.0
    assert kills[1].readable == pytest.approx(1 - 1 / 436)  # of those from 10.3 to 19.0 s


def test_a_recorder_without_a_successor_has_lost_everything_since():
    sent = np.arange(0, 30 * S, S // 50)
    kills = [kill(at=10.0), kill(at=20.0, commanding=False)]
    recorded(kills, sent.tolist(), sent[sent <= 9.9 * S].tolist())
    assert kills[0].unrecorded_s == pytest.approx(29.98 - 9.9)
    assert np.isnan(kills[1].unrecorded_s)


def test_what_is_promised_and_what_breaks_it():
    good = [kill("controller", silence_s=0.06), kill("trainer", missed=2, frozen=2, before_missed=2), kill(unrecorded_s=0.9, readable=1.0)]
    assert all(passed(0.06, summary(good)).values())
    for what, broken in (
        ("the receiver stops in time", kill("controller", silence_s=0.0605)),
        ("no command after the controller's death", kill("controller", after=1)),
        ("no more ticks missed after a helper's death than before", kill("keeper", missed=1, frozen=1)),
        ("no tick missed after a helper's death but in stops of the machine", kill("keeper", missed=2, frozen=1, before_missed=2)),
        ("no process left", kill("mbrl", processes=1)),
        ("nothing to clean by hand", kill("sim", shared_after=1)),
        ("at most a second lost", kill(unrecorded_s=1.1)),
        ("99.9 % readable", kill(readable=0.99)),
    ):
        found = passed(0.06, summary([*good, broken]))
        assert [promise for promise, held in found.items() if not held] == [what]


def test_so_many_stops_after_kills_are_chance_and_no_more():
    assert chance(0, 0) == chance(0, 3) == 1.0
    assert chance(3, 3) == (20 + 15 + 6 + 1) / 64, "three or more heads in six throws"
    promise = "no more stops of the machine after helpers' deaths than chance brings"

    def held(*kills):
        return passed(0.06, summary(kills))[promise]

    frozen, froze_before = {"missed": 3, "frozen": 3}, {"before_missed": 3, "before_frozen": 3}
    assert held(*4 * [kill("keeper", **frozen)]), "1 in 16"
    assert not held(*5 * [kill("keeper", **frozen)]), "1 in 32"
    assert held(*5 * [kill("keeper", **frozen)], kill("keeper", **froze_before)), "7 in 64"
    assert not held(*5 * [kill("keeper", **frozen)], *5 * [kill("planner", **froze_before)]), "each process by itself"
    assert not held(*[kill(what, **frozen) for what in HELPERS for _ in range(2)]), "and all together: 1 in 256"


def test_a_file_is_gone_on_with_if_it_is_of_the_same_robot_and_seed(tmp_path):
    pytest.importorskip("rclpy")
    import kills

    from mbrl_control import robot
    from mbrl_control.errors import UserError

    spec, path = robot.load("cartpole"), tmp_path / "kills.json"
    assert kills.load(path, spec.name, 0).runs == 0
    done = kills.Done(3, 40.0, [kill(unrecorded_s=0.4), kill("mbrl", ended_s=2.0)])
    kills.save(path, spec, 7, done)
    again = kills.load(path, spec.name, 7)
    assert (again.runs, again.wall_s, count(again.kills)["recorder"]) == (3, 40.0, 1)
    assert again.kills[0].unrecorded_s == 0.4
    assert np.isnan(again.kills[0].back_s)
    for name, seed in ((spec.name, 8), ("pendulum", 7)):
        with pytest.raises(UserError, match="is of robot 'cartpole' and seed 7"):
            kills.load(path, name, seed)
    path.write_text("[1]")
    with pytest.raises(UserError, match="is no file of this program"):
        kills.load(path, spec.name, 7)
    wanted = dict.fromkeys((*FATAL, *HELPERS), 200)
    assert kills.left_s(wanted, []) == pytest.approx(600 * kills.RUN_S + 50 * kills.WAIT_S + 800 * kills.HELPER_S)
