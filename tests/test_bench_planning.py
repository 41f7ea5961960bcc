"""The planning benchmark: its competitors compute the same, and it writes what the issue asks for."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import peak
import peers
import planning
import problems

from mbrl_control.models import native, network

KEYS = {"ours_ms", "products_ms", "naive_ms", "naive_bf16_ms", "pytorch_mppi_ms", "mbrl_lib_ms", "ours_p99_ms", "ours_fp32_ms",
        "ours_over_products", "mbrl_lib_over_ours", "pytorch_mppi_over_ours", "machine", "reasons", "rows_per_plan"}
HAS_MPPI = importlib.util.find_spec("pytorch_mppi") is not None


@pytest.fixture(autouse=True)
def _as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def run(tmp_path, *given):
    file = tmp_path / "out.json"
    status = planning.main(["--problem", "tiny", "--repeats", "3", "--json", str(file), *given])
    return status, json.loads(file.read_text()) if file.exists() else None


def test_problems_have_the_sizes_of_the_design():
    p1, p2 = problems.PROBLEMS["P1"], problems.PROBLEMS["P2"]
    assert p1.sizes == [24, 128, 128, 36]
    assert p2.sizes == [24, 200, 200, 200, 200, 36]
    assert p2.gflop == pytest.approx(30.4, abs=0.05)
    assert p1.gflop == pytest.approx(2e-9 * (24 * 128 + 128 * 128 + 128 * 36) * 5 * 128 * 45)


@pytest.mark.skipif(native.kernel() is None or not native.kernel().mbrl_has_bf16(), reason="no compiler, or no bfloat16 products here")
def test_what_a_core_multiplies_is_measured_in_both_precisions(tmp_path, capsys):
    assert peak.main(["--repeats", "2", "--json", str(tmp_path / "peak.json")]) == 0
    found = json.loads((tmp_path / "peak.json").read_text())["gflops"]
    assert {"bfloat16", "float32"} == found.keys()
    assert all(0 < figures["median"] <= figures["most"] for figures in found.values())
    assert "P1's products would take" in capsys.readouterr().out


def test_a_core_is_not_measured_without_a_compiler(monkeypatch, capsys):
    monkeypatch.setattr(peak.native_code, "loaded", lambda _: None)
    assert peak.main([]) == 1
    assert "nothing was measured" in capsys.readouterr().err


def test_the_plain_loop_is_the_networks_own_formula():
    problem = problems.PROBLEMS["tiny"]
    weights = problems.Weights.make(problem, 3)
    state = torch.randn(problem.members, 6, problem.states)
    action = torch.randn(6, problem.actions)
    inputs = (torch.cat([state, action.expand(problem.members, -1, -1)], -1) - torch.as_tensor(weights.input_mean))
    inputs = inputs * torch.as_tensor(weights.input_inverse)
    out = network.forward([torch.as_tensor(array) for layer in weights.layers for array in layer], inputs)[..., : problem.states]
    expected = state + out * torch.as_tensor(weights.target_scale) + torch.as_tensor(weights.target_mean)
    torch.testing.assert_close(peers.Naive(problem, weights, torch.float32, "cpu").step(state, action), expected)


def test_folded_weights_predict_the_change_itself():
    problem = problems.PROBLEMS["tiny"]
    weights = problems.Weights.make(problem, 3)
    inputs = torch.randn(problem.members, 6, problem.states + problem.actions)
    plain, folded = (network.forward([torch.as_tensor(array) for layer in layers for array in layer], inputs)
                     for layers in (weights.layers, weights.folded()))
    scale = torch.as_tensor(weights.target_scale)
    torch.testing.assert_close(folded[..., : problem.states], plain[..., : problem.states] * scale + torch.as_tensor(weights.target_mean))
    torch.testing.assert_close(folded[..., problem.states :], plain[..., problem.states :] + 2 * scale.log())


def test_it_writes_every_key_and_reasons_for_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("MBRL_PYTHON", raising=False)
    status, out = run(tmp_path)
    assert status == 0
    assert set(out) >= KEYS
    assert out["mbrl_lib_ms"] is None
    assert "peer_mbrl_lib.py" in out["reasons"]["mbrl_lib_ms"]
    assert out["ours_over_products"] == pytest.approx(out["ours_ms"] / out["products_ms"])
    assert out["rows_per_plan"]["ours"] >= out["rows_per_plan"]["problem"] == 32
    assert (out["pytorch_mppi_ms"] is not None) == HAS_MPPI
    assert all(found["cost"] < 1e-3 for name, found in out["check"].items() if "bf16" not in name and name != "ours")


@pytest.mark.skipif("MBRL_PYTHON" not in os.environ, reason="MBRL_PYTHON names no Python with mbrl-lib")
def test_mbrl_lib_computes_the_same(tmp_path):
    _, out = run(tmp_path, "--only", "products", "ours", "mbrl_lib", "mbrl_lib_shipped")
    assert out["mbrl_lib_ms"] > 0
    assert out["mbrl_lib_shipped_ms"] > 0
    assert out["check"]["mbrl_lib"]["step"] < 1e-5
    assert out["check"]["mbrl_lib"]["cost"] < 1e-5


def test_a_python_without_mbrl_lib_is_a_reason_and_no_failure(tmp_path):
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named mbrl' >&2\nexit 1\n")
    empty.chmod(0o755)
    status, out = run(tmp_path, "--only", "products", "mbrl_lib", "--mbrl-python", str(empty))
    assert status == 0
    assert out["mbrl_lib_ms"] is None
    assert "No module named mbrl" in out["reasons"]["mbrl_lib_ms"]
    assert out["ours_over_products"] is None


def test_a_competitor_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    right = peers.Naive.step
    monkeypatch.setattr(peers.Naive, "step", lambda self, state, action: 1.01 * right(self, state, action))
    with pytest.raises(SystemExit, match="does not compute the same"):
        run(tmp_path, "--only", "naive")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_cuda_is_refused_in_one_sentence(tmp_path, capsys):
    status, out = run(tmp_path, "--device", "cuda")
    assert (status, out) == (2, None)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_curves_and_their_picture(tmp_path):
    picture = tmp_path / "curves.png"
    _, out = run(tmp_path, "--curves", "--picture", str(picture))
    assert {name: [row["value"] for row in rows] for name, rows in out["curves"].items()} == {
        "N": [32, 64], "H": [5, 10], "E": [1, 2], "width": [32, 64]}
    assert all(row["ours_ms"] > 0 and row["products_ms"] > 0 for rows in out["curves"].values() for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_medians_are_of_all_rounds():
    class Counted(peers.Competitor):
        def plan(self, i):
            pass

        def time_ms(self, i):
            return float(i)

    times = planning.measure(planning.Field({"a": Counted(), "b": Counted()}), 4)
    np.testing.assert_array_equal(times["a"], [3, 4, 5, 6])
    np.testing.assert_array_equal(times["b"], times["a"])
