"""A robot YAML: every mistake is told with its place, its value and what is right; all of them at once; nothing else is ever raised."""

from __future__ import annotations

import contextlib
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbrl_control import parts, robot, strict_yaml
from mbrl_control.errors import SpecError, UserError
from mbrl_control.part_checks import check_parts

GOOD = """\
name: arm
title: An arm
rate_hz: 50
plan_hz: 25
model_dt: 0.05
state:
  - name: q
    unit: rad
    joint: elbow
    wraps: true
  - name: v
    unit: rad/s
    joint: elbow
    field: velocity
    bounds: [-20, 20]
    rate_of: q
command:
  - name: u
    unit: N*m
    joint: elbow
    limits: [-2, 2]
    max_rate: 40
    delay_s: 0.02
cost:
  kind: quadratic
  options: {weight: {q: 1.0}}
success:
  conditions:
    - {signal: q, target: 0, within: 0.1}
  hold_s: 1
model:
  members: 5
  hidden: [32, 32]
  ignore: []
  mirror: [q, v, u]
planner:
  kind: icem
  horizon: 20
  risk: mean
trainer:
  holdout: 0.1
sim:
  mjcf: arm.xml
  actuators: [motor]
  start: {q: 0.5}
"""


def load(text):
    return robot.validate(strict_yaml.parse(text, "arm.yaml"))


def faults(text):
    with pytest.raises(SpecError) as caught:
        load(text)
    return caught.value.faults


