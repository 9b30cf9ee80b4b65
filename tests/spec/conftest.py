"""A small valid workload on disk, to be broken in one place at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WORKLOAD = """\
apiVersion: inferplan/v1
name: shop
pipeline:
  stages:
    find:
      code: stages:Find
      metric: {name: recall}
      variants:
        small: {model: small.onnx}
        large: {model: large.onnx, precision: fp32, params: {side: 320}}
    read:
      metric: {name: top1}
      variants:
        only: {model: only.onnx}
        none: {runtime: skip}
  edges:
    - {from: find, to: read, fan_out: 3}
tiers:
  edge:
    devices:
      cpu: {price_usd_per_h: 0.1, cores: 2, reserved_cores: 1, count: 3}
classes:
  web:
    rate_rps: 40
    slo: {percentile: 99, latency_s: 0.2}
    accuracy: {floor: 0.8}
accuracy:
  metric: {name: top1}
  composition: product
"""


@pytest.fixture
def write_workload(tmp_path: Path) -> Callable[..., Path]:
    """Writes the workload with replacements applied, and the files it names."""

    def write(*replacements: tuple[str, str]) -> Path:
        text = WORKLOAD
        for old, new in replacements:
            assert old in text, f"{old!r} is not in the workload"
            text = text.replace(old, new, 1)
        for name in ("small", "large", "only"):
            (tmp_path / f"{name}.onnx").write_bytes(b"model " + name.encode())
        (tmp_path / "stages.py").write_text("class Find:\n    def __init__(self, context): ...\n")
        path = tmp_path / "workload.yaml"
        path.write_text(text)
        return path

    return write
