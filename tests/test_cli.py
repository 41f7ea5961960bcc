"""The command line: helps, says what is wrong in one sentence, leaves nothing half-written, and gives sane figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import carts
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mbrl_control import cli, robot
from mbrl_control.errors import UserError
from mbrl_control.planning.limits import Limits
from mbrl_control.runtime import plan_timer
from mbrl_control.stack import live_run

COMMANDS = ("demo", "control", "sim", "record", "train", "fit", "evaluate", "replay", "bench", "info", "inject", "agent")
CART = carts.CART + """
name: cart
model: {kind: %s}
csv: {time: t}
"""


def mbrl(*arguments, cwd=None):
    """The program in this process, its errors told as `main` tells them."""
    result = CliRunner().invoke(cli.application(), [str(a) for a in arguments])
    text = result.output
    if isinstance(result.exception, (UserError, OSError)):
        return 2, text + str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, text


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Commands leave their runs in the working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def cart(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text(CART % "linear")
    return path


def log(path, seconds=20.0, seed=0, noise=1e-3, at=0.0, gain=1.0):
    """A CSV log of v' = gain u - 0.5 v from x = at on, exactly linear but for the noise."""
    rng = np.random.default_rng(seed)
    count, dt = round(seconds * 50), 0.02
    u = np.repeat(rng.uniform(-1, 1, count // 5 + 1), 5)[:count]
    state = np.full((count, 2), (at, 0.0))
    for k in range(count - 1):
        x, v = state[k]
        state[k + 1] = x + dt * v, v + dt * (gain * u[k] - 0.5 * v)
    rows = np.column_stack([dt * np.arange(count), state + noise * rng.standard_normal(state.shape), u])
    np.savetxt(path, rows, delimiter=",", header="t,x,v,u", comments="")
    return path


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(command):
    code, text = mbrl(*([command] if command else []), "--help")
    assert code == 0
    assert "Usage:" in text
    if command is None:
        assert all(c in text for c in COMMANDS)
    elif command not in ("replay", "bench"):
        assert "--json" in text


def test_help_waits_for_nothing_slow():
    code = ("import sys\nfrom mbrl_control import cli\nsys.argv = ['mbrl', 'demo', '--help']\n"
            "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
            "sys.exit(any(m in sys.modules for m in ('torch', 'mujoco', 'matplotlib', 'rclpy', 'casadi')))")
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_errors_are_one_sentence_without_a_traceback():
    command = [sys.executable, "-m", "mbrl_control.cli", "sim", "--robot", "cartpol"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: robot 'cartpol' is neither a shipped robot nor a file; nearest: 'cartpole'")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("arguments", "named"), [
    (["demo", "--lockstep", "--robot", "nothing"], "neither a shipped robot nor a file"),
    (["control", "--robot", "nothing"], "neither a shipped robot nor a file"),
    (["record", "--robot", "nothing"], "neither a shipped robot nor a file"),
    (["record", "--robot", "cartpole", "--keep-mb", "255"], "keep_mb = 255 must be 0, which keeps everything, or at least 256"),
    (["control", "--robot", "cartpole", "--keep-mb", "1"], "keep_mb = 1 must be 0, which keeps everything, or at least 256"),
    (["fit", "x.csv", "--robot", "nothing", "-o", "m"], "neither a shipped robot nor a file"),
    (["sim", "--robot", "rc_car"], "has no `sim` section"),
    (["demo", "--robot", "rc_car"], "no `sim` section"),
    (["demo", "--lockstep", "--robot", "rc_car"], "sim"),
    (["demo", "--lockstep", "--resets", "soon"], "--resets 'soon' is not a list of seconds"),
    (["demo", "--lockstep", "--change", "mass:pole"], "write it as WHAT*FACTOR@SECONDS"),
    (["demo", "--lockstep", "--change", "mass:nobody*2@1"], "nobody"),
    (["demo", "--lockstep", "--change", "colour:pole*2@1"], "cannot change 'colour'"),
    (["demo", "--lockstep", "--plant", "real"], "plant 'real' is not installed"),
    (["demo", "--duration", "0"], "duration"),
    (["demo", "--seed", "-1"], "seed"),
    (["fit", "missing.csv", "--robot", "cartpole", "-o", "m"], "no such file or folder"),
    (["fit", "--robot", "cartpole", "-o", "m"], "files"),
    (["evaluate", "nowhere", "x.csv"], "is no model folder"),
    (["evaluate", "nowhere", "x.csv", "--horizons", "1,b"], "--horizons '1,b' is not a list"),
    (["evaluate", "nowhere", "x.csv", "--horizons", "0,1"], "from 1 to 10000"),
    (["evaluate", "nowhere", "x.csv", "--horizons", ""], "--horizons"),
    (["replay", "nowhere"], "holds no run"),
    (["replay", "nowhere", "--limit", "-1"], "limit"),
    (["train", "nowhere", "--robot", "cartpole"], "has no `bag` in it"),
    (["control", "--robot", "cartpole", "--model", "nowhere"], "no readable snapshot"),
    (["dance"], "dance"),
])
def test_bad_input_is_told_and_leaves_nothing(tmp_path, arguments, named):
    code, text = mbrl(*arguments)
    assert code not in (0, 1)
    assert named in text
    assert "Traceback" not in text
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("text", "named"), [
    ("name: [", "bad.yaml:1: not valid YAML"),
    ("name: bad", "key 'state' is missing"),
    (CART % "linaer", "model.kind = 'linaer'"),
    (CART % "linear, options: {rigde: 1}", "nearest: 'ridge'"),
    (CART % "linear" + "planner: {options: {elites: 1}}", "option elites = 1"),
    (CART % "linear" + "planner: {kind: icem, horizn: 1}", "unknown key 'planner.horizn'; nearest: 'horizon'"),
])
@pytest.mark.parametrize("command", [["demo", "--lockstep"], ["demo"], ["fit", "x.csv", "-o", "m"]])
def test_malformed_robots(tmp_path, text, named, command):
    (tmp_path / "bad.yaml").write_text(text + "\nsim: {mjcf: cartpole.xml, actuators: [slide]}\n" if text[-1] != "[" else text)
    code, told = mbrl(*command, "--robot", tmp_path / "bad.yaml")
    assert code == 2
    assert named in told
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("command", ["demo", "control"])
def test_a_planner_that_cannot_keep_its_rate_is_told_before_anything_starts(tmp_path, monkeypatch, command):
    monkeypatch.setattr(plan_timer, "PlanTimer", lambda: lambda spec, iterations: 0.04 * iterations * spec.planner.candidates / 128)
    monkeypatch.setattr(live_run, "require_ros", lambda: None)
    code, text = mbrl(command, "--robot", "cartpole")
    assert code == 2
    assert "one iteration takes 40 ms on this machine, 16 ms are allowed" in text
    assert "a whole plan fits with candidates = 17, or with plan_hz = 6.25" in text  # 128 x 16 / 120; 120 / 0.8 = 150 ms: eight ticks
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("command", [["demo", "--lockstep"], ["demo"], ["control", "--robot", "cartpole"]])
def test_a_folder_in_use_is_not_touched(tmp_path, command):
    out = tmp_path / "work" / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    code, text = mbrl(*command, "--out", out)
    assert code == 2
    assert "is not an empty folder; name a new one with --out" in text
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    code, text = mbrl(*command, "--out", out / "notes.txt")
    assert code == 2
    assert (out / "notes.txt").read_text() == "mine"


