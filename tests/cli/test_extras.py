"""A part that is not installed is one line that names the command to install it, never a finding or a traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DIGITS = Path(__file__).resolve().parents[2] / "sample_workloads" / "digits"
CONFIG = 'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: 8\n'


@pytest.mark.parametrize(
    ("missing", "verb", "extra"),
    [("onnx", "lint", "export"), ("tritonclient", "lint", "export"), ("onnxruntime", "profile", "cpu")],
)
def test_a_missing_part_is_named(tmp_path: Path, missing: str, verb: str, extra: str) -> None:
    model = tmp_path / "repository" / "m" / "1"
    model.mkdir(parents=True)
    shutil.copy(DIGITS / "models" / "linear.onnx", model / "model.onnx")
    (model.parent / "config.pbtxt").write_text(CONFIG)
    arguments = {
        "lint": ["lint", str(tmp_path / "repository")],
        "profile": ["profile", str(DIGITS), "--profile", str(tmp_path / "p"), "--dry-run"],
    }[verb]
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from inferplan.cli.main import run_command\nsys.exit(run_command({arguments!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip().splitlines()[-1].endswith(f"pip install 'inferplan[{extra}]'")
