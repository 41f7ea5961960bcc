"""Model snapshots on disk: written whole or not at all, verified before use."""

from mbrl_control.store.store import ModelStore

__all__ = ["ModelStore"]
