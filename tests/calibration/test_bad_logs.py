"""Bad logs given to `mbrl calibrate` itself: refused with what is wrong and where, and nothing is written; or told beside the result."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import yaml
from truths import multisine, pendulum_spec, run_of, simulate
from typer.testing import CliRunner

from mbrl_calibration import mechanism
from mbrl_control.cli import application
from mbrl_control.errors import DataError

NAMES = ("theta", "theta_dot", "torque")
RATE = 100.0
SAMPLES = 1200
NOISE = np.array([1e-3, 2e-2])


@pytest.fixture(scope="module")
def sound():
    """[T, 4] time, angle, rate and torque of a pendulum that swings about its lowest point."""
    spec = pendulum_spec()
    m, rng = mechanism.build(spec), np.random.default_rng(0)
    time, command = multisine(SAMPLES / RATE, RATE, [2.0], rng)
    states = simulate(m, m.start, time, command, np.zeros(1), np.array([np.pi, 0.0]))
    run = run_of(m, time, states, command, NOISE, rng)
    return np.column_stack([run.time, run.state, run.command])


def calibrate(folder, rows, what="dynamics", **robot):
    """What the command says of a log, and whether it wrote anything."""
    data = json.loads(json.dumps(pendulum_spec().model_dump(exclude_unset=True))) | robot
    (folder / "robot.yaml").write_text(yaml.safe_dump(data))
    with (folder / "log.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["time", *NAMES])
        out.writerows(rows.tolist())
    call = ["calibrate", what, str(folder / "robot.yaml"), str(folder / "log.csv"), "-o", str(folder / "new.yaml"), "--json",
            str(folder / "figures.json")]
    return CliRunner().invoke(application(), call), (folder / "new.yaml").exists()


def with_column(rows, column, values):
    out = rows.copy()
    out[:, column] = values
    return out


def without(rows, begin_s, seconds, every_s):
    """With stretches of time left out."""
    since = rows[:, 0] % every_s
    return rows[~((since >= begin_s) & (since < begin_s + seconds))]


def stuck(rows, column):
    out = rows.copy()
    out[500:700, column] = out[500, column]
    return out


BAD = {
    "no excitation": (lambda r: with_column(r, 3, 0.5), r"command 'torque' changes by 0 at most.*record with excitation"),
    "gaps": (lambda r: without(r, 0.5, 0.2, 0.7), r"17 gaps .* 29.69% of the run; the longest lasts 0.21 s from 9.59 s after the start"),
    "degrees": (lambda r: with_column(r, 1, r[:, 1] * 180 / np.pi), r"'theta'.*degrees"),
    "milliseconds": (lambda r: with_column(r, 0, 1e3 * r[:, 0]), r"time is in milliseconds"),
    "a sensor that saturates": (lambda r: with_column(r, 2, np.minimum(r[:, 2], 0.4 * r[:, 2].max())), r"'theta_dot'.*s after the start"),
    "a sensor that is stuck": (lambda r: stuck(r, 2), r"'theta_dot' keeps to .* from 5 s after the start"),
    "swapped columns": (lambda r: r[:, [0, 2, 1, 3]], r"'theta'.*'theta_dot'|'theta_dot'.*'theta'"),
}


@pytest.mark.parametrize("what", ["dynamics", "delay"])
@pytest.mark.parametrize("fault", BAD)
def test_bad_logs_are_refused_with_what_is_wrong_and_where(sound, tmp_path, fault, what):
    spoil, said = BAD[fault]
    result, written = calibrate(tmp_path, spoil(sound), what)
    assert isinstance(result.exception, DataError), result.output
    assert "log" in str(result.exception)
    assert re.search(said, str(result.exception)), str(result.exception)
    assert not written
    assert not (tmp_path / "figures.json").exists()


@pytest.mark.parametrize("what", ["dynamics", "delay"])
def test_gaps_are_told_with_their_place_and_never_bridged(sound, tmp_path, what):
    """Six gaps of 0.3 s: what is left is fitted to as seven runs, and what is found is right."""
    result, written = calibrate(tmp_path, without(sound, 1.0, 0.3, 1.8), what)
    assert result.exit_code == 0, (result.output, result.exception)
    assert written
    figures = json.loads((tmp_path / "figures.json").read_text())
    place = r"log.csv: \d gaps, .*the longest lasts 0.31 s from \d.*s after the start"
    assert any(re.search(place, f["sentence"]) for f in figures["findings"])
    if what == "dynamics":
        found = figures["parameters"]["mu"]
        assert found["value"] == pytest.approx(0.5, rel=0.01)


def test_a_log_of_nothing_but_long_gaps_is_refused(sound, tmp_path):
    result, written = calibrate(tmp_path, without(sound, 0.5, 0.3, 0.8), "delay")
    assert isinstance(result.exception, DataError)
    assert "no stretch of 1 s without a gap" in str(result.exception)
    assert not written


def test_commands_that_the_log_has_beyond_their_limits_are_told(sound, tmp_path):
    data = pendulum_spec().model_dump(exclude_unset=True, mode="json")
    result, _ = calibrate(tmp_path, sound, "delay", command=[{**data["command"][0], "limits": [-1.0, 1.0]}])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "beyond its limits" in " ".join(result.output.split())


@pytest.mark.parametrize(("fault", "said"), [("degrees", "degrees"), ("swapped columns", "'theta"), ("a sensor that is stuck", "keeps to")])
def test_bad_bags_are_refused_like_bad_tables(sound, tmp_path, fault, said):
    """The same log as a recorder would have written it."""
    from mbrl_calibration import excite_bag
    from mbrl_calibration.playing import Played

    spec, rows = pendulum_spec(rate_hz=RATE), BAD[fault][0](sound)
    excite_bag.write(spec, Played(rows[:, 0], rows[:, 1:3], rows[:, 3:], rows[:, 3:], 0, None), np.empty((len(rows), 0)), tmp_path / "bag")
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(spec.model_dump(exclude_unset=True)))))
    call = ["calibrate", "delay", str(tmp_path / "robot.yaml"), str(tmp_path / "bag"), "-o", str(tmp_path / "new.yaml")]
    result = CliRunner().invoke(application(), call)
    assert isinstance(result.exception, DataError), (result.output, result.exception)
    assert said in str(result.exception)
    assert not (tmp_path / "new.yaml").exists()
