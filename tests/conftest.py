"""Settings for every test: properties have no deadline, since test machines are shared and noisy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("inferplan", deadline=None)
settings.load_profile("inferplan")
