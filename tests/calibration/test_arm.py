"""Arms from an MJCF or a URDF: efforts as MuJoCo's own, the fewest parameters that explain them, and the way back to bodies."""

import mujoco
import numpy as np
import pytest

from mbrl_calibration import base_parameters, inertials, kinematics, mechanism, mjcf_inertials
from mbrl_calibration.mechanisms import arm
from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.models import mjcf

SHIPPED = ("pendulum", "cartpole", "double_pendulum", "arm7")

# Two joints in one body, a slide with an axis of its own, a branch, a welded tip, tilted inertias, half of a body's weight compensated.
CRANE = """
<mujoco><option gravity="0.3 -0.2 -9.7"/><compiler angle="radian"/>
<worldbody><body name="mast" pos="0.1 0.2 0.3" quat="0.9 0.1 -0.3 0.2">
  <inertial pos="0.1 0.02 -0.1" quat="0.8 0.1 0.5 0.1" mass="2" diaginertia="0.03 0.04 0.05"/>
  <joint name="yaw" axis="0 0 1" pos="0.05 0 0.1" armature="0.02" damping="0.1"/>
  <joint name="tilt" axis="0.6 0 0.8" pos="-0.02 0.1 0" ref="0.3" damping="0.2"/>
  <body name="boom" pos="0.3 0 0.1" quat="0.7 0.7 0 0.1" gravcomp="0.5">
    <inertial pos="0 0.2 0.1" mass="1.2" fullinertia="0.02 0.03 0.04 0.002 0.001 -0.003"/>
    <joint name="reach" type="slide" axis="0 0.8 -0.6" pos="0.1 0 0" armature="0.3" damping="3"/>
    <body name="hook" pos="0 0 -0.2" gravcomp="0.5"><inertial pos="0.01 0 0" mass="0.4" diaginertia="0.002 0.002 0.003"/></body>
  </body>
  <body name="counterweight" pos="-0.2 0 0"><joint name="swing" axis="0 1 0"/>
    <inertial pos="0 0 -0.2" mass="0.8" diaginertia="0.01 0.012 0.008"/></body>
</body></worldbody>
<tendon><fixed name="belt" armature="0.05"><joint joint="yaw" coef="1"/><joint joint="swing" coef="-2"/></fixed></tendon>
<actuator><motor name="m1" joint="yaw" gear="3"/><motor name="m2" tendon="belt" gear="2"/></actuator></mujoco>
"""

URDF = """
<robot name="two">
  <link name="base"/>
  <link name="upper"><inertial><origin xyz="0 0.01 -0.2" rpy="0.1 0.2 0.3"/><mass value="1.5"/>
    <inertia ixx="0.02" ixy="0.001" ixz="0" iyy="0.021" iyz="0.0005" izz="0.004"/></inertial></link>
  <link name="lower"><inertial><origin xyz="0 0 -0.15"/><mass value="0.7"/>
    <inertia ixx="0.006" ixy="0" ixz="0" iyy="0.006" iyz="0" izz="0.001"/></inertial></link>
  <link name="tool"><inertial><mass value="0.2"/><inertia ixx="0.001" ixy="0" ixz="0" iyy="0.001" iyz="0" izz="0.001"/></inertial></link>
  <joint name="shoulder" type="continuous"><parent link="base"/><child link="upper"/><axis xyz="0 1 0"/><origin xyz="0 0 1"/>
    <dynamics damping="0.05" friction="0.2"/></joint>
  <joint name="elbow" type="revolute"><parent link="upper"/><child link="lower"/><axis xyz="0 1 0"/><origin xyz="0 0 -0.4" rpy="0 0 0.2"/>
    <limit lower="-2" upper="2" effort="10" velocity="5"/></joint>
  <joint name="mount" type="fixed"><parent link="lower"/><child link="tool"/><origin xyz="0 0 -0.3"/></joint>
</robot>
"""


def shipped(name):
    return mujoco.MjModel.from_xml_path(str(mjcf.assets() / f"{name}.xml"))


