"""`inferplan serve`."""

from __future__ import annotations


def serve() -> None:
    """Placeholder until the room is there."""
