"""`inferplan run`."""

from __future__ import annotations


def run() -> None:
    """Placeholder until the room is there."""
