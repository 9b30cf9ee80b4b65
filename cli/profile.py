"""`inferplan profile`."""

from __future__ import annotations


def profile() -> None:
    """Placeholder until the room is there."""
