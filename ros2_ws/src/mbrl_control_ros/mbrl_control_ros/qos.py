"""Quality of service of every topic, and why."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _keep_last(depth: int, reliability: ReliabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=DurabilityPolicy.VOLATILE)


NEWEST = _keep_last(1, ReliabilityPolicy.BEST_EFFORT)
"""Subscriptions that act on the newest value. A best-effort subscription matches every publisher; no deadline or
liveliness is asked for, because a publisher that offers none would not match at all."""

STATE = _keep_last(10, ReliabilityPolicy.BEST_EFFORT)
"""The controller on the robot's states: a wrong message from somebody must not push the true one out before it is read."""

OPERATOR = _keep_last(10, ReliabilityPolicy.BEST_EFFORT)
"""The controller on the emergency stop and the heartbeat: matches every publisher, and a release must not push the press out unread."""

COMMAND = _keep_last(1, ReliabilityPolicy.RELIABLE)
"""Commands sent. Reliable matches both kinds of subscription; never latched, so that no late joiner gets an old command."""

STREAM = _keep_last(10, ReliabilityPolicy.RELIABLE)
"""State, clock, introspection and diagnostics sent: reliable matches both kinds of subscription."""

EVERY = _keep_last(1000, ReliabilityPolicy.BEST_EFFORT)
"""The recorder on the robot's states: matches every publisher, and deep enough that a slow moment loses nothing."""

EVERY_OWN = _keep_last(1000, ReliabilityPolicy.RELIABLE)
"""The recorder on what this package's controller sends, which is known to be reliable: lost samples are sent again."""