def test_a_lockstep_run_leaves_report_and_picture(tmp_path):
    data = yaml.safe_load(robot.shipped()["pendulum"].read_text())
    data["planner"] = {"horizon": 8, "candidates": 24, "iterations": 2}
    data["model"] |= {"members": 2, "hidden": [16]}
    data["trainer"] = {"first_fit_s": 1.0, "explore_s": 1.0}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    out = tmp_path / "work" / "run"
    code, text = mbrl("demo", "--lockstep", "--robot", tmp_path / "mine.yaml", "--duration", 3, "--out", out, "--json", tmp_path / "r.json",
                      "--resets", "2", "--change", "gear:motor*0.5@1.5")
    assert code == 1  # not solved within three seconds
    found = json.loads((tmp_path / "r.json").read_text())
    assert found == json.loads((out / "report.json").read_text())
    assert found["cadence"]["ticks"] == 150
    assert found["trainer"]["refits"] >= 1
    assert len(found["episodes"]) == 2
    assert (out / "picture.png").stat().st_size > 20_000
    assert "solved" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "holds no run" in mbrl("replay", out)[1]


def test_fit_and_evaluate_a_linear_world(tmp_path, cart):
    train, test = log(tmp_path / "train.csv", 40), log(tmp_path / "test.csv", 10, seed=1)
    code, text = mbrl("fit", train, "--robot", cart, "-o", "model", "--json", "fit.json")
    assert code == 0, text
    assert json.loads(Path("fit.json").read_text())["seconds_of_data"] == pytest.approx(40, abs=0.1)
    code, text = mbrl("evaluate", "model", test, "--horizons", "1,10,50", "--json", "out.json")
    assert code == 0, text
    found = json.loads(Path("out.json").read_text())
    assert set(found) >= {"k_step_rmse", "persistence", "linear", "coverage_68", "coverage_95"}
    for k in ("1", "10", "50"):
        assert set(found["k_step_rmse"][k]) == {"x", "v"}
        assert found["k_step_rmse"][k]["v"] == pytest.approx(found["linear"][k]["v"])
        assert found["k_step_rmse"][k]["v"] < found["persistence"][k]["v"]
    # one step: both ends are measured with a noise of 1e-3, and the model carries the first one's over
    assert found["k_step_rmse"]["1"]["x"] == pytest.approx(1.4e-3, rel=0.25)
    assert found["k_step_rmse"]["50"]["v"] < 0.1 * found["persistence"]["50"]["v"]
    assert 0.6 < found["coverage_68"] < 0.76
    assert 0.9 < found["coverage_95"] < 0.99
    assert sorted(p.name for p in (tmp_path / "work" / "model").iterdir()) == ["linear", "model", "robot.yaml"]


