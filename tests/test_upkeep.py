"""Helpers of a run that end, hang or grow, on a virtual clock."""

from __future__ import annotations

import itertools
import os

import pytest

from mbrl_control import memory
from mbrl_control.heartbeat import Pulse
from mbrl_control.stack.upkeep import SPARE_START_S, START_S, Upkeep


class Beats:
    """A heartbeat as told."""

    def __init__(self, now):
        self.last, self.heard = now, False

    def silence(self, now, waited):
        return now - self.last - waited


SPARES = ("standby", "reserve")


class Group:
    """Processes that die as told; those that stand by do so from the start on, unless they have beats that say otherwise."""

    def __init__(self):
        self.now, self.ended, self.killed, self.started = 0.0, {}, [], []
        self.beats, self.spares, self.there = Beats(0.0), [], set()
        self.others, self.moves = {}, []
        self.starved = 0.0

    def dead(self):
        return dict(self.ended)

    def restart(self, name, parameters):
        if name in SPARES:
            assert not self.runs(name)
            self.ended.pop(name, None)
            self.spares.append((self.now, name))
            self.there.add(name)
            if name in self.others:
                self.others[name] = Beats(self.now)
            return
        del self.ended[name]
        self.started.append((self.now, name, parameters))
        if name == "trainer":
            self.beats = Beats(self.now)

    def kill(self, name):
        self.killed.append((self.now, name))
        self.ended[name] = -9

    def runs(self, name):
        return name not in self.ended and (name not in SPARES or name in self.there)

    def succeed(self, name, by):
        if not self.runs(by):
            return False
        self.moves.append((self.now, name, by))
        self.ended.pop(name, None)
        self.there.discard(by)
        if name in SPARES:
            self.there.add(name)
        return True

    def waited(self, name):
        return self.starved if name == "trainer" else 0.0

    def pulse(self, name):
        return self.beats if name == "trainer" else self.others.get(name)


@pytest.fixture
def world():
    group, told = Group(), []
    return group, Upkeep(group, told.append), told


def pass_time(world, seconds, beat=False):
    group, upkeep, _ = world
    lost = {}
    for _ in range(round(seconds * 4)):
        group.now += 0.25
        if beat:
            group.beats.last, group.beats.heard = group.now, True
        lost |= upkeep.look(group.now, group.now)
    return lost


def codes(upkeep):
    return {part["code"]: part["count"] for part in upkeep.fault_parts()}


@pytest.mark.fault(row=19)
def test_a_trainer_that_ends_is_started_again_within_a_second(world, record_property):
    group, upkeep, told = world
    pass_time(world, 30.0, beat=True)
    group.ended["trainer"] = -9
    assert pass_time(world, 1.0) == {}
    assert [(when, name) for when, name, _ in group.started] == [(pytest.approx(30.75), "trainer")]
    assert upkeep.restarts("trainer") == 1
    assert codes(upkeep) == {"trainer_ended": 1}
    assert upkeep.fault_parts()[0]["first_s"] == pytest.approx(30.25)
    assert "exit status -9" in told[0]
    record_property("measured", "started again 0.75 s after its end at most")


def test_five_ends_in_ten_minutes_and_it_stays_down(world):
    group, upkeep, told = world
    for _ in range(5):
        group.ended["trainer"] = 1
        pass_time(world, 60.0, beat=True)
    assert len(group.started) == 4
    pauses = [when - 60.0 * k for k, (when, _, _) in enumerate(group.started)]
    assert pauses == pytest.approx([0.75, 2.25, 5.25, 10.25])
    assert codes(upkeep) == {"trainer_ended": 5, "trainer_failing": 1}
    assert "stays down" in told[-1]
    assert pass_time(world, 2000.0) == {}
    assert len(group.started) == 4


@pytest.mark.fault(row=20)
def test_one_that_is_silent_for_ten_seconds_is_killed_and_started_again(world, record_property):
    group, upkeep, _ = world
    pass_time(world, 20.0, beat=True)
    pass_time(world, 10.0)
    assert group.killed == []
    pass_time(world, 0.25)
    assert group.killed == [(30.25, "trainer")]
    pass_time(world, 1.0)
    assert len(group.started) == 1
    assert codes(upkeep) == {"trainer_silent": 1}
    record_property("measured", "killed 10.25 s after its last beat, started again 0.75 s later")


def test_one_that_starves_beside_others_is_not_taken_for_one_that_hangs(world):
    """For seven eighths of a minute others have its core; then it could work and does not."""
    group, upkeep, _ = world
    pass_time(world, 20.0, beat=True)
    for _ in range(60):
        group.starved += 0.875
        pass_time(world, 1.0)
    assert group.killed == []
    assert codes(upkeep) == {}
    pass_time(world, 2.75)
    assert group.killed == [(82.75, "trainer")], "7.5 s of the minute were its own"
    pass_time(world, 0.25)
    assert codes(upkeep) == {"trainer_silent": 1}


