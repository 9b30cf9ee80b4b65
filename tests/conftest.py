"""Settings for every test: properties have no deadline, since test machines are shared and noisy.

CI tries the same examples every time, so that a red run is the change's doing; elsewhere they are new each time.
Tests of the modules in ALONE get the marker `alone`: `make test` runs them one after the other, the rest in two
processes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("inferplan", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "inferplan")

ALONE = (
    "cli/test_modalities.py",
    "cli/test_whole_way.py",
    "exporters/test_batching.py",
    "profilers/runtimes/test_executor.py",
    "profilers/runtimes/test_pytorch.py",
    "profilers/test_agenda.py",
    "profilers/test_campaign.py",
    "profilers/test_glances.py",
    "profilers/test_gpu_sensors.py",
    "profilers/test_interference.py",
    "profilers/test_processor.py",
    "profilers/test_sensors.py",
    "runner/",
    "sample_workloads/test_ocr_prepared.py",
    "sample_workloads/test_sentiment.py",
    "sample_workloads/test_smartwatch.py",
    "sample_workloads/test_stamps.py",
)
"""Rooms and modules that measure time, serve, take cores or look for processes: what runs beside them would show."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        if item.path.relative_to(tests).as_posix().startswith(ALONE):
            item.add_marker(pytest.mark.alone)
