"""Sample workloads are folders of scripts, not packages: what the tests of several of them need to get at them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

SAMPLES = Path(__file__).resolve().parents[2] / "sample_workloads"
COMMAND = str(Path(sys.executable).with_name("inferplan"))


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Loads a file below sample_workloads under a name of its own: several workloads have a `prepare.py`."""

    def load(name: str) -> ModuleType:
        alias = "sample_" + name.replace("/", "_").removesuffix(".py")
        if alias not in sys.modules:
            spec = importlib.util.spec_from_file_location(alias, SAMPLES / name)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[alias] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[alias])
        return sys.modules[alias]

    return load


@pytest.fixture(scope="session")
def copied() -> Callable[[str, Path], Path]:
    """Copies a workload's own files, but not what was prepared, into a folder; gives its new place."""

    def copy(name: str, into: Path) -> Path:
        ignored = shutil.ignore_patterns("prepared", "*.profile", "__pycache__")
        return Path(shutil.copytree(SAMPLES / name, into / name, ignore=ignored))

    return copy


@pytest.fixture(scope="session")
def borrowed() -> Callable[[Path, Iterable[Any]], None]:
    """Spares a copied workload the download: takes what packages give from the original, where it is prepared."""

    def borrow(root: Path, packages: Iterable[Any]) -> None:
        for target in (Path("prepared") / file.target for package in packages for file in package.files):
            if (SAMPLES / root.name / target).is_file():
                (root / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(SAMPLES / root.name / target, root / target)

    return borrow


@pytest.fixture(scope="session")
def shortened() -> Callable[..., None]:
    """Leaves a workload with some of its variants, and with little to measure."""

    def shorten(file: Path, variants: tuple[str, ...]) -> None:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        (stage,) = document["pipeline"]["stages"].values()
        stage["variants"] = {name: stage["variants"][name] for name in variants}
        for variant in stage["variants"].values():
            if variant.get("parent") not in variants:
                variant.pop("parent", None)
        document["profile"] = {"batch_sizes": [2], "threads": [1], "processes": 1, "neighbours": "none"}
        document["profile"] |= {"min_time_s": 0.05, "max_time_s": 0.5}
        file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    return shorten


@pytest.fixture(scope="session")
def inferplan() -> Callable[..., str]:
    """Runs the command in a folder, checks its exit code, gives its output."""

    def run(*arguments: object, cwd: Path, code: int = 0) -> str:
        line = [COMMAND, *map(str, arguments)]
        done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
