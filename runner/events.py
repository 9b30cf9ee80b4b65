"""What a run tells whoever watches it. The runner prints nothing; it calls `on_event` with these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ReplicaReady:
    """A replica has loaded its model; `ready` of `total` have."""

    replica: str
    load_s: float
    cores: tuple[int, ...]
    ready: int
    total: int


@dataclass(frozen=True, slots=True)
class ReplicaEnded:
    """A replica ended by itself; its requests in flight have failed."""

    replica: str
    reason: str
    restarting: bool


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Where a run stands. `left_s` is the time left until its measured part ends (while draining: at most)."""

    phase: Literal["warm-up", "measuring", "draining"]
    left_s: float
    sent: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Listening:
    """The server takes requests."""

    url: str


Event = ReplicaReady | ReplicaEnded | RunProgress | Listening
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watch nothing."""
