"""Compiling and loading of native code: on processors with fewer instructions, without a compiler, with damage in the cache."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from test_native import SQUARES, by_steps, case, model_of, needs_native, priced

from mbrl_control import native_code
from mbrl_control.models import native
from mbrl_control.planning.rollout import rollout

FEATURES = {"x86-64-v3": {"avx2", "fma", "bmi2"}, "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}}


def forget():
    """Look for the compiled code anew."""
    native_code.loaded.cache_clear()
    native.kernel.cache_clear()


@needs_native
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of another processor")
@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_processors_with_fewer_instructions_get_the_same_numbers(level, monkeypatch, tmp_path):
    """AVX2 alone, and AVX-512 without bfloat16: the code has a part of its own for either."""
    if not FEATURES[level] <= set(native_code._processor().split()):
        pytest.skip(f"this processor cannot run {level}")
    model, (start, actions) = model_of(friction=0.5), case(43)
    with torch.inference_mode():
        wanted = model.rollout(start, actions, "tsinf")
    flags = tuple(f"-march={level}" if flag == "-march=native" else flag for flag in native_code.FLAGS)
    monkeypatch.setattr(native_code, "FLAGS", flags)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    try:
        model = model_of(friction=0.5)
        assert not native.kernel().mbrl_has_bf16()
        with torch.inference_mode():
            made, costly = model.rollout(start, actions, "tsinf"), model.price(start, actions, "tsinf", SQUARES)
        torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(costly[:, -1], priced(made[:, -1], actions[-1]), rtol=1e-5, atol=1e-5)
    finally:
        forget()


def test_without_a_compiler_torch_is_used_and_a_warning_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    forget()
    try:
        with pytest.warns(UserWarning, match="no C\\+\\+ compiler is installed"):
            assert native.kernel() is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = model_of()
            start, actions = case(4)
            with torch.inference_mode():
                made = rollout(model, start, actions, "tsinf")
                assert torch.equal(made, by_steps(model, start, actions, "tsinf"))
    finally:
        forget()


def test_it_can_be_switched_off():
    code = "from mbrl_control.models import native; assert native.kernel() is None"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env={"MBRL_NATIVE": "0", "PATH": "/usr/bin"}, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_native
def test_a_damaged_file_in_the_cache_is_made_again(monkeypatch, tmp_path):
    try:
        for folder in ("sound", "damaged"):  # two places: what is loaded once stays loaded under its name
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder))
            forget()
            if folder == "damaged":
                (sound,) = (tmp_path / "sound" / "mbrl_control").glob("rollout-*.so")
                made = tmp_path / "damaged" / "mbrl_control" / sound.name
                made.parent.mkdir(parents=True)
                made.write_bytes(b"half of it")
            assert native.kernel() is not None
        assert made.read_bytes() == sound.read_bytes()
        assert [path.name for path in made.parent.iterdir()] == [made.name], "nothing temporary is left"
    finally:
        forget()
