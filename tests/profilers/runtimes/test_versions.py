"""Installed runtimes are told from package metadata."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from inferplan.profilers.runtimes.registry import runtime
from inferplan.profilers.runtimes.versions import InstalledPackage, runtime_versions


def test_installed_packages_have_the_version_that_the_runtime_says() -> None:
    found = runtime_versions()
    assert set(found) == {"onnxruntime", "torch"}
    for name, packages in found.items():
        if packages:
            assert any(runtime(name).version() == package.version for package in packages)


def test_packages_are_listed_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime": "1.20.0", "onnxruntime-gpu": "1.21.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert runtime_versions() == {
        "onnxruntime": (InstalledPackage("onnxruntime", "1.20.0"), InstalledPackage("onnxruntime-gpu", "1.21.0")),
        "torch": (),
    }


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from inferplan.profilers.runtimes.versions import runtime_versions; runtime_versions();"
        "print([n for n in ('torch', 'onnxruntime', 'numpy') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
