"""`mbrl inject`: refused unless the robot allows it, and what it does to a process of a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import carts
import pytest
from typer.testing import CliRunner

from mbrl_control import cli
from mbrl_control.runtime.injection import WORDS


def mbrl(*arguments):
    result = CliRunner().invoke(cli.application(), ["inject", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 2, str(result.exception)
    return result.exit_code, result.output


@pytest.fixture
def run(tmp_path):
    """The folder of a run that allows it, or not."""
    folder = tmp_path / "run"
    folder.mkdir()

    def make(allow):
        (folder / "robot.yaml").write_text("name: cart\n" + carts.CART + ("allow_injection: true\n" if allow else ""))
        return folder

    return make


@pytest.mark.parametrize("arguments", [("kill", "--target", "trainer"), ("garbage",), ("flood", "--topic", "joint_states")])
def test_it_is_refused_unless_the_robot_allows_it(run, arguments):
    code, text = mbrl(*arguments, "--run", run(False))
    assert code == 1
    assert "robot 'cart' does not allow faults to be injected (allow_injection: false in" in text
    assert len(text.strip().splitlines()) == 1


@pytest.mark.parametrize(("arguments", "code", "named"), [
    (("kill",), 1, "name it with --target (controller, planner, trainer, recorder, sim)"),
    (("kill", "--target", "trainer", "--topic", "joint_states"), 1, "name it with --target"),
    (("kill", "--target", "trainer"), 1, "no process 'trainer' of"),
    (("garbage", "--topic", "nowhere"), 1, "name it with --topic (joint_states)"),
    (("garbage", "--target", "sim"), 1, "name it with --topic (joint_states)"),
    (("explode",), 2, "'explode' is no fault; inject one of"),
    (("drop",), 2, "'drop' takes messages away"),
    (("kill", "--seconds", "0"), 2, "seconds"),
])
def test_what_makes_no_sense_is_told(run, arguments, code, named):
    found, text = mbrl(*arguments, "--run", run(True))
    assert found == code
    assert named in text


def test_a_folder_without_a_run_is_told(tmp_path):
    code, text = mbrl("kill", "--target", "sim", "--run", tmp_path)
    assert code == 1
    assert "holds no run" in text


def test_a_process_of_the_run_is_killed(run, tmp_path):
    folder = run(True)
    child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", "-m", "mbrl_control_ros.trainer_node",
                              "-p", f"run_dir:={folder}"], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        code, text = mbrl("kill", "--run", folder, "--target", "trainer", "--json", tmp_path / "out.json")
        assert code == 0, text
        assert child.wait(10.0) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["command"], told["on"], told["pid"], told["complete"]) == ("mbrl inject kill", "trainer", child.pid, True)


def test_the_help_names_what_it_can_do():
    code, text = mbrl("--help")
    assert code == 0
    assert all(word in text for word in WORDS if word not in ("drop", "delay", "reorder", "stuck"))
