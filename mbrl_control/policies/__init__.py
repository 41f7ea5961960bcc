"""Learned behaviour: actors, critics and their targets."""
