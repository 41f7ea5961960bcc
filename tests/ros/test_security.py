"""Who may speak to the nodes: what their access policy grants, where their sockets are, what they refuse, and what Enforce does here."""

from __future__ import annotations

import ipaddress
import math
import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters, SetParametersAtomically

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "ros2_ws/src/mbrl_control_ros/config/security/policy.xml"
UNSECURED = b"Please compile Fast DDS using the -DSECURITY=ON CMake option"


def granted(enclave):
    """{publish, subscribe, reply, request: full names} of an enclave in the policy."""
    out = {"publish": set(), "subscribe": set(), "reply": set(), "request": set()}
    for profile in ET.parse(POLICY).getroot().findall(f"enclaves/enclave[@path='/mbrl/{enclave}']/profiles/profile"):
        assert (profile.get("ns"), profile.get("node")) == ("/", enclave)
        for group in profile:
            for what in out.keys() & group.keys():
                assert group.get(what) == "ALLOW"
                out[what] |= {f"/{enclave}{e.text[1:]}" if e.text.startswith("~") else f"/{e.text}" for e in group}
    return out


def used(probe, node):
    """The same, of a running node."""
    names = {"publish": probe.node.get_publisher_names_and_types_by_node, "subscribe": probe.node.get_subscriber_names_and_types_by_node,
             "reply": probe.node.get_service_names_and_types_by_node, "request": probe.node.get_client_names_and_types_by_node}
    return {what: {name for name, _ in ask(node, "/")} for what, ask in names.items()}


def test_the_policy_grants_each_node_what_it_uses_and_nothing_else(probe, start, tmp_path):
    run = f"run_dir:={tmp_path / 'run'}"
    start("controller_node", "robot:=cartpole", run, "autostart:=true", "check_fit:=false")
    start("recorder_node", "robot:=cartpole", run)
    start("sim_node", "robot:=cartpole")

    def agree(node):
        if node not in probe.node.get_node_names():
            return False
        uses, may = used(probe, node), granted(node)
        return all(uses[what] <= may[what] and may[what] - uses[what] <= {"/clock"} for what in may)  # /clock: with use_sim_time only

    for node in ("controller", "recorder", "sim"):
        probe.until(lambda node=node: agree(node), f"policy and topics of {node} to agree", 40.0)


def test_only_the_controller_may_command_and_only_the_robot_may_tell_its_state():
    enclaves = {e.get("path").removeprefix("/mbrl/"): None for e in ET.parse(POLICY).getroot().findall("enclaves/enclave")}
    assert set(enclaves) == {"controller", "trainer", "recorder", "sim", "operator"}
    only = {"/commands": "controller", "/mbrl/command": "controller", "/joint_states": "sim", "/estop": "operator",
            "/heartbeat": "operator"}
    assert {topic: {e for e in enclaves if topic in granted(e)["publish"]} for topic in only} == {t: {e} for t, e in only.items()}
    assert {e for e in enclaves if granted(e)["request"]} == {"operator"}
    assert not {n for n in granted("operator")["request"] if "set_parameters" in n}


def value_of(value):
    kinds = {bool: ("bool_value", ParameterType.PARAMETER_BOOL), int: ("integer_value", ParameterType.PARAMETER_INTEGER),
             float: ("double_value", ParameterType.PARAMETER_DOUBLE), str: ("string_value", ParameterType.PARAMETER_STRING)}
    name, kind = kinds[type(value)]
    return ParameterValue(type=kind, **{name: value})


