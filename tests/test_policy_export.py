"""A policy learned on a robot's task: exported, verified, and in the planner from its first plan on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mbrl_control import parts, robot
from mbrl_control.agents import sac
from mbrl_control.agents.base import Transition
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import SnapshotError, UserError
from mbrl_control.part_checks import check_parts
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.policies import learned
from mbrl_control.policies.proposals import Valued
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.layout import Layout
from mbrl_control.runtime.planner_core import PlannerCore
from mbrl_control.stack import agent_checkpoint, policy_export
from mbrl_control.store import ModelStore, snapshot
from mbrl_control.training.beside import Beside
from mbrl_sim.robot_task import robot_task

OPTIONS = {"hidden": [16, 8], "batch": 16, "random_steps": 20, "critics": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of SAC on the cart-pole: its folder, and the agent as it was at the end."""
    folder = tmp_path_factory.mktemp("run")
    task = robot_task("cartpole", "robot:cartpole", 3)
    agent = sac.build(task.spec, 0, parts.options("agents", "sac", OPTIONS))
    actor, observation = agent.actor(explore=True), task.reset(0)
    for _ in range(40):
        action = actor.act(observation)
        outcome = task.step(action)
        agent.observe(Transition(observation, action, outcome.reward, outcome.observation, False, False))
        agent.learn()
        observation = outcome.observation
    identity = {"agent": "sac", "task": "robot:cartpole", "seed": 0, "repeat": 3, "options": OPTIONS, "contents": task.spec.contents}
    agent_checkpoint.write(folder, identity, agent_checkpoint.Progress(120, 1), agent.save())
    return folder, agent


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "policy"
    policy_export.export(run[0], folder)
    return folder


def using(folder, name="cartpole", **changes):
    """A robot that starts its plans from an exported policy; the model is its own MJCF."""
    data = robot.load(name).model_dump()
    data["model"] = {"kind": "mujoco"}
    data["planner"] |= {"horizon": 8, "candidates": 32, "newton_rows": 0, "options": {}}
    data["policies"] = [{"kind": "learned", "options": {"path": str(folder)}, "rows": 3, "value": True} | changes]
    return RobotSpec.model_validate(data)


def request(spec, seq=0):
    return PlanRequest(seq, np.array([0.1, 2.0, 0.0, -1.0]), 0.0, spec.tick_s, np.zeros(0), np.zeros((0, 1)))


def test_it_acts_and_values_as_the_agent_did(run, exported):
    agent, spec = run[1], robot.load("cartpole")
    policy = learned.build(spec, learned.Options(str(exported)))
    state = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    seen = policy.view(state)
    with torch.no_grad():
        acted = np.stack([agent.actor(explore=False).act(o) for o in seen.numpy()])
        np.testing.assert_allclose(policy.act(state, None).numpy(), acted, atol=1e-6)
        value = agent.learner.critics.values(seen, torch.as_tensor(acted)).amin(0)
    # A reward is minus the cost of a tick of 20 ms; a plan counts costs once per model step of 60 ms.
    np.testing.assert_allclose(policy.to_go(state).detach().numpy(), -value.numpy() * 0.02 / 0.06, rtol=1e-5, atol=1e-6)


def test_rows_and_value_are_there_from_the_first_plan_on_over_a_known_model(exported, tmp_path):
    spec = using(exported)
    core = PlannerCore(spec, ModelStore(tmp_path), 0)
    assert len(core.planner.sources[0].rows(request(spec))) == 3
    assert isinstance(core.planner.cost, Valued)
    plan, before = core.plan(request(spec))
    layout = Layout.of(spec)
    for winner in (plan.winner, "learned"):
        packed = layout.pack_plan(plan.__class__(**{**vars(plan), "winner": winner}), before)
        assert layout.unpack_plan(packed)[0].winner == winner


def test_it_stays_when_a_learned_model_is_swapped_in(exported, tmp_path):
    spec = RobotSpec.model_validate({**using(exported).model_dump(), "model": robot.load("cartpole").model.model_dump()})
    store = ModelStore(tmp_path)
    core = PlannerCore(spec, store, 0)
    assert not isinstance(core.planner.cost, Valued), "before there is a model there is no plan"
    trained = parts.find("models", "ensemble").build(spec, parts.options("models", "ensemble", {}))
    rng = np.random.default_rng(0)
    data = Sequences(rng.normal(size=(60, 3, 4)).cumsum(1), rng.uniform(-1, 1, (60, 2, 1)), spec.model_dt * np.arange(60))
    trained.fit(data, rng, updates=2)
    store.publish(trained.snapshot())
    assert core.swap()
    assert len(core.planner.sources[0].rows(request(spec))) == 3
    assert isinstance(core.planner.cost, Valued)
    assert core.plan(request(spec))[0].verdict.name == "MET"


def test_the_trainer_leaves_it_alone(exported):
    beside = Beside(using(exported), 0)
    assert (beside.learners, beside.arrays()) == ([], {})
    assert beside.improve(None, None, 0.0, 5.0, lambda: None) == {}