def test_before_the_first_beat_it_is_given_time_for_its_imports(world):
    group, _, _ = world
    pass_time(world, START_S)
    assert group.killed == []
    pass_time(world, 0.25)
    assert len(group.killed) == 1


def test_its_cap_of_memory_is_named(world):
    group, upkeep, told = world
    group.ended["trainer"] = memory.EXHAUSTED
    pass_time(world, 0.25)
    assert codes(upkeep) == {"trainer_memory": 1}
    assert "trainer.memory_mb" in told[0]


def test_a_recorder_goes_on_in_the_same_bag(world):
    group, upkeep, _ = world
    group.ended["recorder"] = -9
    assert pass_time(world, 1.0) == {}
    assert group.started == [(0.5, "recorder", {"resume": "true"})]
    assert codes(upkeep) == {"recorder_stopped": 1}


def test_nobody_stands_by_before_the_recorder_records(world):
    """One that came first would find that nobody records, and begin the recording that the recorder then refuses to overwrite."""
    group, _, _ = world
    group.others["recorder"] = Beats(0.0)
    pass_time(world, 5.0, beat=True)
    assert group.spares == []
    group.others["recorder"].last, group.others["recorder"].heard = group.now, True
    pass_time(world, 1.0, beat=True)
    assert [name for _, name in group.spares] == ["standby", "reserve"]


def test_what_stands_by_takes_the_place_of_a_killed_recorder_and_another_stands_by_at_once(world):
    group, upkeep, told = world
    pass_time(world, 10.0, beat=True)
    assert group.spares == [(0.25, "standby"), (0.5, "reserve")], "one at a time"
    group.ended["recorder"] = -9
    assert pass_time(world, 10.0, beat=True) == {}
    assert group.started == []
    assert group.moves == [(10.25, "recorder", "standby"), (10.25, "standby", "reserve")]
    assert group.spares[2:] == [(10.25, "reserve")]
    assert upkeep.restarts("recorder") == 1
    assert codes(upkeep) == {"recorder_stopped": 1}
    assert len(told) == 1


def test_a_second_kill_before_another_has_come_to_stand_by_finds_one_that_does(world):
    """A successor takes seconds to come to stand by."""
    group, upkeep, _ = world
    pass_time(world, 10.0, beat=True)
    group.others["reserve"] = Beats(group.now)
    group.others["reserve"].heard = True
    for _ in range(2):
        group.ended["recorder"] = -9
        pass_time(world, 0.5, beat=True)
    assert not group.others["reserve"].heard
    assert [move[1:] for move in group.moves] == [("recorder", "standby"), ("standby", "reserve"), ("recorder", "standby")]
    assert (group.started, group.killed) == ([], []), "none was started from nothing"
    assert upkeep.restarts("recorder") == 2


def test_where_all_are_gone_the_recorder_is_started_at_once_though_it_was_killed_often(world):
    group, upkeep, _ = world
    pass_time(world, 10.0, beat=True)
    for k in range(4):
        group.ended |= {"recorder": -9, "standby": -9, "reserve": -9}
        pass_time(world, 30.0, beat=True)
        assert group.started[-1] == (10.5 + 30.0 * k, "recorder", {"resume": "true"})
    assert upkeep.restarts("recorder") == 4


def test_a_recorder_that_ends_by_itself_has_successors_with_pauses(world):
    group, _, _ = world
    pass_time(world, 10.0, beat=True)
    for _ in range(3):
        group.ended["recorder"] = 1
        pass_time(world, 10.0, beat=True)
    starts = [when for when, _ in group.spares[2:]]
    assert starts == pytest.approx([10.5, 21.25, 35.25], abs=0.3)  # after the first end at once, then 1 s and 5 s later


def test_nothing_stands_by_for_a_recorder_that_stays_down_after_its_next_end(world):
    group, upkeep, told = world
    for _ in range(5):
        pass_time(world, 10.0, beat=True)
        group.ended["recorder"] = -9
    assert upkeep.restarts("recorder") == 4
    assert len(group.spares) == 5, "two at first, and one after each end but the last two"
    assert pass_time(world, 100.0, beat=True) == {}
    assert codes(upkeep) == {"recorder_stopped": 6}, "five ends, and that it stays down"
    assert "stays down" in told[-1]
    assert len(group.spares) == 5
    assert group.started == []