def models(tmp_path):
    (tmp_path / "two.urdf").write_text(URDF)
    return {**{name: shipped(name) for name in SHIPPED}, "crane": mujoco.MjModel.from_xml_string(CRANE),
            "urdf": mujoco.MjModel.from_xml_path(str(tmp_path / "two.urdf"))}


def inverse(model, q, v, a):
    """MuJoCo's own inverse dynamics without stops and dry friction."""
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONSTRAINT
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.qacc[:] = q, v, a
    mujoco.mj_inverse(model, data)
    return data.qfrc_inverse.copy()


@pytest.mark.parametrize("name", [*SHIPPED, "crane", "urdf"])
def test_efforts_are_mujocos(tmp_path, name):
    model, rng = models(tmp_path)[name], np.random.default_rng(0)
    tree = kinematics.read(model)
    table = kinematics.regressor(tree)
    assert tree.count == model.nv
    for _ in range(30):
        q, v, a = base_parameters.sample(tree, rng)
        np.testing.assert_allclose(np.array(table(q, v, a)) @ tree.standard + tree.damping * v, inverse(model, q, v, a), atol=1e-8)


def columns(text_or_path, rng):
    """Efforts' changes [M, N] with each body's mass, centre and inertia and each rotor, of a numeric regressor that MuJoCo alone makes."""
    def fresh():
        return mujoco.MjSpec.from_string(text_or_path) if "<" in str(text_or_path) else mujoco.MjSpec.from_file(str(text_or_path))

    plain = fresh().compile()
    motions = [tuple(rng.normal(size=(3, plain.nv))) for _ in range(30)]

    def efforts(change):
        edited = fresh()
        edited.compile()
        for body in edited.bodies:
            if body.id and plain.body_weldid[body.id]:
                body.mass, body.ipos, body.iquat = plain.body_mass[body.id], plain.body_ipos[body.id], [1, 0, 0, 0]
                about = np.zeros(9)
                mujoco.mju_quat2Mat(about, plain.body_iquat[body.id])
                turn = about.reshape(3, 3)
                full = turn @ np.diag(plain.body_inertia[body.id]) @ turn.T
                body.fullinertia = [full[0, 0], full[1, 1], full[2, 2], full[0, 1], full[0, 2], full[1, 2]]
                body.inertia, body.explicitinertial = np.zeros(3), True
        change(edited)
        model = edited.compile()
        return np.concatenate([inverse(model, *motion) for motion in motions])

    changes = []
    for b in [b for b in range(1, plain.nbody) if plain.body_weldid[b]]:
        for k in range(10):
            def change(edited, b=b, k=k):
                body = next(one for one in edited.bodies if one.id == b)
                if k == 0:
                    body.mass *= 1.1
                elif k < 4:
                    body.ipos = np.array(body.ipos) + 0.03 * np.eye(3)[k - 1]
                else:
                    body.fullinertia = np.array(body.fullinertia) + 0.01 * plain.body_inertia[b].min() * np.eye(6)[k - 4]
            changes.append(change)
    for j in range(plain.njnt):
        def turn_rotor(edited, j=j):
            next(one for one in edited.joints if one.id == j).armature += 0.1
        changes.append(turn_rotor)
    for name in [plain.tendon(t).name for t in range(plain.ntendon)]:
        def turn_tendon(edited, name=name):
            edited.tendon(name).armature += 0.1
        changes.append(turn_tendon)
    before = efforts(lambda edited: None)
    return np.stack([efforts(change) - before for change in changes], axis=1)


@pytest.mark.parametrize(("name", "count"), [("pendulum", 3), ("cartpole", 4), ("double_pendulum", 7), ("arm7", 44), ("crane", None)])
def test_as_many_base_parameters_as_mujocos_efforts_have_independent_directions(name, count):
    source = CRANE if name == "crane" else mjcf.assets() / f"{name}.xml"
    y = columns(source, np.random.default_rng(1))
    size = np.linalg.norm(y, axis=0)
    values = np.linalg.svd(y[:, size > 1e-9] / size[size > 1e-9], compute_uv=False)
    rank = int((values > 1e-6 * values[0]).sum())
    tree = kinematics.read(mujoco.MjModel.from_xml_string(CRANE) if name == "crane" else shipped(name))
    found = base_parameters.find(tree, np.random.default_rng(2))
    assert len(found.chosen) == rank
    assert count in (None, rank)