# (line that is replaced, by what, what the sentence must name). The place is the replaced line unless the fault is a missing key.
MISTAKES = [
    ("name: arm", "name: Arm", ["name = 'Arm'", "pattern"]),
    ("name: arm", "name: 7", ["name = 7:", "string"]),
    ("name: arm", "name: ''", ["name = ''", "pattern"]),
    ("name: arm", "name: " + "a" * 41, ["name = ", "40"]),
    ("title: An arm", "title: [a]", ["title", "string"]),
    ("title: An arm", "titel: An arm", ["unknown key 'titel'", "nearest: 'title'"]),
    ("rate_hz: 50", "rate_hz: 0.5", ["rate_hz = 0.5", "greater than or equal to 1"]),
    ("rate_hz: 50", "rate_hz: 5000", ["rate_hz = 5000", "less than or equal to 1000"]),
    ("rate_hz: 50", "rate_hz: fast", ["rate_hz = 'fast'", "number"]),
    ("rate_hz: 50", "rate_hz: yes", ["rate_hz = True", "number"]),
    ("rate_hz: 50", "rate_hz: '50'", ["rate_hz = '50'", "number"]),
    ("rate_hz: 50", "rate_hz: .nan", ["rate_hz = nan", "finite"]),
    ("rate_hz: 50", "rate_hz: .inf", ["rate_hz = inf", "finite"]),
    ("rate_hz: 50", "rate_hz:", ["rate_hz = None", "number"]),
    ("rate_hz: 50", "rate_hz: [50]", ["rate_hz", "number"]),
    ("rate_hz: 50", "ratehz: 50", ["unknown key 'ratehz'", "nearest: 'rate_hz'"]),
    ("plan_hz: 25", "plan_hz: 51", ["plan_hz = 51", "above rate_hz = 50"]),
    ("plan_hz: 25", "plan_hz: -1", ["plan_hz = -1", "greater than 0"]),
    ("model_dt: 0.05", "model_dt: 0.01", ["model_dt = 0.01", "shorter than a tick of 0.02 s"]),
    ("model_dt: 0.05", "model_dt: 2", ["model_dt = 2", "less than or equal to 1"]),
    ("model_dt: 0.05", "model_dt: 2001-13-45", ["cannot read '2001-13-45'", "month"]),
    ("    unit: rad/s", "    unit: deg/s", ["state.1.unit = 'deg/s'", "nearest: 'rad/s'"]),
    ("    unit: rad/s", "    unit: 3", ["state.1.unit = 3", "rad/s"]),
    ("    unit: rad/s", "    units: rad/s", ["unknown key 'state.1.units'", "nearest: 'unit'"]),
    ("    unit: rad\n", "    unit: m\n", ["state.0.wraps = True", "only a signal in rad can wrap, not one in m"]),
    ("    wraps: true", "    wraps: 1", ["state.0.wraps = 1", "boolean"]),
    ("    wraps: true", "    wrap: true", ["unknown key 'state.0.wrap'", "nearest: 'wraps'"]),
    ("    joint: elbow\n    wraps", "    joint: [a]\n    wraps", ["state.0.joint", "string"]),
    ("    bounds: [-20, 20]", "    bounds: [20, -20]", ["state.1.bounds = [20, -20]", "first number must be below"]),
    ("    bounds: [-20, 20]", "    bounds: [1]", ["state.1.bounds", "required"]),
    ("    bounds: [-20, 20]", "    bounds: [1, 2, 3]", ["state.1.bounds", "2 items"]),
    ("    bounds: [-20, 20]", "    bounds: [a, 2]", ["state.1.bounds.0 = 'a'", "number"]),
    ("    bounds: [-20, 20]", "    bounds: [-.inf, 2]", ["state.1.bounds.0 = -inf", "finite"]),
    ("    bounds: [-20, 20]", "    bounds: 20", ["state.1.bounds = 20", "tuple"]),
    ("    rate_of: q", "    rate_of: qq", ["state.1.rate_of = 'qq'", "nearest: 'q'"]),
    ("    rate_of: q", "    rate_of: u", ["state.1.rate_of = 'u'", "no signal that can stand here"]),
    ("    field: velocity", "    field: velocity\n    type: JointState", ["state.1.type = 'JointState'", "pattern"]),
    ("  - name: v", "  - name: q", ["state.1.name = 'q'", "a second time"]),
    ("  - name: u", "  - name: q", ["command.0.name = 'q'", "a second time"]),
    ("  - name: u", "  - Name: u", ["unknown key 'command.0.Name'", "nearest: 'name'"]),
    ("    limits: [-2, 2]", "    limits: [2, -2]", ["command.0.limits = [2, -2]", "first number must be below"]),
    ("    limits: [-2, 2]", "    limits: [2, 2]", ["command.0.limits", "first number must be below"]),
    ("    limits: [-2, 2]", "    limits: [true, 2]", ["command.0.limits.0 = True", "number"]),
    ("    limits: [-2, 2]", "    limit: [-2, 2]", ["unknown key 'command.0.limit'", "nearest: 'limits'"]),
    ("    limits: [-2, 2]", "    limits: [-2, 2]\n    zero: 3", ["command.0.zero = 3:", "outside the limits [-2.0, 2.0]"]),
    ("    max_rate: 40", "    max_rate: 0", ["command.0.max_rate = 0", "greater than 0"]),
    ("    delay_s: 0.02", "    delay_s: -0.02", ["command.0.delay_s = -0.02", "greater than or equal to 0"]),
    ("    delay_s: 0.02", "    delay_s: 3", ["command.0.delay_s = 3", "less than or equal to 2"]),
    ("  kind: quadratic", "  kind: quadratik", ["cost.kind = 'quadratik'", "nearest: 'quadratic'"]),
    ("  options: {weight: {q: 1.0}}", "  options: {weight: {q: .nan}}", ["cost.options.weight", "finite"]),
    ("  options: {weight: {q: 1.0}}", "  options: {weight: {q: 4e38}}", ["cost.options.weight", "between -1e+30 and 1e+30"]),
    ("  options: {weight: {q: 1.0}}", "  options: {weight: [[1]]}", ["cost.options.weight", "an option is"]),
    ("  options: {weight: {q: 1.0}}", "  option: {}", ["unknown key 'cost.option'", "nearest: 'options'"]),
    ("    - {signal: q, target: 0, within: 0.1}",
     "    - {signal: qd, within: 0.1}", ["success.conditions.0.signal = 'qd'", "nearest: 'q'"]),
    ("    - {signal: q, target: 0, within: 0.1}", "    - {signal: q, within: -1}", ["success.conditions.0.within = -1", "greater than 0"]),
    ("    - {signal: q, target: 0, within: 0.1}", "    - {signal: u, within: 1}", ["success.conditions.0.signal = 'u'"]),
    ("  hold_s: 1", "  hold_s: 0", ["success.hold_s = 0", "greater than 0"]),
    ("  members: 5", "  members: 0", ["model.members = 0", "greater than or equal to 1"]),
    ("  members: 5", "  members: 2.5", ["model.members = 2.5", "integer"]),
    ("  hidden: [32, 32]", "  hidden: []", ["model.hidden", "at least 1"]),
    ("  hidden: [32, 32]", "  hidden: [32, 0]", ["model.hidden.1 = 0", "greater than or equal to 1"]),
    ("  ignore: []", "  ignore: [x]", ["model.ignore.0 = 'x'", "known: q, v"]),
    ("  ignore: []", "  ignore: q", ["model.ignore = 'q'", "list"]),
    ("  mirror: [q, v, u]", "  mirror: [q, v, uu]", ["model.mirror.2 = 'uu'", "nearest: 'u'"]),
    ("  kind: icem", "  kind: icme", ["planner.kind = 'icme'", "nearest: 'icem'"]),
    ("  horizon: 20", "  horizon: 0", ["planner.horizon = 0", "greater than or equal to 1"]),
    ("  horizon: 20", "  horizont: 20", ["unknown key 'planner.horizont'", "nearest: 'horizon'"]),
    ("  risk: mean", "  risk: meen", ["planner.risk = 'meen'", "nearest: 'mean'"]),
    ("  risk: mean", "  dtype: float16", ["planner.dtype = 'float16'", "'float32' or 'bfloat16'"]),
    ("  holdout: 0.1", "  holdout: 0.9", ["trainer.holdout = 0.9", "less than or equal to 0.5"]),
    ("  holdout: 0.1", "  explore_s: .inf", ["trainer.explore_s = inf", "finite"]),
    ("  actuators: [motor]", "  actuators: [a, b]", ["sim.actuators", "2 names for 1 commands"]),
    ("  actuators: [motor]", "  actuators: []", ["sim.actuators", "at least 1"]),
    ("  start: {q: 0.5}", "  start: {p: 0.5}", ["sim.start.p = 'p'", "known: q, v"]),
    ("  start: {q: 0.5}", "  start: {q: up}", ["sim.start.q = 'up'", "number"]),
    ("  start: {q: 0.5}", "  start: {q: 0.5}\n  start: {}", ["key 'start' stands here a second time"]),
    ("title: An arm", "safe_action: stop", ["safe_action = 'stop'", "'zero', 'hold', 'brake' or 'ramp'"]),
    ("title: An arm", "csv: {delimiter: ;;}", ["csv.delimiter = ';;'", "at most 1"]),
]