def test_what_stands_by_is_ended_where_it_would_succeed_one_that_stays_down(world):
    group, upkeep, _ = world
    pass_time(world, 10.0, beat=True)
    for _ in range(4):  # they are killed themselves each time before, so the recorder is started anew
        group.ended |= {"standby": -9, "reserve": -9, "recorder": -9}
        pass_time(world, 30.0, beat=True)
    assert upkeep.restarts("recorder") == 4
    assert not group.runs("standby")
    assert not group.runs("reserve")
    group.ended["recorder"] = -9
    pass_time(world, 100.0, beat=True)
    assert upkeep.restarts("recorder") == 4


def test_what_stands_by_and_ends_is_told_started_again_with_pauses_and_given_up_for_a_while(world):
    group, upkeep, told = world
    pass_time(world, 10.0, beat=True)
    for _ in range(5):
        group.ended["reserve"] = 1
        assert pass_time(world, 30.0, beat=True) == {}
    starts = [when for when, name in group.spares if name == "reserve"]
    assert [b - a for a, b in itertools.pairwise(starts)] == pytest.approx([10.25, 31.5, 33.0, 35.0], abs=0.3)
    assert len(told) == 5
    assert "seconds of its work" in told[0]
    assert codes(upkeep) == {}
    pass_time(world, 600.0, beat=True)
    assert len(starts) + 1 == sum(name == "reserve" for _, name in group.spares)


def test_the_next_moves_up_where_the_first_that_stood_by_has_ended(world):
    group, upkeep, told = world
    pass_time(world, 10.0, beat=True)
    group.ended["standby"] = -9
    pass_time(world, 10.0, beat=True)
    assert group.moves == [(10.25, "standby", "reserve")]
    assert len(told) == 1
    assert group.runs("reserve")
    group.ended |= {"standby": -9, "recorder": -9}  # both at once
    pass_time(world, 10.0, beat=True)
    assert group.started == []
    assert upkeep.restarts("recorder") == 1


def test_a_silent_recorder_is_ended_and_what_stands_by_takes_its_place(world):
    group, upkeep, told = world
    group.others["recorder"] = Beats(0.0)
    for _ in range(40):
        group.others["recorder"].last, group.others["recorder"].heard = group.now, True
        pass_time(world, 0.25, beat=True)
    pass_time(world, 9.75, beat=True)
    assert group.killed == []
    pass_time(world, 0.5, beat=True)
    assert group.killed == [(pytest.approx(19.75, abs=0.5), "recorder")]
    group.others["recorder"] = Beats(group.now)
    pass_time(world, 0.5, beat=True)
    assert upkeep.restarts("recorder") == 1
    assert group.started == []
    assert codes(upkeep) == {"recorder_silent": 1}
    assert len(told) == 1


def test_what_does_not_come_to_stand_by_is_ended_and_another_started(world):
    group, upkeep, told = world
    group.others["standby"] = Beats(0.0)
    pass_time(world, SPARE_START_S, beat=True)
    assert group.killed == []
    assert [name for _, name in group.spares] == ["standby"], "the next is not started before it has come so far"
    pass_time(world, 2.0, beat=True)
    assert group.killed == [(SPARE_START_S + 0.5, "standby")]
    assert group.spares == [(0.25, "standby"), (SPARE_START_S + 1.25, "standby")]
    assert len(told) == 1
    assert codes(upkeep) == {}


def test_one_that_has_not_come_to_stand_by_takes_nobodys_place(world):
    group, upkeep, _ = world
    group.others["standby"] = Beats(0.0)
    pass_time(world, 5.0, beat=True)
    group.ended["recorder"] = -9
    pass_time(world, 2.0, beat=True)
    assert group.killed == [(5.25, "standby")]
    assert group.started == [(5.5, "recorder", {"resume": "true"})]
    assert upkeep.restarts("recorder") == 1
    assert len(group.spares) == 2


def test_one_that_has_come_to_stand_by_since_the_last_look_takes_over(world):
    """Its beat is in the pipe, and has not been read."""
    group, upkeep, _ = world
    group.others["standby"] = Beats(0.0)
    pass_time(world, 5.0, beat=True)
    group.others["standby"] = pulse = Pulse(group.now)
    pass_time(world, 0.25, beat=True)
    assert not pulse.heard
    os.write(pulse.handle, b".")
    group.ended["recorder"] = -9
    pass_time(world, 0.25, beat=True)
    pulse.started()
    pulse.close()
    assert [move[1:] for move in group.moves] == [("recorder", "standby")]
    assert (group.started, group.killed) == ([], [])
    assert upkeep.restarts("recorder") == 1


def test_without_controller_or_robot_there_is_no_run(world):
    group, _, told = world
    group.ended |= {"sim": 1, "trainer": 1}
    assert pass_time(world, 0.25) == {"sim": 1}
    group.ended["controller"] = -9
    assert pass_time(world, 0.25) == {"sim": 1, "controller": -9}
    assert len(told) == 1
