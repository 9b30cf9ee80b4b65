"""`inferplan profile`."""

from __future__ import annotations