def test_the_good_one_is_good():
    spec = load(GOOD)
    assert spec.state_names == ("q", "v")
    assert spec.rate_pairs == ((0, 1),)
    assert spec.action_max_rate.tolist() == [40.0]


@pytest.mark.parametrize(("old", "new", "named"), MISTAKES, ids=[f"{i}-{m[1].strip()[:30]}" for i, m in enumerate(MISTAKES)])
def test_a_mistake_is_told_with_place_value_and_cure(old, new, named):
    assert GOOD.count(old) == 1 or old in ("    unit: rad\n",)
    text = GOOD.replace(old, new, 1)
    told = faults(text)
    match = [f for f in told if all(part in f for part in named)]
    assert match, told
    assert len(told) <= 3, told
    place = int(match[0].split(":")[1])
    first = len(GOOD.split(old, 1)[0].splitlines()) + 1
    # the fault of a unit is told at `wraps`, which it contradicts; what an item must be, at the item or its parent
    assert first - 1 <= place <= first + 2, (place, first, match)
    assert match[0].startswith("arm.yaml:")
    assert all("\n" not in f and "mbrl_control." not in f for f in told)


def test_there_are_enough_mistakes():
    assert len(MISTAKES) >= 60


def test_all_mistakes_are_told_at_once():
    text = GOOD
    wrong = ["name: arm", "    unit: rad/s", "    limits: [-2, 2]", "  mirror: [q, v, u]", "  kind: icem", "  actuators: [motor]",
             "    rate_of: q"]
    for line in wrong:
        old, new, _ = next(m for m in MISTAKES if m[0] == line)
        text = text.replace(old, new, 1)
    told = faults(text)
    for part in ("name = 'Arm'", "state.1.unit", "command.0.limits", "model.mirror.2", "planner.kind", "sim.actuators", "state.1.rate_of"):
        assert sum(part in f for f in told) == 1, (part, told)


@pytest.mark.parametrize("key", ["name", "state", "command", "cost"])
def test_what_is_missing_is_named(key):
    data = yaml.safe_load(GOOD)
    del data[key]
    assert any(f"key '{key}' is missing" in f for f in faults(yaml.safe_dump(data)))