def test_another_robot_another_cost_and_what_is_damaged_are_refused(exported, tmp_path):
    check_parts(using(exported))
    with pytest.raises(UserError, match="policy for another robot or cost"):
        check_parts(using(exported, "acrobot"))
    other = using(exported).model_dump()
    other["cost"]["options"]["rate_margin"] = 3.0
    with pytest.raises(UserError, match="policy for another robot or cost"):
        check_parts(RobotSpec.model_validate(other))
    with pytest.raises(UserError, match="option path is missing"):
        check_parts(using(""))
    with pytest.raises(UserError, match="no readable snapshot"):
        check_parts(using(tmp_path / "nothing"))
    wrong = tmp_path / "model"
    snapshot.write(wrong, snapshot.Snapshot("ensemble", learned.fingerprint(robot.load("cartpole")), 1, {"w": np.zeros(2)}))
    with pytest.raises(SnapshotError, match="a snapshot of 'ensemble', not a policy"):
        learned.build(robot.load("cartpole"), learned.Options(str(wrong)))


def test_a_byte_changed_or_other_sizes_are_told_in_a_sentence(exported, tmp_path):
    spec = robot.load("cartpole")
    for name, text in (("weights.safetensors", "SHA-256"), ("manifest.json", "networks|array 'actor'")):
        folder = tmp_path / name
        folder.mkdir()
        for path in exported.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        if name == "manifest.json":
            manifest = json.loads((folder / name).read_text())
            for sizes in ([16, 9], [4096] * 16, [0], "x", [16] * 40):
                manifest["figures"]["networks"]["hidden"] = sizes
                (folder / name).write_text(json.dumps(manifest))
                with pytest.raises(UserError, match=text):
                    learned.build(spec, learned.Options(str(folder)))
            continue
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(SnapshotError, match=text):
            learned.build(spec, learned.Options(str(folder)))


def test_what_cannot_be_exported_is_told(run, exported, tmp_path):
    with pytest.raises(UserError, match="there already"):
        policy_export.export(run[0], exported)
    with pytest.raises(UserError, match="holds no checkpoint"):
        policy_export.export(tmp_path, tmp_path / "out")
    saved = run[1].save()
    changed = {"agent": "sac", "task": "robot:cartpole", "options": OPTIONS, "contents": "of another cost"}
    agent_checkpoint.write(tmp_path / "changed", changed, agent_checkpoint.Progress(1, 1), saved)
    with pytest.raises(UserError, match="another cost than when this was learned"):
        policy_export.export(tmp_path / "changed", tmp_path / "out")
    for agent, task, text in (("sac", "Pendulum-v1", "is no robot"), ("planner", "robot:cartpole", "has no policy that"),
                              ("sac", "robot:acrobot", "still the robot"), ("dreamer", "robot:cartpole", "still the robot")):
        folder = tmp_path / f"{agent}-{task.replace(':', '-')}"
        agent_checkpoint.write(folder, {"agent": agent, "task": task, "options": {} if agent == "dreamer" else OPTIONS},
                               agent_checkpoint.Progress(1, 1), saved)
        with pytest.raises(UserError, match=text):
            policy_export.export(folder, tmp_path / "out")


@pytest.mark.usefixtures("one_thread")
def test_a_dreamer_is_exported_and_imagines_rows(tmp_path):
    task = robot_task("cartpole", "robot:cartpole", 3)
    options = {"version": "v1", "capacity": 100, "batch": 2, "length": 6, "prefill": 12}
    agent = parts.find("agents", "dreamer").build(task.spec, 0, parts.options("agents", "dreamer", options))
    observation = task.reset(0)
    for k in range(20):
        action = np.array([np.sin(k)], np.float32)
        outcome = task.step(action)
        agent.observe(Transition(observation, action, outcome.reward, outcome.observation, False, False))
        agent.learn()
        observation = outcome.observation
    identity = {"agent": "dreamer", "task": "robot:cartpole", "seed": 0, "repeat": 3, "options": options}
    agent_checkpoint.write(tmp_path / "run", identity, agent_checkpoint.Progress(60, 1), agent.save())
    assert policy_export.export(tmp_path / "run", tmp_path / "policy")["value"] is False
    spec = using(tmp_path / "policy", value=False)
    policy = learned.build(spec, learned.Options(str(tmp_path / "policy")))
    for mine, theirs in ((policy.rssm, agent.world.rssm), (policy.encoder, agent.world.encoder), (policy.actor, agent.behaviour.actor)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    core = PlannerCore(spec, ModelStore(tmp_path / "store"), 0)
    for k in range(12):
        now, sent_time = k * spec.tick_s, spec.tick_s * np.arange(-5, k)
        plan, _ = core.plan(PlanRequest(k, np.array([0.1, 2.0, 0.0, -1.0]), now, now, sent_time, np.zeros((len(sent_time), 1))))
    assert len(core.planner.sources[0].rows(PlanRequest(12, np.zeros(4), now, now, sent_time, np.zeros((len(sent_time), 1))))) == 3
    assert plan.verdict.name == "MET"
    with pytest.raises(UserError, match="critic judges latent states"):
        check_parts(using(tmp_path / "policy", value=True))
    other = RobotSpec.model_validate({**spec.model_dump(), "model_dt": 0.08})
    with pytest.raises(UserError, match=r"decides each 0.06 s.*steps of 0.08 s.*--repeat 4"):
        check_parts(other)
