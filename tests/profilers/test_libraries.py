"""Installed runtimes: which package they are from, what they list, what is wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from inferplan.profilers.libraries import installed_libraries, warnings, with_providers
from inferplan.spec.inventory import Distribution, Library

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Pretends that these packages, and no others, are installed; `built` is what onnxruntime's files say."""

    def pretend(packages: dict[str, str], module: str | None = None, built: str = "") -> None:
        def version(name: str) -> str:
            if name not in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return packages[name]

        def find(name: str) -> ModuleSpec | None:
            if name != module:
                return None
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(tmp_path / name)]
            return spec

        if built:
            file = tmp_path / "onnxruntime" / "capi" / "build_and_package_info.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(built)
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.util, "find_spec", find)

    return pretend


def test_one_package_owns_the_module(install: Install) -> None:
    install({"onnxruntime-gpu": "1.31.1"}, "onnxruntime", "package_name = 'onnxruntime-gpu'\n__version__ = '1.31.1'\n")
    onnx, torch = installed_libraries()
    assert onnx.version == "1.31.1"
    assert (onnx.loaded, onnx.distributions) == ("onnxruntime-gpu", (Distribution("onnxruntime-gpu", "1.31.1"),))
    assert (torch.version, torch.distributions, torch.gap) == ("", (), "not installed")
    assert warnings([onnx, torch]) == []


def test_two_packages_that_own_the_same_module_are_warned_of(install: Install) -> None:
    install(
        {"onnxruntime": "1.30.0", "onnxruntime-openvino": "1.24.1"},
        "onnxruntime",
        "package_name = 'onnxruntime-openvino'\n__version__ = '1.24.1'\n",
    )
    found = installed_libraries()
    assert (found[0].loaded, found[0].version) == ("onnxruntime-openvino", "1.24.1")
    (warning,) = warnings(found)
    assert "onnxruntime and onnxruntime-openvino are both installed" in warning
    assert "the files there are those of onnxruntime-openvino" in warning


@pytest.mark.parametrize("built", ["", "package_name = 1 +", "package_name = name()", "import os"])
def test_what_the_files_do_not_say_is_taken_from_the_packages(install: Install, built: str) -> None:
    install({"onnxruntime": "1.30.0"}, "onnxruntime", built)
    assert (installed_libraries()[0].loaded, installed_libraries()[0].version) == ("onnxruntime", "1.30.0")
    install({"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}, "onnxruntime", built)
    assert (installed_libraries()[0].loaded, installed_libraries()[0].version) == ("", "")
    assert "they overwrite each other" in warnings(installed_libraries())[0]


def test_a_package_without_its_module(install: Install) -> None:
    install({"onnxruntime": "1.30.0"})
    assert installed_libraries()[0].gap == "onnxruntime is installed, but its module is not there"


def test_what_is_installed_names_its_providers() -> None:
    (found,) = with_providers([library for library in installed_libraries() if library.runtime == "onnxruntime"])
    assert found.providers is not None
    assert "cpu" in found.providers
    assert (found.gap, found.loaded != "") == ("", True)


def test_what_is_not_there_is_not_asked_and_what_does_not_work_says_so() -> None:
    missing = Library("torch", "", (), "", None, "not installed")
    broken = Library("no-such-runtime", "1", (), "x", None, "not asked")
    absent, failed = with_providers([missing, broken])
    assert absent == missing
    assert failed.providers is None
    assert failed.gap.startswith("does not work here: there is no runtime 'no-such-runtime'")