@pytest.mark.parametrize(("text", "named"), [
    ("", "the file is empty"),
    ("# only a comment\n", "the file is empty"),
    ("- a\n- b\n", "arm.yaml:1: a robot file is a mapping of keys, not list"),
    ("just words", "not str"),
    ("a: [1, 2", "arm.yaml:1: not valid YAML"),
    ("a: 1\n\tb: 2\n", "arm.yaml:2: not valid YAML"),
    ("a: 1\na: 2\n", "arm.yaml:2: key 'a' stands here a second time"),
    ("a: &x 1\nb: *x\n", "arm.yaml:1: anchors and aliases"),
    ("a: *x\n", "anchors and aliases"),
    ("<<: {a: 1}\n", "unknown key '<<'"),
    ("a: !!python/object/apply:os.system [ls]\n", "unknown key 'a'"),
    ("a: !!python/name:os.system\n", "cannot read"),
    ("a: !!int ''\n", "cannot read ''"),
    ("a: !!bool maybe\n", "cannot read 'maybe'"),
    ("a: !!timestamp x\n", "cannot read 'x'"),
    ("? [a, b]\n: 1\n", "a key must be a word"),
    ("a: 1\n---\nb: 2\n", "not valid YAML"),
    ("a: \x00", "not valid YAML"),
    ("[" * 30 + "]" * 30, "nested deeper than 20 levels"),
    ("[" * 100_000, "nested deeper than 20 levels"),
    ("[" + "1," * 30_000 + "]", "more than 20000 values"),
    ("a: " + "x" * 1_000_001, "a robot file has at most 1000000"),
])
def test_files_that_are_no_robot(text, named):
    begin = time.process_time()
    told = faults(text)
    assert any(named in f for f in told), told
    assert time.process_time() - begin < 10.0


def test_an_alias_bomb_is_refused_before_it_goes_off():
    bomb = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20))
    begin = time.process_time()
    assert "anchors and aliases" in faults(bomb)[0]
    assert time.process_time() - begin < 1.0


def test_numbers_with_an_exponent_are_numbers():
    assert load(GOOD.replace("delay_s: 0.02", "delay_s: 2e-2")).delays.tolist() == [0.02]
    assert load(GOOD.replace("max_rate: 40", "max_rate: 4E1")).action_max_rate.tolist() == [40.0]


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8 text"):
        robot.load(path)
    path.write_bytes(b"a" * 1_000_001)
    with pytest.raises(SpecError, match="1000001 bytes; a robot file has at most"):
        robot.load(path)
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        robot.load(tmp_path)
    for nothing in ("cartpol", "no/such/file.yaml", "x" * 5000, "a\0b"):
        with pytest.raises(SpecError, match="neither a shipped robot nor a file; nearest:"):
            robot.load(nothing)
    with pytest.raises(SpecError, match="nearest: 'cartpole'"):
        robot.load("cartpol")


@pytest.mark.parametrize("name", robot.shipped())
def test_shipped_robots_load_and_all_their_parts_take_their_options(name):
    spec = robot.load(name)
    assert spec.name == name
    check_parts(spec)


@pytest.mark.parametrize(("change", "same"), [
    ({"title": "another"}, True),
    ({"rate_hz": 100}, True),
    ({"plan_hz": 10}, True),
    ({"planner": {"horizon": 5}}, True),
    ({"trainer": {"budget_s": 9.0}}, True),
    ({"cost": {"kind": "quadratic"}}, True),
    ({"safe_action": "hold"}, True),
    ({"sim": None}, True),
    ({"success": None}, True),
    ({"csv": {"time": "t"}}, True),
    ({"model_dt": 0.06}, False),
    ({"model": {"members": 4, "hidden": [32, 32], "mirror": ["q", "v", "u"]}}, False),
    ({"model": {"members": 5, "hidden": [32, 33], "mirror": ["q", "v", "u"]}}, False),
    ({"model": {"members": 5, "hidden": [32, 32]}}, False),
])
def test_the_hash_changes_with_what_a_model_depends_on_and_with_nothing_else(change, same):
    data = yaml.safe_load(GOOD)
    assert (load(yaml.safe_dump({**data, **change})).hash == load(GOOD).hash) is same


