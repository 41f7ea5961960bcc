"""Fit, gate, publish: synchronous in lockstep, asynchronous beside a robot."""
