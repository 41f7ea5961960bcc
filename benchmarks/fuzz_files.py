"""Damaged and hostile files against their readers: only the documented error may come out, at once, and memory must not grow.

    python benchmarks/fuzz_files.py --kind snapshots --count 100000 --seed 1 --json runs/fuzz_snapshots.json

A case is made from the seed and its number alone, so `--first N --count 1` repeats case N. Files are read in child processes, a
batch each, so that a reader that crashes is a figure of the report and not its end.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import yaml
from fuzz_bags import Case, bags
from mutations import WORDS, damage, damage_text, damage_tree

from mbrl_control import robot, strict_yaml
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import DataError, SnapshotError, UserError
from mbrl_control.store import ModelStore
from mbrl_control.store.snapshot import MANIFEST, WEIGHTS

HANG_S = {"snapshots": 1.0, "yaml": 1.0, "bags": 1.0, "mjcf": 1.0}
BATCH = {"snapshots": 5000, "yaml": 1000, "bags": 500, "mjcf": 25}
MAX_GROWTH_MB = 256


@dataclass
class Outcome:
    """Figures of a batch.

    Attributes:
        cases: tried.
        read: accepted as sound.
        refused: with the documented error.
        faults: other exceptions and crashes, `case: what`; at most 20 are kept.
        faulty: how many there were.
        hangs: cases that took longer than allowed, twice.
        slowest_s, slowest: the longest case and its number.
        growth_mb: resident memory at its peak above that of the first cases.
    """

    cases: int = 0
    read: int = 0
    refused: int = 0
    faulty: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)
    hangs: int = 0
    slowest_s: float = 0.0
    slowest: int = -1
    growth_mb: float = 0.0


def snapshots(folder: Path) -> Case:
    """Snapshots of an ensemble, read from a store and loaded into a model; most carry a manifest that vouches for their damage."""
    from mbrl_control.models import ensemble  # noqa: PLC0415  (torch is loaded for this kind only)

    source = yaml.safe_load(robot.shipped()["cartpole"].read_text())
    source["model"] |= {"hidden": [8, 8], "members": 2}
    spec = robot.validate(strict_yaml.parse(yaml.safe_dump(source), "cartpole.yaml"))
    model, draws = ensemble.build(spec), np.random.default_rng(0)
    model.fit(Sequences(draws.normal(size=(60, 2, 4)), draws.uniform(-1, 1, size=(60, 1, 1)), 0.06 * np.arange(60)), draws, epochs=1)
    store = ModelStore(folder / "store")
    store.publish(model.snapshot())
    place = store.path(1)
    weights, manifest = (place / WEIGHTS).read_bytes(), json.loads((place / MANIFEST).read_text())
    arrays = dict(model.snapshot().weights)
    foreign = [safetensors.numpy.save({"w": np.zeros((3, 4), np.float32)}), b"PK\x03\x04" + bytes(60), b"\x80\x04\x95" + bytes(40),
               struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 40) + b'{"w":{"dtype":"F32","shape":[4611686018427', weights]

    def case(rng: np.random.Generator) -> None:
        data, told = weights, manifest
        kind = int(rng.integers(5))
        if kind == 0:
            data = damage(weights, rng, foreign)
        elif kind == 1:  # the header alone, which says how long and of which type everything is
            head = 8 + int.from_bytes(weights[:8], "little")
            data = damage(weights[:head], rng, foreign) + weights[head:]
        elif kind == 2:
            told = damage_tree(manifest, rng)
        elif kind == 3:
            data = foreign[rng.integers(len(foreign))]
        else:  # sound, but not what this robot needs
            name = list(arrays)[rng.integers(len(arrays))]
            wrong = [np.zeros((0,)), np.full(arrays[name].shape, 1e38, np.float32), arrays[name].astype(np.float64)[..., None],
                     np.zeros(3, np.uint8)]
            given = arrays | {name: wrong[rng.integers(len(wrong))]}
            data = safetensors.numpy.save(given)
            told = manifest | {"arrays": {k: {"shape": list(v.shape), "dtype": v.dtype.name} for k, v in given.items()}}
        if rng.random() < 0.7 and isinstance(told, dict):
            told = told | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        text = json.dumps(told, default=str).encode()
        (place / WEIGHTS).write_bytes(data)
        (place / MANIFEST).write_bytes(damage(text, rng, [data]) if rng.random() < 0.1 else text)
        model.load(store.read(1, spec.hash))

    return case


def yamls(folder: Path) -> Case:
    """Robot files: damaged as text, damaged as trees, and made to be slow to read."""
    from mbrl_control.part_checks import check_parts  # noqa: PLC0415

    check_parts(robot.load("cartpole"))  # imports what every case needs
    texts = [path.read_text() for path in robot.shipped().values()]
    trees = [yaml.safe_load(text) for text in texts]

    def bombs(rng: np.random.Generator) -> str:
        n = int(10 ** rng.uniform(1, 5.3))
        return [
            "[" * n, "a: " * n, "{a: " * n, "- " * n, "? " * n, "a: [" + "1," * n + "]", "\n".join(f"k{i}: {i}" for i in range(n // 4)),
            "a: " + "9" * n, "a: !!int " + ":".join(["1"] * n), "a: !!float " + ":".join(["1"] * n),
            "a: 0x" + "f" * n, "a: !!binary " + "A" * n,
            "a: &x [x, x]\n" + "".join(f"b{i}: &y{i} [*x, *x]\n" for i in range(n // 10)), "\n" * n + "a: 1", "a: \"" + "\\x41" * n + "\"",
            "a: |\n" + " x\n" * n, "%TAG ! tag:x:\n" * n, "!" * n + " a", "a: !!timestamp " + "1" * n, "--- a\n" * n, "# " + "x" * n,
            "a: " + "1_" * n, "a: !!omap [" + "{a: 1}," * n + "]", "name: " + "x" * n + "\n" + texts[0], texts[0] + "\n" + texts[0],
        ][rng.integers(25)]

    def case(rng: np.random.Generator) -> None:
        draw = rng.random()
        if draw < 0.5:
            text = yaml.safe_dump(damage_tree(trees[rng.integers(len(trees))], rng), allow_unicode=bool(rng.integers(2)))
        elif draw < 0.85:
            text = damage_text(texts[rng.integers(len(texts))], rng, texts)
        elif draw < 0.95:
            text = bombs(rng)
        else:
            text = damage(texts[0].encode(), rng, [t.encode() for t in texts]).decode("utf-8", "surrogateescape")
        path = folder / "robot.yaml"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        check_parts(robot.load(path))

    return case


def mjcfs(folder: Path) -> Case:
    """MJCF files: the shipped ones damaged as text and bytes, and some that explode."""
    from mbrl_control.models import mjcf  # noqa: PLC0415

    shipped = mjcf.assets()
    assert shipped is not None
    texts = [path.read_text() for path in sorted(shipped.glob("*.xml"))]

    def bombs(rng: np.random.Generator) -> str:
        n = int(10 ** rng.uniform(1, 4))
        return [
            "<mujoco><include file='robot.xml'/></mujoco>", "<mujoco><worldbody>" + "<body>" * n + "</body>" * n + "</worldbody></mujoco>",
            f"<mujoco><worldbody><replicate count='{n * n}'><body><geom size='1'/></body></replicate></worldbody></mujoco>",
            f"<mujoco><size memory='{n}G'/><worldbody/></mujoco>", f"<mujoco><size nuserdata='{n * n * 10}'/><worldbody/></mujoco>",
            f"<mujoco><asset><texture type='2d' builtin='flat' name='t' width='{n * 3}' height='{n * 3}'/></asset></mujoco>",
            f"<mujoco><asset><hfield name='h' nrow='{n}' ncol='{n}' size='1 1 1 1'/></asset></mujoco>",
            "<!DOCTYPE x [<!ENTITY a 'aaaa'>" + "".join(f"<!ENTITY a{i} '&a;&a;'>" for i in range(20)) + "]><mujoco model='&a19;'/>",
        ][rng.integers(8)]

    def case(rng: np.random.Generator) -> None:
        draw = rng.random()
        path = folder / "robot.xml"
        if draw < 0.75:
            path.write_text(damage_text(texts[rng.integers(len(texts))], rng, texts, WORDS))
        elif draw < 0.9:
            path.write_bytes(damage(texts[rng.integers(len(texts))].encode(), rng, [t.encode() for t in texts]))
        else:
            path.write_text(bombs(rng))
        mjcf.read(path)

    return case


KINDS: dict[str, tuple[Callable[[Path], Case], type[UserError]]] = {
    "snapshots": (snapshots, SnapshotError), "yaml": (yamls, UserError), "bags": (bags, DataError), "mjcf": (mjcfs, UserError)}


class _TooLongError(BaseException):
    """Ends a case that would not end, past every `except Exception`."""


def _too_long(*_: object) -> None:
    raise _TooLongError


def _attempt(case: Case, rng: np.random.Generator, documented: type[UserError], allowed_s: float) -> tuple[str, str, float]:
    """`read`, `refused` or `faulty`; what is wrong, if anything; seconds."""
    begin, verdict, wrong = time.perf_counter(), "read", ""
    signal.setitimer(signal.ITIMER_REAL, 5 * allowed_s)
    try:
        case(rng)
    except documented as error:
        verdict = "refused"
        if not str(error).strip() or len(str(error)) > 100_000:
            wrong = f"says nothing, or no end: {str(error)[:80]!r}"
    except (Exception, _TooLongError):
        verdict, wrong = "faulty", " | ".join(traceback.format_exc(limit=-3).split("\n"))[-600:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return verdict, wrong, time.perf_counter() - begin


def run_cases(kind: str, first: int, count: int, seed: int, tell: Callable[[int], None] = lambda case: None) -> Outcome:
    """Cases `first` to `first + count - 1`, in this process.

    Args:
        kind: of `KINDS`.
        first: number of the first case.
        count: how many.
        seed: of all cases.
        tell: gets the number of each case before it begins.
    """
    make, documented = KINDS[kind]
    out, allowed = Outcome(), HANG_S[kind]
    previous, before = signal.signal(signal.SIGALRM, _too_long), 0.0
    with tempfile.TemporaryDirectory(prefix="mbrl-fuzz-") as folder:
        case = make(Path(folder))
        for number in range(first, first + count):
            tell(number)
            verdict, wrong, taken = _attempt(case, np.random.default_rng([seed, number]), documented, allowed)
            if taken > allowed:  # once more: the machine may have been busy with others, or with its disk
                taken = min(taken, _attempt(case, np.random.default_rng([seed, number]), documented, allowed)[2])
            out.cases += 1
            out.read += verdict == "read"
            out.refused += verdict == "refused"
            out.hangs += taken > allowed
            if wrong:
                _note(out, number, wrong)
            if taken > out.slowest_s:
                out.slowest_s, out.slowest = taken, number
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            before = peak if number < first + 20 else before
            out.growth_mb = max(out.growth_mb, peak - before)
    signal.signal(signal.SIGALRM, previous)
    return out


def _note(out: Outcome, number: int, what: str) -> None:
    out.faulty += 1
    if len(out.faults) < 20:
        out.faults.append(f"{number}: {what}")


def batch(kind: str, seed: int, first: int, count: int) -> Outcome:
    """Cases in a child process; one that ends it is a fault, and the cases behind it are tried in another child."""
    total = Outcome()
    while count > 0:
        with tempfile.NamedTemporaryFile() as progress:
            command = [sys.executable, __file__, "--kind", kind, "--seed", str(seed), "--first", str(first), "--count", str(count)]
            try:
                done = subprocess.run([*command, "--progress", progress.name], capture_output=True, text=True, check=False,
                                      timeout=120 + 10 * HANG_S[kind] * count)
                status, answer, words = done.returncode, done.stdout.strip().split("\n")[-1], done.stderr
            except subprocess.TimeoutExpired:
                status, answer, words = -signal.SIGKILL, "", "no end"
            said = progress.read()
        if status and not said:
            raise SystemExit(f"nothing could be tried: {words[-2000:]}")
        reached = int(said or first)
        if status == 0:
            return add(total, Outcome(**json.loads(answer)))
        _note(total, reached, f"the process ended with status {status}: {words[-300:]}")
        total.cases += reached - first + 1
        first, count = reached + 1, count - (reached - first + 1)
    return total


def add(one: Outcome, two: Outcome) -> Outcome:
    """The figures of both."""
    slower = max((one, two), key=lambda o: o.slowest_s)
    counts = Counter({n: getattr(one, n) + getattr(two, n) for n in ("cases", "read", "refused", "faulty", "hangs")})
    return Outcome(**counts, faults=(one.faults + two.faults)[:20], slowest_s=slower.slowest_s, slowest=slower.slowest,
                   growth_mb=max(one.growth_mb, two.growth_mb))


def _child(arguments: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    progress = os.open(arguments.progress, os.O_WRONLY)

    def tell(case: int) -> None:
        os.pwrite(progress, b"%019d" % case, 0)

    out = run_cases(arguments.kind, arguments.first, arguments.count, arguments.seed, tell)
    print(json.dumps(dataclasses.asdict(out)))


def main() -> None:
    """Try, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--progress", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.progress:
        return _child(arguments)
    begin, size = time.monotonic(), BATCH[arguments.kind]
    starts = range(arguments.first, arguments.first + arguments.count, size)
    total = Outcome()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        work = functools.partial(batch, arguments.kind, arguments.seed)
        counts = [min(size, arguments.first + arguments.count - start) for start in starts]
        for done, outcome in enumerate(pool.map(work, starts, counts), 1):
            total = add(total, outcome)
            left = (time.monotonic() - begin) / done * (len(starts) - done)
            print(f"{total.cases} cases: {total.read} read, {total.refused} refused, {total.faulty} faults, {total.hangs} hangs; "
                  f"about {left:.0f} s left", file=sys.stderr, flush=True)
    good = not total.faulty and not total.hangs and total.growth_mb <= MAX_GROWTH_MB
    figures = {"kind": arguments.kind, "seed": arguments.seed, "wall_s": time.monotonic() - begin, "allowed_s": HANG_S[arguments.kind],
               "good": good} | dataclasses.asdict(total)
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