@pytest.mark.parametrize(("old", "new", "same"), [
    ("    joint: elbow\n    wraps", "    joint: other\n    wraps", True),
    ("    bounds: [-20, 20]", "    bounds: [-30, 20]", True),
    ("    max_rate: 40", "    max_rate: 50", True),
    ("    limits: [-2, 2]", "    limits: [-2.0, 2.0]", True),
    ("    field: velocity", "    field: velocity\n    column: qd", True),
    ("    limits: [-2, 2]", "    limits: [-2, 2.5]", False),
    ("    delay_s: 0.02", "    delay_s: 0.04", False),
    ("    unit: rad/s", "    unit: m/s", False),
    ("    wraps: true", "    wraps: false", False),
    ("    rate_of: q", "", False),
    ("    unit: N*m", "    unit: N", False),
])
def test_the_hash_looks_at_signals(old, new, same):
    assert (load(GOOD.replace(old, new, 1)).hash == load(GOOD).hash) is same


def test_the_hash_depends_on_the_order_of_signals():
    data = yaml.safe_load(GOOD)
    data["state"].reverse()
    assert load(yaml.safe_dump(data)).hash != load(GOOD).hash


@pytest.mark.parametrize(("package", "kind", "options", "named"), [
    ("planning", "icem", {"elitess": 3}, "unknown option 'elitess'; nearest: 'elites'"),
    ("planning", "icem", {"elites": "many"}, "option elites = 'many'"),
    ("planning", "icem", {"elites": 1}, "option elites = 1: Input should be greater than or equal to 2"),
    ("planning", "icem", {"execute": "worst"}, "option execute = 'worst'"),
    ("models", "ensemble", {"rate": 1}, "unknown option 'rate'"),
    ("models", "ensemble", {"learning_rate": -1.0}, "option learning_rate = -1.0"),
    ("models", "ensemble", {"batch": 0}, "option batch = 0"),
    ("costs", "quadratic", {"weights": {}}, "nearest: 'weight'"),
    ("costs", "quadratix", {}, "costs.kind = 'quadratix' is not known; nearest: 'quadratic'"),
])
def test_options_of_parts_are_checked(package, kind, options, named):
    with pytest.raises(UserError) as caught:
        parts.options(package, kind, options)
    assert named in str(caught.value)


def test_faults_of_options_are_told_at_once():
    text = GOOD.replace("kind: icem", "options: {elitess: 1, beta: -1}")
    spec = load(text.replace("{weight: {q: 1.0}}", "{weight: {p: 1.0}}"))
    with pytest.raises(UserError) as caught:
        check_parts(spec)
    for named in ("'elitess'; nearest: 'elites'", "option beta = -1", "'p' is no signal of 'arm'"):
        assert named in str(caught.value)


def mangled(draw):
    """GOOD with a few lines cut, doubled, moved or filled with noise."""
    lines = GOOD.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(lines) - 1))
        what = draw(st.integers(0, 4))
        if what == 0:
            del lines[i]
        elif what == 1:
            lines.insert(draw(st.integers(0, len(lines))), lines[i])
        elif what == 2:
            lines[i] = lines[i][:draw(st.integers(0, len(lines[i])))] + draw(st.text(max_size=8))
        elif what == 3:
            odd = ["[]", "{}", "1e400", "-1", "null", "[a, b]", "!!float ''", "'"]
            lines[i] = lines[i].split(":")[0] + ": " + draw(st.sampled_from(odd))
        else:
            lines[i] = " " * draw(st.integers(0, 6)) + lines[i].strip()
    return "\n".join(lines)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.composite(mangled)())
def test_mangled_robots_raise_spec_errors_only(text):
    with contextlib.suppress(SpecError):
        load(text)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.text(max_size=200), st.text(alphabet="ab:-[]{}&*!?|>'\"%@#,\n \t0.e~<", max_size=60)))
def test_any_text_raises_spec_errors_only(text):
    with pytest.raises(SpecError):
        load(text)


keys = st.text(max_size=5) | st.sampled_from(["name", "unit", "limits", "kind", "signal"])
values = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(list(robot.RobotSpec.model_fields)), values, max_size=6))
def test_any_data_under_known_keys_raises_spec_errors_only(data):
    with pytest.raises(SpecError):
        load(yaml.safe_dump(data))
