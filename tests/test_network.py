"""Topics stay on this machine unless told otherwise."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from mbrl_control.stack.network import LOOPBACK, MIDDLEWARE, PROFILE, RANGE, TRANSPORTS, stay_local

OURS = {RANGE: "SYSTEM_DEFAULT", PROFILE: str(LOOPBACK)}
UDP = {TRANSPORTS: "UDPv4"}


@pytest.mark.parametrize(("given", "wanted"), [
    ({"A": "b"}, {"A": "b"} | OURS),
    ({RANGE: "LOCALHOST"}, OURS),
    (OURS, OURS),
    ({RANGE: "LOCALHOST", PROFILE: str(LOOPBACK)}, OURS),
    ({RANGE: "SUBNET"}, {RANGE: "SUBNET"} | UDP),
    ({RANGE: "SUBNET", TRANSPORTS: "DEFAULT"}, {RANGE: "SUBNET", TRANSPORTS: "DEFAULT"}),
    ({PROFILE: "mine.xml"}, {RANGE: "LOCALHOST", PROFILE: "mine.xml"}),
    ({RANGE: "SUBNET", PROFILE: "mine.xml"}, {RANGE: "SUBNET", PROFILE: "mine.xml"}),
    ({MIDDLEWARE: "rmw_cyclonedds_cpp"}, {RANGE: "LOCALHOST", MIDDLEWARE: "rmw_cyclonedds_cpp"}),
    ({MIDDLEWARE: "rmw_fastrtps_cpp"}, {MIDDLEWARE: "rmw_fastrtps_cpp"} | OURS),
])
def test_what_is_said_stays_and_what_is_missing_keeps_to_this_machine(given, wanted):
    before = dict(given)
    assert stay_local(given) == wanted
    assert given == before


def test_the_profile_has_no_transport_but_loopback():
    space = {"d": "http://www.eprosima.com"}
    root = ET.parse(LOOPBACK).getroot()
    transports = {e.find("d:transport_id", space).text: e for e in root.iterfind(".//d:transport_descriptor", space)}
    assert {e.find("d:type", space).text for e in transports.values()} == {"UDPv4"}, "shared memory's locks outlive a kill -9"
    for what in ("interfaceWhiteList", *(f"{name}List/d:locator/d:udpv4" for name in ("initialPeers", "metatrafficUnicastLocator"))):
        assert [e.text for e in root.iterfind(f".//d:{what}/d:address", space)] == ["127.0.0.1"], what
    participant = root.find(".//d:participant", space)
    assert participant.get("is_default_profile") == "true"
    assert participant.find(".//d:useBuiltinTransports", space).text == "false"
    assert {e.text for e in participant.iterfind(".//d:userTransports/d:transport_id", space)} == set(transports)


def test_a_process_announces_itself_twice_a_second():
    """Whoever missed another's answer at its start finds it then; a successor must not take longer than a second."""
    parts = {element.tag.rpartition("}")[2]: element for element in ET.parse(LOOPBACK).getroot().iter()}
    period = {child.tag.rpartition("}")[2]: int(child.text) for child in parts["leaseAnnouncement"]}
    assert period["sec"] + 1e-9 * period["nanosec"] == 0.5
