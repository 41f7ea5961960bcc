"""Topics stay on this machine unless told otherwise."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from mbrl_control.stack.network import LOOPBACK, PROFILE, RANGE, stay_local


@pytest.mark.parametrize(("given", "wanted"), [
    ({"A": "b"}, {"A": "b", RANGE: "LOCALHOST", PROFILE: str(LOOPBACK)}),
    ({RANGE: "LOCALHOST"}, {RANGE: "LOCALHOST", PROFILE: str(LOOPBACK)}),
    ({RANGE: "SUBNET"}, {RANGE: "SUBNET"}),
    ({PROFILE: "mine.xml"}, {RANGE: "LOCALHOST", PROFILE: "mine.xml"}),
    ({RANGE: "SUBNET", PROFILE: "mine.xml"}, {RANGE: "SUBNET", PROFILE: "mine.xml"}),
])
def test_what_is_said_stays_and_what_is_missing_keeps_to_this_machine(given, wanted):
    before = dict(given)
    assert stay_local(given) == wanted
    assert given == before


def test_the_profile_has_no_transport_but_shared_memory_and_loopback():
    space = {"d": "http://www.eprosima.com"}
    root = ET.parse(LOOPBACK).getroot()
    transports = {e.find("d:transport_id", space).text: e for e in root.iterfind(".//d:transport_descriptor", space)}
    assert {e.find("d:type", space).text for e in transports.values()} == {"SHM", "UDPv4"}
    assert [e.text for e in root.iterfind(".//d:interfaceWhiteList/d:address", space)] == ["127.0.0.1"]
    participant = root.find(".//d:participant", space)
    assert participant.get("is_default_profile") == "true"
    assert participant.find(".//d:useBuiltinTransports", space).text == "false"
    assert {e.text for e in participant.iterfind(".//d:userTransports/d:transport_id", space)} == set(transports)