def test_a_planar_double_pendulum_regroups_as_on_paper():
    """Its second mass joins the first link's inertia and moment: J1 + m2 l1^2 + rotor, m1 r1 + m2 l1 (see the shipped MJCF: l1 = 0.2 m)."""
    found = base_parameters.find(kinematics.read(shipped("double_pendulum")), np.random.default_rng(0))
    first = dict(zip(found.standard, found.regroup[found.names.index("link1.Iyy")], strict=True))
    moment = dict(zip(found.standard, found.regroup[found.names.index("link1.mz")], strict=True))
    assert first["link2.m"] == pytest.approx(0.2**2, abs=1e-9)
    assert first["shoulder.armature"] == pytest.approx(1, abs=1e-9)
    assert moment["link2.m"] == pytest.approx(-0.2, abs=1e-9)
    assert found.meaning(found.names.index("link1.mz")) == "link1.mz - 0.2 link2.m"
    assert {"link1.Ixx", "link2.Izz", "link1.my"} <= set(found.without_effect)


@pytest.mark.parametrize("name", ["double_pendulum", "arm7", "crane", "urdf"])
def test_base_parameters_come_back_from_efforts(tmp_path, name):
    model, rng = models(tmp_path)[name], np.random.default_rng(3)
    tree = kinematics.read(model)
    found = base_parameters.find(tree, rng)
    table, motions = kinematics.regressor(tree), [base_parameters.sample(tree, rng) for _ in range(150)]
    y = np.vstack([np.array(table(*one))[:, found.chosen] for one in motions])
    told = np.concatenate([inverse(model, q, v, a) - tree.damping * v for q, v, a in motions])
    fitted = np.linalg.lstsq(y, told, rcond=None)[0]
    np.testing.assert_allclose(fitted, found.regroup @ tree.standard, atol=1e-6)


def test_pseudo_inertia_is_that_of_a_box():
    """Second moments of a uniform box about its centre are m d^2 / 12; it can be built, and nothing with a negative one can."""
    m, d = 3.0, np.array([0.2, 0.3, 0.5])
    inertia = np.diag(m / 12 * np.array([d[1] ** 2 + d[2] ** 2, d[0] ** 2 + d[2] ** 2, d[0] ** 2 + d[1] ** 2]))
    box = kinematics.packed(m, np.zeros(3), inertia)
    np.testing.assert_allclose(inertials.pseudo_inertia(box), np.diag([*(m * d**2 / 12), m]), atol=1e-12)
    assert inertials.buildable(box)
    assert not inertials.buildable(box * np.array([3, 1, 1, 1, 1, 1, 1, 1, 1, 1]))  # Ixx > Iyy + Izz
    assert not inertials.buildable(-box)


def other_arm(tree, rng, size=0.3):
    """Bodies that can be built, each a random affine image of the file's: J -> T J T'."""
    bodies = []
    for body in tree.inertial:
        turn = np.eye(4) + size * np.pad(rng.uniform(-1, 1, (3, 3)), (0, 1))
        j = np.exp(size * rng.uniform(-1, 1)) * turn @ inertials.pseudo_inertia(body) @ turn.T
        about = np.trace(j[:3, :3]) * np.eye(3) - j[:3, :3]
        bodies.append([*about[np.triu_indices(3)], *j[:3, 3], j[3, 3]])
    rotors = np.concatenate((tree.rotor, tree.tendon_rotor)) * rng.uniform(0.7, 1.3, tree.count + len(tree.tendons))
    return np.concatenate((np.ravel(bodies), rotors))


