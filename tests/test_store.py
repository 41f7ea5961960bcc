"""The model store: whole snapshots or none, damaged and foreign ones refused in words and kept aside."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from mbrl_control.errors import SnapshotError
from mbrl_control.store import ModelStore, snapshot
from mbrl_control.store.snapshot import MANIFEST, WEIGHTS, Snapshot


def make(version=0, value=1.0, **weights):
    arrays = {"w": np.full((20, 30), value, np.float32), "scale": np.linspace(0, 1, 7), "elites": np.arange(3)} | weights
    return Snapshot("ensemble", "cafe", version, arrays, {"score": 0.5, "epochs": 3.0})


def edit(folder, **changes):
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest.update(changes)
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))


def plant(folder, data, arrays=None):
    """Put other weights in, with a manifest that vouches for them."""
    (folder / WEIGHTS).write_bytes(data)
    edit(folder, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), **({"arrays": arrays} if arrays is not None else {}))


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


def test_what_is_published_is_read_back(store):
    published = store.publish(make())
    assert published.version == 1
    back = store.read(1, "cafe")
    assert (back.kind, back.spec_hash, back.version, back.figures) == ("ensemble", "cafe", 1, {"score": 0.5, "epochs": 3.0})
    assert set(back.weights) == set(published.weights)
    for name, array in published.weights.items():
        assert np.array_equal(back.weights[name], array)
        assert back.weights[name].dtype == array.dtype
    assert (store.versions(), store.newest()) == ([1], 1)


def test_an_empty_store(store):
    assert (store.versions(), store.newest()) == ([], 0)
    with pytest.raises(SnapshotError, match="no readable snapshot"):
        store.read(1)


@pytest.mark.parametrize(("array", "reason"), [
    (np.array([1.0, np.nan]), "not finite"), (np.array([np.inf], np.float32), "not finite"), (np.array([1 + 2j]), "complex128; allowed"),
    (np.array(["a"]), "allowed"), (np.array([object()]), "object; allowed"),
])
def test_what_must_not_be_published_is_refused_and_leaves_nothing(store, array, reason):
    with pytest.raises(SnapshotError, match=reason):
        store.publish(make(bad=array))
    assert list(store.folder.iterdir()) == []


def damage_truncate(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])


def damage_empty(folder):
    (folder / WEIGHTS).write_bytes(b"")


def damage_flip(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 4
    (folder / WEIGHTS).write_bytes(data)


def damage_manifest_cut(folder):
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:-20])


def damage_manifest_list(folder):
    (folder / MANIFEST).write_text("[1, 2]")


def damage_manifest_deep(folder):
    (folder / MANIFEST).write_text("[" * 100_000)


def damage_manifest_binary(folder):
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")


def damage_manifest_huge(folder):
    (folder / MANIFEST).write_bytes(b" " * (2**20 + 1))


def damage_manifest_folder(folder):
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()


def damage_no_weights(folder):
    (folder / WEIGHTS).unlink()


def damage_manifest_pipe(folder):
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def damage_weights_pipe(folder):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    edit(folder, bytes=0)


def damage_link(folder):
    (folder / WEIGHTS).rename(folder / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder / "elsewhere")


def damage_version_true(folder):
    edit(folder, version=True)


def damage_key(folder):
    edit(folder, kind=...)


def damage_type(folder):
    edit(folder, bytes="many")


def damage_long_number(folder):
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"version": 1', '"version": ' + "9" * 5000))


def damage_version(folder):
    edit(folder, version=7)


def damage_robot(folder):
    edit(folder, spec_hash="beef")


def damage_pickle(folder):
    plant(folder, pickle.dumps({"w": np.ones(3)}))


def damage_header_huge(folder):
    plant(folder, struct.pack("<Q", 2**40) + b"{}")


def damage_header_no_json(folder):
    plant(folder, struct.pack("<Q", 8) + b"notjson!")


def damage_shape_bomb(folder):
    head = json.dumps({"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}}).encode()
    plant(folder, struct.pack("<Q", len(head)) + head + b"\0" * 4)


def damage_other_arrays(folder):
    plant(folder, safetensors.numpy.save({"x": np.zeros(3, np.float32)}))


def damage_strange_type(folder):
    data = safetensors.numpy.save({"x": np.zeros(3, np.float16)})
    plant(folder, data, {"x": {"shape": [3], "dtype": "float16"}})


def damage_bfloat(folder):
    head = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    plant(folder, struct.pack("<Q", len(head)) + head + b"\0" * 4, {"w": {"shape": [2], "dtype": "bfloat16"}})


def damage_nan(folder):
    plant(folder, safetensors.numpy.save({"x": np.array([1.0, np.nan])}), {"x": {"shape": [2], "dtype": "float64"}})


DAMAGES = [(f, r) for f, r in (
    (damage_truncate, "bytes where the manifest says"), (damage_empty, "0 bytes where"), (damage_flip, "SHA-256"),
    (damage_manifest_cut, "not a manifest"), (damage_manifest_list, "not a manifest"), (damage_manifest_deep, "not a manifest"),
    (damage_manifest_binary, "not a manifest"), (damage_manifest_huge, "a manifest has at most"), (damage_manifest_folder, "no readable"),
    (damage_manifest_pipe, "manifest.json is not a plain file"), (damage_weights_pipe, "weights.safetensors is not a plain file"),
    (damage_link, "weights.safetensors is not a plain file"), (damage_version_true, "key 'version' is missing or of the wrong"),
    (damage_no_weights, "cannot be read"), (damage_key, "key 'kind' is missing"), (damage_type, "key 'bytes' is missing or of the wrong"),
    (damage_long_number, "not a manifest"), (damage_version, "manifest says version 7"), (damage_robot, "for another robot"),
    (damage_pickle, "not a safetensors file"), (damage_header_huge, "not a safetensors file"),
    (damage_header_no_json, "not a safetensors file"), (damage_shape_bomb, "not a safetensors file"),
    (damage_other_arrays, "not those that the manifest lists"), (damage_strange_type, "not those that the manifest lists"),
    (damage_bfloat, "not those that the manifest lists|not a safetensors file"), (damage_nan, "not finite"),
)]


@pytest.mark.fault(row=17)
@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[f.__name__ for f, _ in DAMAGES])
def test_damaged_snapshots_are_refused_in_a_sentence(store, damage, reason):
    store.publish(make())
    damage(store.path(1))
    with pytest.raises(SnapshotError, match=reason) as caught:
        store.read(1, "cafe")
    assert "\n" not in str(caught.value)


@pytest.mark.fault(row=16)
def test_every_cut_is_refused(store, record_property):
    store.publish(make())
    path = store.path(1) / WEIGHTS
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(SnapshotError):
            store.read(1)
    path.write_bytes(whole)
    store.read(1)
    record_property("measured", f"{len(range(0, len(whole), 97))} of {len(range(0, len(whole), 97))} cuts refused")


@pytest.mark.fault(row=16)
def test_every_flipped_bit_is_refused(store, record_property):
    store.publish(make())
    path = store.path(1) / WEIGHTS
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 200):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(SnapshotError):
            store.read(1)
    record_property("measured", "200 of 200 flipped bits refused")


def test_a_renamed_snapshot_is_refused(store):
    store.publish(make())
    store.path(1).rename(store.path(5))
    with pytest.raises(SnapshotError, match="renamed or copied"):
        store.read(5)


@pytest.mark.fault(row=17)
def test_a_pickle_is_never_executed(store, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'executed'}",))

    store.publish(make())
    plant(store.path(1), pickle.dumps(Bomb()))
    with pytest.raises(SnapshotError):
        store.read(1)
    assert not (tmp_path / "executed").exists()


def test_refused_snapshots_are_kept_with_the_reason_and_their_numbers_are_not_used_again(store):
    store.publish(make())
    store.publish(make())
    store.refuse(2, "it was bad")
    assert store.versions() == [1]
    assert (store.folder / "refused-v000002" / "reason.txt").read_text() == "it was bad\n"
    assert (store.folder / "refused-v000002" / WEIGHTS).exists()
    assert store.publish(make()).version == 3
    store.refuse(3, "bad too")
    assert ModelStore(store.folder).publish(make()).version == 4
    store.refuse(99, "was never there")


def test_old_snapshots_are_deleted(tmp_path):
    store = ModelStore(tmp_path, keep=3)
    for _ in range(6):
        store.publish(make())
    assert store.versions() == [4, 5, 6]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v000004", "v000005", "v000006"]


def test_old_refused_snapshots_are_deleted_but_not_the_newest_whose_number_must_not_be_used_again(tmp_path):
    store = ModelStore(tmp_path, keep=2)
    for _ in range(4):
        store.refuse(store.publish(make()).version, "bad")
    assert store.publish(make()).version == 5
    assert store.refused() == {3: "bad", 4: "bad"}


def test_the_newest_may_be_asked_for_without_some(store):
    for _ in range(3):
        store.publish(make())
    assert [store.newest(without) for without in ((), {3}, {2, 3}, {1, 2, 3})] == [3, 2, 1, 0]


def test_a_refused_snapshot_is_read_only_when_asked_for(store):
    store.publish(make())
    store.refuse(1, "bad")
    with pytest.raises(SnapshotError, match="no readable snapshot"):
        store.read(1)
    assert store.read(1, even_refused=True).version == 1


@pytest.mark.parametrize("name", ["v1", "v0000001", "v1²", "v٣٣٣٣٣٣", "v-00001", "v" + "9" * 200, "v000001x"])
def test_folders_with_other_names_are_no_versions(store, name):
    store.publish(make())
    (store.folder / name).mkdir()
    assert store.versions() == [1]
    assert store.publish(make()).version == 2


def test_where_a_folder_cannot_be_moved_refusing_says_nothing(store, monkeypatch):
    store.publish(make())
    monkeypatch.setattr("pathlib.Path.rename", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    store.refuse(1, "bad")
    assert (store.versions(), store.refused()) == ([1], {})


@pytest.mark.fault(row=17)
def test_manifests_that_a_fuzzer_made_raise_nothing_else(store, record_property):
    """Any byte of the manifest and of the weights' header, changed in any way, with a SHA-256 that vouches for it."""
    store.publish(make())
    manifest, weights = ((store.path(1) / name) for name in (MANIFEST, WEIGHTS))
    text, data = manifest.read_bytes(), weights.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    rng, refused = np.random.default_rng(2), 0
    for k in range(600):
        if k % 2:
            changed = bytearray(text)
            changed[rng.integers(len(text))] = rng.integers(256)
            manifest.write_bytes(changed)
            weights.write_bytes(data)
        else:
            changed = bytearray(data)
            changed[rng.integers(header)] = rng.integers(256)
            manifest.write_bytes(text)
            plant(store.path(1), bytes(changed))
        try:
            store.read(1)
        except SnapshotError:
            refused += 1
    assert refused > 500
    record_property("measured", f"600 changed bytes of manifests and headers: {refused} refused in a sentence, the others changed nothing "
                                "that counts, nothing else raised")