@pytest.mark.fault(row=27)
@pytest.mark.fault(row=28)
@pytest.mark.parametrize(("module", "node"), [("controller_node", "controller"), ("recorder_node", "recorder"), ("sim_node", "sim")])
def test_no_parameter_can_be_changed_while_a_node_runs(probe, start, tmp_path, record_property, module, node):
    run = [f"run_dir:={tmp_path / 'run'}"] if module != "sim_node" else []
    process = start(module, "robot:=cartpole", *run)
    names = probe.call(ListParameters, f"{node}/list_parameters", ListParameters.Request()).result.names
    assert {"robot", "use_sim_time"} <= set(names)
    values = probe.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names)).values
    tries = [Parameter(name=n, value=value_of(v)) for n in names for v in (True, 7, -1, 1e308, math.nan, "x" * 1000)]
    tries.append(Parameter(name="never_declared", value=value_of(1)))
    answers = probe.call(SetParameters, f"{node}/set_parameters", SetParameters.Request(parameters=tries)).results
    assert len(answers) == len(tries)
    wrong = [t.name for t, a in zip(tries, answers, strict=True) if a.successful or not a.reason]
    assert wrong == []
    request = SetParametersAtomically.Request(parameters=tries[:3])
    assert not probe.call(SetParametersAtomically, f"{node}/set_parameters_atomically", request).result.successful
    assert probe.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names)).values == values
    assert process.process.poll() is None
    record_property("measured", f"{node}: {len(tries)} changes of {len(names)} parameters refused with a reason")


def udp_addresses(pid):
    """Local addresses of a process's UDP sockets, v4 and v6."""
    links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
    own = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    out = []
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in own:
                address, port = fields[1].split(":")
                words = [int(address[i:i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(address), 8)]
                out.append((ipaddress.ip_address(b"".join(words)), int(port, 16)))
    return out


@pytest.mark.fault(row=27)
def test_a_node_listens_on_loopback_only(probe, start, record_property):
    node = start("sim_node", "robot:=cartpole")
    probe.until(lambda: "sim" in probe.node.get_node_names(), "the node")
    first = 7400 + 250 * probe.context.get_domain_id()  # DDS listens at ports from here on, by domain; other sockets only send
    sockets = udp_addresses(node.process.pid)
    listening = {str(address) for address, port in sockets if first <= port < first + 250}
    assert listening == {"127.0.0.1"}, sockets
    assert len([port for _, port in sockets if first <= port < first + 250]) >= 2
    record_property("measured", f"ports {first} to {first + 249} are bound to {', '.join(sorted(listening))}")


@pytest.fixture
def keystore(tmp_path):
    """As much of a keystore as ROS 2 looks at before DDS is asked to be secure."""
    (tmp_path / "keystore/enclaves/mbrl/sim").mkdir(parents=True)
    return {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce", "ROS_SECURITY_KEYSTORE": str(tmp_path / "keystore")}


def test_a_node_asked_for_keys_that_are_not_there_does_not_start(start, keystore):
    node = start("sim_node", "robot:=cartpole", extra=("--enclave", "/nobody"), env=keystore)
    assert node.process.wait(20.0) == 2
    assert node.output.count("does not start") == 1
    assert "/nobody" in node.output
    assert "Traceback" not in node.output


@pytest.mark.fault(row=27)
def test_without_security_in_fast_dds_enforce_lets_nothing_start(probe, start, keystore, record_property):
    """The wheels' Fast DDS is built without it: who enforces gets no node at all, never one that is open. With it: docs/security.md."""
    (library,) = {line.split()[-1] for line in loaded_libraries() if "librmw_fastrtps_shared_cpp" in line} or {""}
    if not library or UNSECURED not in Path(library).read_bytes():
        pytest.skip("this installation's middleware has DDS security; docs/security.md tells how to check Enforce with it")
    node = start("sim_node", "robot:=cartpole", extra=("--enclave", "/mbrl/sim"), env=keystore)
    assert node.process.wait(20.0) == 2
    assert "does not start" in node.output
    assert "doesn't have the security libraries" in node.output
    assert "Traceback" not in node.output
    record_property("measured", "Enforce on a middleware without security: the node does not start")


def loaded_libraries():
    """Lines of this process's memory map; rclpy has loaded its middleware by the fixtures of this page."""
    return Path("/proc/self/maps").read_text().splitlines()