@pytest.mark.parametrize("name", ["pendulum", "cartpole", "double_pendulum", "arm7"])
def test_bodies_with_given_base_parameters_can_be_built_and_move_alike(name):
    tree, rng = kinematics.read(shipped(name)), np.random.default_rng(4)
    found = base_parameters.find(tree, rng)
    truth = other_arm(tree, rng)
    back = inertials.consistent(tree.standard, len(tree.carrying), found, found.regroup @ truth)
    scale = np.abs(found.regroup) @ np.abs(truth)
    np.testing.assert_allclose(found.regroup @ back / scale, found.regroup @ truth / scale, atol=1e-7)
    assert all(inertials.buildable(body) for body in back[:10 * len(tree.carrying)].reshape(-1, 10))
    assert (back[10 * len(tree.carrying):] >= 0).all()
    q, v, a = base_parameters.sample(tree, rng)
    table = np.array(kinematics.regressor(tree)(q, v, a))
    np.testing.assert_allclose(table @ back, table @ truth, atol=1e-6 * np.abs(table @ truth).max())


def test_known_bodies_are_the_closest_to_themselves():
    tree = kinematics.read(shipped("arm7"))
    found = base_parameters.find(tree, np.random.default_rng(0))
    back = inertials.consistent(tree.standard, len(tree.carrying), found, found.regroup @ tree.standard)
    np.testing.assert_allclose(back, tree.standard, atol=1e-9)


