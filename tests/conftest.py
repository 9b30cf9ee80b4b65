"""Settings for every test: properties have no deadline, since test machines are shared and noisy.

CI tries the same examples every time, so that a red run is the change's doing; elsewhere they are new each time.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("inferplan", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "inferplan")