def test_a_snapshot_is_never_overwritten(tmp_path):
    snapshot.write(tmp_path / "model", make(value=1.0))
    with pytest.raises(SnapshotError, match="never overwritten"):
        snapshot.write(tmp_path / "model", make(value=2.0))
    assert snapshot.read(tmp_path / "model").weights["w"][0, 0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


WRITER = """
import sys, numpy as np
from pathlib import Path
from mbrl_control.store import ModelStore
from mbrl_control.store.snapshot import Snapshot
store, k = ModelStore(Path(sys.argv[1]), keep=50), 0
print("ready", flush=True)
while True:
    k += 1
    store.publish(Snapshot("ensemble", "cafe", 0, {"w": np.full(20_000, float(k)), "k": np.array([k])}, {"k": k}))
"""


def test_readers_never_see_half_a_snapshot_of_a_writer_killed_at_any_point(store):
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.folder)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        end = time.monotonic() + rng.uniform(0.2, 0.6)
        while time.monotonic() < end:
            newest = store.newest()
            if newest:
                found = store.read(newest, "cafe")
                assert (found.weights["w"] == found.weights["k"][0]).all()
                seen += 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        for version in store.versions():
            store.read(version, "cafe")
    assert seen > 4
    last = store.newest()
    assert store.publish(make()).version == last + 1
    assert not list(store.folder.glob(".*"))  # what the killed left behind is gone
