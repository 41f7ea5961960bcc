"""Whose turn it is to record: one at a time, and the next at once after a kill."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from waiting import until

from mbrl_control.data.turn import Turn
from mbrl_control.errors import DataError

HOLDER = """
import sys, time
from pathlib import Path
from mbrl_control.data.turn import Turn
print(Turn(Path(sys.argv[1])).take(), flush=True)
time.sleep(60)
"""


def test_one_at_a_time_and_the_next_when_it_is_left(tmp_path):
    first, second = Turn(tmp_path / "run"), Turn(tmp_path / "run")
    assert [first.take(), second.take(), first.take()] == [True, False, True]
    first.close()
    assert second.take()
    second.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_runs_have_turns_of_their_own(tmp_path):
    turns = [Turn(tmp_path / name) for name in "ab"]
    assert [t.take() for t in turns] == [True, True]
    for turn in turns:
        turn.close()


@pytest.mark.fault(row=24)
def test_after_kill_nine_it_is_the_next_ones_turn(tmp_path, record_property):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        turn = Turn(tmp_path)
        assert not turn.take()
    finally:
        holder.kill()
    begin = time.monotonic()
    until(turn.take, "the turn", 5.0, 0.001)
    record_property("measured", f"recorder: the turn is free {1e3 * (time.monotonic() - begin):.0f} ms after a kill")
    turn.close()
    holder.wait()


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be made or opened: .*give a folder that can be written to"):
        Turn(tmp_path / "file")
