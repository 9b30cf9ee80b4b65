"""Progress on stderr: one live line on a terminal, now and then a line when piped."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

QUIET_S = 10.0
"""Least time between two lines where there is no terminal."""


class Progress:
    """Shows what is being done. Results go to stdout and are not touched."""

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._status: Status | None = None
        self._last_s = float("-inf")

    def __enter__(self) -> Progress:
        if self._enabled and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, text: str) -> None:
        """Show `text` as the present state; replaces the one before."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(text, overflow="ellipsis", no_wrap=True))
        elif self._enabled and time.monotonic() - self._last_s >= QUIET_S:
            self._last_s = time.monotonic()
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        if self._status is not None:
            from rich.text import Text

            self._status.console.print(Text(text))
        elif self._enabled:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