def test_what_cannot_be_built_is_refused_and_met_as_far_as_it_is_certain():
    tree = kinematics.read(shipped("double_pendulum"))
    found = base_parameters.find(tree, np.random.default_rng(0))
    wrong = found.regroup @ tree.standard
    wrong[found.names.index("link2.Iyy")] = -0.01  # no inertia about the elbow is negative
    with pytest.raises(UserError, match="no bodies of positive mass"):
        inertials.consistent(tree.standard, 2, found, wrong)
    sure = np.diag(1 / (0.001 * np.abs(found.regroup @ tree.standard) + 1e-6) ** 2)
    near = inertials.consistent(tree.standard, 2, found, wrong, sure)
    assert all(inertials.buildable(body) for body in near[:20].reshape(-1, 10))
    assert (found.regroup @ near)[found.names.index("link2.Iyy")] < 0.5 * tree.inertial[1, 3]
    wrong = found.regroup @ tree.standard
    right = inertials.consistent(tree.standard, 2, found, 1.05 * wrong, sure)
    np.testing.assert_allclose(found.regroup @ right, 1.05 * wrong, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("name", ["double_pendulum", "arm7", "crane", "urdf"])
def test_identified_bodies_are_written_to_an_mjcf_that_moves_alike(tmp_path, name):
    path = mjcf.assets() / f"{name}.xml"
    if name in ("crane", "urdf"):
        path = tmp_path / ("crane.xml" if name == "crane" else "two.urdf")
        path.write_text(CRANE if name == "crane" else URDF)
    tree, rng = kinematics.read(mjcf.read(path)), np.random.default_rng(5)
    standard = other_arm(tree, rng)
    other = tree.with_values(standard, 1.3 * tree.damping, tree.dry + 0.1)
    mjcf_inertials.save(path, other, tmp_path / "new.xml")
    for model, exact in ((mjcf_inertials.compiled(path, other), 1e-9), (mjcf.read(tmp_path / "new.xml"), 1e-4)):
        again = kinematics.read(model)
        np.testing.assert_allclose(again.dry, other.dry, rtol=1e-5)
        q, v, a = base_parameters.sample(tree, rng)
        wanted = np.array(kinematics.regressor(tree)(q, v, a)) @ standard + other.damping * v
        np.testing.assert_allclose(inverse(model, q, v, a), wanted, atol=exact * np.abs(wanted).max())
    with pytest.raises(UserError, match="exists already"):
        mjcf_inertials.save(path, other, tmp_path / "new.xml")


def spec_of(name="arm7", **nominal):
    data = robot.load(name).model_dump(exclude_unset=True)
    return robot.RobotSpec.model_validate({**data, "nominal": {"system": "arm", **nominal}})


def test_an_arm_is_a_mechanism():
    """Its equations accelerate as MuJoCo does under the same commands, from signals in whatever order."""
    spec = spec_of()
    turned = spec.model_dump(exclude_unset=True)
    turned["state"] = turned["state"][::-1]
    spec = robot.RobotSpec.model_validate(turned)
    m, model, rng = mechanism.build(spec), shipped("arm7"), np.random.default_rng(6)
    assert m.driven.all()
    assert [spec.state_names[i] for i in m.positions] == [f"q{i}" for i in range(1, 8)]
    q, v, u = 0.5 * rng.standard_normal((3, 7))
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = q, v, u
    mujoco.mj_forward(model, data)
    rate = np.array(mechanism.forward(m, 7)(np.concatenate((q, v)), u, m.start)).ravel()
    np.testing.assert_allclose(rate, np.concatenate((v, data.qacc)), atol=1e-6)
    assert all(float(value) > 0 for value in m.feasible(m.named(m.start)))
    assert min(float(value) for value in m.feasible({**m.named(m.start), "link1.Izz": -1.0})) < 0


def test_an_arms_efforts_are_linear_and_agree_with_the_hand_written_double_pendulum():
    spec = spec_of("acrobot")
    read = mechanism.build(spec)
    data = {**spec.model_dump(exclude_unset=True), "nominal": {"system": "double_pendulum"}}
    hand = mechanism.build(robot.RobotSpec.model_validate(data))
    y, rng = mechanism.regressor(read, spec.action_dim), np.random.default_rng(7)
    for _ in range(5):
        q, v, a = rng.normal(size=(3, 2))
        u = np.zeros(spec.action_dim)
        table, known = y(q, v, a, u)
        mine, theirs = (np.array(mechanism.effort_function(one)(q, v, a, one.start)) for one in (read, hand))
        np.testing.assert_allclose(np.array(table) @ read.start[:, None] - np.array(known), mine, atol=1e-12)
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_found_parameters_go_to_the_robots_yaml_and_come_back():
    spec = spec_of("acrobot")
    m = mechanism.build(spec)
    values = dict(zip(m.names, m.start * 1.1, strict=True))
    again = mechanism.build(spec_of("acrobot", parameters=m.system(values)))
    np.testing.assert_allclose(again.start, m.start * 1.1, rtol=1e-6, atol=1e-9)


def test_parameters_that_noise_made_impossible_are_met_as_nearly_as_can_be_built():
    one, m = arm.read(spec_of()), arm.build(spec_of())
    values = {**dict(zip(m.names, m.start, strict=True)), "link7.Izz": -1e-4}
    with pytest.raises(UserError, match="no bodies of positive mass"):
        one.physical(values)
    near = one.nearest(values)
    assert all(inertials.buildable(body) for body in near.inertial)
    found = dict(zip(one.base.names, one.base.regroup @ near.standard, strict=True))
    assert 0 < found["link7.Izz"] < 2e-4
    size = dict(zip(one.base.names, np.abs(one.base.regroup) @ np.abs(one.tree.standard), strict=True))
    others = [name for name in one.base.names if not name.startswith("link7")]
    assert all(abs(found[name] - values[name]) < 0.01 * size[name] + 2e-4 for name in others)
    assert m.system(values)["link7.Izz"] == pytest.approx(near.inertial[6, 5])


def test_an_mjcf_is_saved_from_found_parameters(tmp_path):
    one, m = arm.read(spec_of()), arm.build(spec_of())
    values = {**dict(zip(m.names, m.start, strict=True)), "joint3.dry": 0.2}
    arm.twin(spec_of(), one, values, tmp_path / "arm.xml")
    model = mujoco.MjModel.from_xml_path(str(tmp_path / "arm.xml"))
    assert model.dof_frictionloss[2] == pytest.approx(0.2 * np.pi / 2, rel=1e-5)
    np.testing.assert_allclose(model.body_mass[1:], shipped("arm7").body_mass[1:], rtol=1e-5)


def test_a_twin_is_simulated_as_the_equations_found_it(tmp_path):
    """With a gear that was changed before, and masses that were too: the new section changes the gear alone."""
    from mbrl_sim.plant import MujocoPlant

    data = spec_of("acrobot").model_dump(exclude_unset=True)
    spec = robot.RobotSpec.model_validate({**data, "sim": {**data["sim"], "changes": {"gear:elbow": 0.5, "mass:link1": 1.2}}})
    one, m = arm.read(spec), arm.build(spec)
    frictionless = {f"{joint}.dry": 0.0 for joint in ("shoulder", "elbow")}
    values = {**dict(zip(m.names, 1.05 * m.start, strict=True)), **frictionless}
    sim = arm.twin(spec, one, values, tmp_path / "found.xml")
    plant = MujocoPlant(spec.model_copy(update={"sim": sim}), tmp_path, 1e-3)
    state, u = np.array([0.3, -0.5, 0.7, 1.0]), np.array([2.0])
    plant.place(state)
    p = np.array([values[name] for name in m.names])
    rate = np.array(mechanism.forward(m, 1)(state, u, p)).ravel()
    np.testing.assert_allclose((plant.step(u, 0.001) - state) / 0.001, rate + 0.0005 * np.array([rate[2], rate[3], 0, 0]), rtol=0.05)


@pytest.mark.parametrize(("old", "new", "said"), [
    ('<joint name="swing" axis="0 1 0"/>', '<joint name="swing" type="ball"/>', "free or ball"),
    ('<joint name="swing"', '<joint stiffness="2" name="swing"', "springs"),
    ('gravity="0.3', 'density="1000" gravity="0.3', "fluid"),
    ('<body name="hook" pos="0 0 -0.2" gravcomp="0.5">', '<body name="hook" pos="0 0 -0.2">', "differ in `gravcomp`"),
    ('<fixed name="belt" armature', '<fixed name="belt" stiffness="3" armature', "tendons"),
])
def test_what_the_equations_do_not_know_is_refused(old, new, said):
    assert old in CRANE
    text = CRANE.replace(old, new)
    if "ball" in new:
        text = text.replace('<joint joint="swing" coef="-2"/>', "")
    with pytest.raises(UserError, match=said):
        kinematics.read(mujoco.MjModel.from_xml_string(text))


def test_drives_push_at_joints_and_fixed_tendons():
    model = mujoco.MjModel.from_xml_string(CRANE)
    np.testing.assert_allclose(kinematics.inputs(model, np.array([1, 0])), [[2, 3], [0, 0], [0, 0], [-4, 0]])
    text = CRANE.replace('<motor name="m1" joint="yaw" gear="3"/>', '<position name="m1" joint="yaw" kp="9"/>')
    servo = mujoco.MjModel.from_xml_string(text)
    with pytest.raises(UserError, match="'m1' is no plain motor"):
        kinematics.inputs(servo, np.array([0]))


def test_a_urdf_is_a_robot_with_a_motor_at_each_joint(tmp_path):
    (tmp_path / "two.urdf").write_text(URDF)
    signals = [{"name": f"{j}_{f}", "joint": j, "field": f, "unit": u} for f, u in (("position", "rad"), ("velocity", "rad/s"))
               for j in ("elbow", "shoulder")]
    spec = robot.RobotSpec.model_validate({
        "name": "two", "state": signals, "cost": {"kind": "quadratic"}, "nominal": {"system": "arm"},
        "command": [{"name": "torque", "joint": "elbow", "unit": "N*m", "limits": [-10, 10]}],
        "sim": {"mjcf": "two.urdf", "actuators": ["elbow"]}})
    one = arm.read(spec, tmp_path)
    np.testing.assert_array_equal(one.inputs, [[0], [1]])
    np.testing.assert_array_equal(one.positions, [1, 0])
    np.testing.assert_allclose([one.tree.damping[0], one.tree.dry[0]], [0.05, 0.2])
    assert one.tree.inertial[1, 9] == pytest.approx(0.9)  # lower arm and the tool mounted on it
    too_strong = spec.model_copy(update={"command": [spec.command[0].model_copy(update={"limits": (-11.0, 11.0)})]})
    with pytest.raises(UserError, match=r"ctrlrange is \[-10, 10\]"):
        arm.read(too_strong, tmp_path)


def test_wrong_keys_are_told():
    with pytest.raises(UserError, match=r"no parameter 'link2.mass'; nearest: 'link2.m'"):
        arm.read(spec_of(parameters={"link2.mass": 1.0}))
    with pytest.raises(UserError, match="found by name"):
        arm.read(spec_of(states=["q1"] * 14))
