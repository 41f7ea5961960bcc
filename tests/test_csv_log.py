"""CSV logs: read by column name, faults told with line and nearest name."""

from __future__ import annotations

import numpy as np
import pytest
from bag_tools import changed, real, spec_of

from mbrl_control.data.csv_log import episodes_from_csv
from mbrl_control.data.loading import load_episodes
from mbrl_control.errors import DataError

HEAD = "time,q1,q2,v1,v2,u1,u2"
ROWS = ["0.0,1,2,3,4,5,6", "0.1,1.5,2,3,4,5,6", "0.2,1e-3,2,3,4,5,6"]


def write(folder, lines, name="log.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_are_found_by_name_in_any_order(tmp_path):
    path = write(tmp_path, ["u2;extra;clock;q1;q2;v1;vel2;u1", "6;text;0.5;1;2;3;4;5", "", "60;;0.75;10;2.5;30;40;50"])
    spec = spec_of()
    state = [s.model_dump(exclude_defaults=True) for s in spec.state]
    state[3]["column"] = "vel2"
    spec = changed(state=[{k: list(v) if isinstance(v, tuple) else v for k, v in s.items()} for s in state],
                   csv={"time": "clock", "delimiter": ";"})
    (episode,) = episodes_from_csv(path, spec)
    np.testing.assert_array_equal(episode.time, [0.5, 0.75])
    np.testing.assert_array_equal(episode.state, [[1, 2, 3, 4], [10, 2.5, 30, 40]])
    np.testing.assert_array_equal(episode.action, [[5, 6], [50, 60]])


def test_quotes_spaces_and_byte_order_marks(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('\ufefftime, q1 ,"q2",v1,v2,u1,u2\r\n0,"1", 2 ,3,4,5,6\r\n1,1,2,3,4,5,6\r\n', "utf-8", newline="")
    np.testing.assert_array_equal(episodes_from_csv(path, spec_of())[0].state[0], [1, 2, 3, 4])


@pytest.mark.parametrize(("lines", "reason"), [
    ([HEAD.replace("q2", "q_2"), *ROWS], r"log.csv:1: no column 'q2'; nearest: 'q_2' \(columns: time, q1, q_2"),
    (["t" + HEAD[4:], *ROWS], r"log.csv:1: no column 'time'"),
    ([HEAD + ",q1", *[r + ",9" for r in ROWS]], "column 'q1' stands 2 times"),
    ([HEAD, ROWS[0], "0.1,1,abc,3,4,5,6", ROWS[2]], r"log.csv:3: 'abc' in column 3 is no finite number"),
    ([HEAD, ROWS[0], "", "0.1,1,,3,4,5,6"], r"log.csv:4: '' in column 3 is no finite number"),
    ([HEAD, ROWS[0], "0.1,1,nan,3,4,5,6"], r"log.csv:3: 'nan' in column 3"),
    ([HEAD, ROWS[0], "0.1,1,inf,3,4,5,6"], r"log.csv:3: 'inf' in column 3"),
    ([HEAD, ROWS[0], "0.1,1,2"], r"log.csv:3: 3 cells where the header has 7"),
    ([HEAD, ROWS[0], ROWS[2], ROWS[1]], r"log.csv:4: time 0.1 is not after 0.2"),
    ([HEAD, "", ROWS[0], ROWS[0]], r"log.csv:4: time 0 is not after 0"),
    ([HEAD], "0 rows; an episode needs at least 2"),
    ([""], "no column 'time'"),
])
def test_faults_are_told_with_their_place(tmp_path, lines, reason):
    with pytest.raises(DataError, match=reason) as caught:
        episodes_from_csv(write(tmp_path, lines), spec_of())
    assert "\n" not in str(caught.value)


def test_gaps_split_and_implausible_rows_are_left_out(tmp_path):
    times = [0.1 * i for i in range(10)] + [5 + 0.1 * i for i in range(10)]
    lines = [f"{t:.1f},{i},{9 if i == 4 else 0},0,0,{i},0" for i, t in enumerate(times)]
    first, second = episodes_from_csv(write(tmp_path, [HEAD, *lines]), spec_of())
    assert [len(first), len(second)] == [9, 10]
    assert second.time[0] == 5
    assert "1 of 20 rows left out: a signal is outside its bounds, first 'q2' = 9 in line 6" in first.notes[0]
    with pytest.raises(DataError, match="no two rows without a gap"):
        episodes_from_csv(write(tmp_path, [HEAD, "0,0,9,0,0,0,0", "1,0,0,0,0,0,0"]), spec_of())


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="not UTF-8 text"):
        episodes_from_csv(tmp_path / "log.csv", spec_of())


def test_many_logs_and_folders_of_logs(tmp_path):
    write(tmp_path, [HEAD, *ROWS], "b.csv")
    (tmp_path / "more").mkdir()
    write(tmp_path / "more", [HEAD, *ROWS[:2]], "c.CSV")
    assert [len(e) for e in load_episodes([tmp_path / "b.csv", tmp_path / "b.csv"], spec_of())] == [3, 3]
    assert [len(e) for e in load_episodes(tmp_path, spec_of())] == [3, 2]
    with pytest.raises(DataError, match="no logs were given"):
        load_episodes([], spec_of())


@pytest.mark.data
def test_a_real_log(tmp_path):
    columns = {"q1": "pos_meas1", "q2": "pos_meas2", "v1": "vel_meas1", "v2": "vel_meas2"}
    spec = changed(state=[{"name": n, "joint": n, "unit": "rad" if n[0] == "q" else "rad/s", "column": c} for n, c in columns.items()],
                   command=[{"name": f"u{i}", "unit": "N*m", "column": f"tau_con{i}", "limits": [-9, 9]} for i in (1, 2)])
    episodes = load_episodes(real("dfki_double_pendulum_C1"), spec)
    assert len(episodes) == 5
    for episode in episodes:
        assert episode.duration == pytest.approx(10, abs=0.2)
        assert 4500 < len(episode) < 5500
        # the measured velocity is the derivative of the measured position
        slope = np.gradient(episode.state[:, 0], episode.time)
        assert np.corrcoef(slope, episode.state[:, 2])[0, 1] > 0.95
