"""The trainer's process: it gives way to all others, keeps to its memory, and leaves everything readable whenever it is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_trainer import spec_of

from mbrl_control import memory, robot
from mbrl_control.priority import background
from mbrl_control.store import ModelStore
from mbrl_control.training import worker
from mbrl_control.training.trainer import Refit


@pytest.mark.fault(row=21)
def test_at_its_cap_of_memory_the_process_ends_with_a_sentence(tmp_path, record_property):
    code = ("import sys\nsys.path.insert(0, sys.argv[1])\nimport numpy as np\nfrom pathlib import Path\nimport test_trainer as t\n"
            "from mbrl_control.training import worker\n"
            "class Tail:\n    def __init__(self, *_, **__):\n        pass\n    def poll(self, at_most_s):\n        np.ones(10**9)\n"
            "worker.EpisodeTail = Tail\nworker.background = lambda: None\nrun = Path(sys.argv[2])\n"
            "worker.run(t.spec_of(memory_mb=1024), run, run / 'store')\n")
    command = [sys.executable, "-c", code, os.path.dirname(__file__), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == memory.EXHAUSTED, done.stderr
    assert "1024 MB of `trainer.memory_mb`" in done.stderr
    assert "Traceback" not in done.stderr
    record_property("measured", "the trainer ends by itself at its limit, says so, and is started again")


WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_trainer as t
from mbrl_control.training import worker
from mbrl_control.training.trainer import Refit

class Tail:
    def __init__(self, *_, **__):
        self.begin = time.monotonic()
        self.data = t.cart(600.0)
    behind = False
    def poll(self, at_most_s):
        return 1
    def episodes(self):
        return [self.data.cut(0, min(len(self.data), 150 + int(2000 * (time.monotonic() - self.begin))))]

worker.EpisodeTail = Tail
worker.background = lambda: None  # at the lowest priority, beside busy processes, the end of a refit may take many seconds
run = Path(sys.argv[2])
worker.run(t.spec_of(), run, run / "store", seed=0)
"""


def test_the_process_gives_way_to_everything_else():
    code = "import os; from mbrl_control.priority import background; background(); print(os.nice(0))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "19"
    assert worker.background is background


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this system does not schedule by sessions")
@pytest.mark.parametrize("own", [True, False])
def test_a_session_of_its_own_gives_way_as_a_whole_and_one_that_others_share_does_not(own):
    code = "from mbrl_control.priority import background; background(); print(open('/proc/self/autogroup').read())"
    # The middle process leads a session, of which the one that gives way is the leader itself or only a member.
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    command = [sys.executable, "-c", code if own else middle]
    found = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True)
    assert found.stdout.split()[-2:] == ["nice", "19" if own else "0"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_may_be_ended_at_any_instant(tmp_path, how):
    """Its store and its list of refits stay readable; a successor goes on with the next number."""
    (tmp_path / "store").mkdir()
    before = 0
    for pause in (0.0, 0.03, 0.11):
        process = subprocess.Popen([sys.executable, "-c", WORKER, os.path.dirname(__file__), str(tmp_path)], stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        store = ModelStore(tmp_path / "store")
        while store.newest() <= before + 2 and time.monotonic() < end:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.005)
        time.sleep(pause)
        process.send_signal(how)
        assert process.wait(20) == (-how if how == signal.SIGKILL else 0), process.stderr.read().decode()
        process.stderr.close()
        for version in store.versions():
            store.read(version, spec_of().hash)
        lines = (tmp_path / "refits.jsonl").read_text().splitlines()
        numbers = [json.loads(line)["version"] for line in lines]
        assert store.newest() >= before + 2
        assert store.newest() - 1 <= max(numbers) <= store.newest()
        before = store.newest()


def test_what_is_in_the_file_is_not_kept_in_memory(tmp_path, monkeypatch):
    made, stop = [], []

    class Quick:
        def __init__(self, *_):
            self.history = []
            made.append(self)

        def warm_up(self):
            pass

        def due(self):
            return True

        def refit(self):
            self.history.append(Refit(len(self.history) + 1, 0.1, 10, 1.0, math.nan, 5.0, {"loss": 0.5}))
            stop.extend([1] * (len(lines()) == 4))
            return self.history[-1]

    def lines():
        return (tmp_path / "refits.jsonl").read_text("utf-8").splitlines() if (tmp_path / "refits.jsonl").exists() else []

    monkeypatch.setattr(worker, "Trainer", Quick)
    worker._follow(robot.load("cartpole"), tmp_path, ModelStore(tmp_path / "store"), 0, stop)
    assert len(lines()) == 5
    assert [refit.transitions for refit in made[0].history] == [10]


def test_what_loads_on_first_use_is_loaded_before_the_first_sign_of_life(tmp_path, monkeypatch):
    """A process that has beaten once is taken for hung, and ended, when it beats no more for a while."""
    seen, stop = [], []

    class Quick:
        def __init__(self, *_):
            self.history = []

        def warm_up(self):
            seen.append("warm")

        def due(self):
            stop.append(1)
            return False

    monkeypatch.setattr(worker, "Trainer", Quick)
    monkeypatch.setattr(worker, "Heartbeat", lambda: lambda: seen.append("beat"))
    worker._follow(robot.load("cartpole"), tmp_path, ModelStore(tmp_path / "store"), 0, stop)
    assert seen[:2] == ["warm", "beat"]