def test_what_lies_outside_of_a_range_is_neither_learned_from_nor_judged(tmp_path):
    """Beyond the range the cart obeys another law: one fitted to both would be wrong everywhere."""
    (tmp_path / "cart.yaml").write_text((CART % "linear").replace("{name: x, joint: slider, unit: m}",
                                                                  "{name: x, joint: slider, unit: m, range: [-20, 20]}"))
    there = log(tmp_path / "there.csv", 40, seed=2, at=100.0, gain=-3.0)
    code, text = mbrl("fit", log(tmp_path / "here.csv", 40), there, "--robot", tmp_path / "cart.yaml", "-o", "model")
    assert code == 0, text
    code, text = mbrl("evaluate", "model", log(tmp_path / "test.csv", 10, seed=1), there, "--json", "out.json")
    assert code == 0, text
    assert "stretches leave the states' ranges and are not judged" in text
    found = json.loads(Path("out.json").read_text())
    assert found["k_step_rmse"]["1"]["x"] == pytest.approx(1.4e-3, rel=0.25)
    assert found["k_step_rmse"]["50"]["v"] < 0.1 * found["persistence"]["50"]["v"]
    code, text = mbrl("evaluate", "model", there)
    assert code == 2
    assert "no stretch of 50 steps stays within the `range`" in text


def test_fit_an_ensemble(tmp_path):
    (tmp_path / "cart.yaml").write_text(CART % "ensemble, members: 2, hidden: [16]")
    code, text = mbrl("fit", log(tmp_path / "a.csv"), "--robot", tmp_path / "cart.yaml", "-o", "deep/model", "--epochs", 20)
    assert code == 0, text
    manifest = json.loads(Path("deep/model/model/manifest.json").read_text())
    trusted = Limits.of(manifest["figures"], robot.load(str(tmp_path / "cart.yaml")))
    assert trusted is not None
    assert np.isfinite([trusted.error, trusted.disagreement, *trusted.low, *trusted.high]).all()
    code, text = mbrl("evaluate", "deep/model", log(tmp_path / "b.csv", seed=2), "--json", "o.json")
    assert code == 0, text
    found = json.loads(Path("o.json").read_text())
    assert found["k_step_rmse"]["10"]["v"] < 0.5 * found["persistence"]["10"]["v"]


def test_fit_refuses_what_it_cannot_use_and_leaves_nothing(tmp_path, cart):
    work = tmp_path / "work"
    (tmp_path / "notes.txt").write_text("x")
    for files, named in (([tmp_path / "notes.txt"], "'.txt' is no kind of log"), ([log(tmp_path / "short.csv", 0.04)], ""),
                         ([cart], "'.yaml' is no kind of log")):
        code, text = mbrl("fit", *files, "--robot", cart, "-o", "model")
        assert code == 2
        assert named in text
        assert list(work.iterdir()) == []
    (work / "model").mkdir()
    assert "exists already" in mbrl("fit", log(tmp_path / "a.csv"), "--robot", cart, "-o", "model")[1]
    assert list((work / "model").iterdir()) == []


def test_a_known_model_has_nothing_to_fit(tmp_path):
    data = yaml.safe_load(robot.shipped()["cartpole"].read_text())
    data["model"] = {"kind": "mujoco"}
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(data))
    code, text = mbrl("fit", log(tmp_path / "a.csv"), "--robot", tmp_path / "known.yaml", "-o", "model")
    assert code == 2
    assert "model.kind = 'mujoco' of robot 'cartpole' is known and has nothing to fit" in text
    assert list((tmp_path / "work").iterdir()) == []


def test_models_that_do_not_belong_are_refused(tmp_path, cart):
    data = log(tmp_path / "a.csv", 10)
    assert mbrl("fit", data, "--robot", cart, "-o", "model")[0] == 0
    code, text = mbrl("control", "--robot", "cartpole", "--model", "model", "--out", "run")
    assert code == 2
    assert "fitted for another robot" in text
    code, text = mbrl("evaluate", "model", data, "--horizons", "1,1000")
    assert code == 2
    assert "ask for shorter --horizons" in text
    (tmp_path / "work" / "model" / "robot.yaml").write_text((CART % "linear").replace("0.04", "0.05"))
    code, text = mbrl("evaluate", "model", data)
    assert code == 2
    assert "fitted for another robot" in text
    (tmp_path / "work" / "model" / "model" / "weights.safetensors").write_bytes(b"no")
    (tmp_path / "work" / "model" / "robot.yaml").write_text(CART % "linear")
    assert "bytes where the manifest says" in mbrl("evaluate", "model", data)[1]
    assert not (tmp_path / "work" / "run").exists()


def test_figures_that_cannot_be_written_are_told(tmp_path, cart):
    (tmp_path / "work" / "taken").mkdir()
    code, text = mbrl("info", "--json", "taken")
    assert code == 2
    assert "taken" in text


def test_info(tmp_path):
    code, text = mbrl("info", "--json", "info.json")
    assert code == 0
    found = json.loads(Path("info.json").read_text())
    assert set(robot.shipped()) == set(found["robots"])
    assert "icem" in found["parts"]["planning"]
    assert "cartpole" in text
