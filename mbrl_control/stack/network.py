"""Topics stay on this machine unless told otherwise: robots of neighbours are not ours to move, nor ours theirs."""

from __future__ import annotations

from pathlib import Path

RANGE, PROFILE = "ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_DEFAULT_PROFILES_FILE"
LOOPBACK = Path(__file__).parent / "loopback.xml"


def stay_local(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a node that is found, and hears, on this machine only; what it says already about either stays.

    ROS's range LOCALHOST limits who is looked for, but Fast DDS still listens on all addresses; its profile binds it to loopback.

    Args:
        environment: variables of a process.

    Returns:
        The same with what was missing.
    """
    asked = {RANGE: "LOCALHOST"} | environment
    return {PROFILE: str(LOOPBACK)} | asked if asked[RANGE] == "LOCALHOST" else asked
