"""Topics stay on this machine unless told otherwise: robots of neighbours are not ours to move, nor ours theirs."""

from __future__ import annotations

from pathlib import Path

RANGE, LOCAL, UNTOUCHED = "ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST", "SYSTEM_DEFAULT"
PROFILE, TRANSPORTS = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"
MIDDLEWARE, FAST_DDS = "RMW_IMPLEMENTATION", "rmw_fastrtps"
LOOPBACK = Path(__file__).parent / "loopback.xml"


def stay_local(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a node that is found, and hears, on this machine only; where something else is asked for, that stays.

    With ROS's range LOCALHOST Fast DDS still listens on all addresses, and ROS adds shared memory to whatever a profile says. The locks
    in that memory are the processes' in common: one that is killed while it holds one makes others wait, for ever at the worst. So the
    profile, which binds to loopback and looks for peers there, takes the place of the range.

    Args:
        environment: variables of a process.

    Returns:
        The same with what was missing.
    """
    if environment.get(RANGE, LOCAL) != LOCAL:
        return environment if environment.get(PROFILE) else {TRANSPORTS: "UDPv4"} | environment
    own_profile = environment.get(PROFILE, str(LOOPBACK)) != str(LOOPBACK)
    if own_profile or not environment.get(MIDDLEWARE, FAST_DDS).startswith(FAST_DDS):
        return environment | {RANGE: LOCAL}
    return environment | {RANGE: UNTOUCHED, PROFILE: str(LOOPBACK)}
