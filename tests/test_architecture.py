"""Data flows one way, and nothing heavy is imported before it is needed (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "spec": set(),
    "profilers": {"spec"},
    "estimators": {"spec"},
    "solvers": {"spec", "estimators"},
    "exporters": {"spec"},
    "runner": {"spec", "profilers"},
    "reports": {"spec", "estimators"},
    "cli": {"spec", "profilers", "estimators", "solvers", "exporters", "runner", "reports"},
}
HEAVY = (
    "torch",
    "onnxruntime",
    "onnx",
    "pandas",
    "pyarrow",
    "mip",
    "numpy",
    "pydantic",
    "tritonclient",
    "uvicorn",
    "rich",
)


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = modules(room)
    assert files
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "inferplan" or len(parts) == 1:
                assert parts[0] not in MAY_IMPORT, f"{path}: import inferplan.{name}, not {name}"
                continue
            assert parts[1] == room or parts[1] in MAY_IMPORT[room], f"{path} imports {name}"
            if room == "runner" and parts[1] == "profilers":
                assert parts[2:3] == ["runtimes"], f"{path} imports {name}; the runner may use profilers.runtimes only"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from inferplan.cli.main import run_command\n"
        "code = run_command(['--help'])\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "profile" in done.stdout


def test_validating_imports_nothing_to_compute_with() -> None:
    code = (
        "import sys\n"
        "from inferplan.cli.main import run_command\n"
        "code = run_command(['validate', 'sample_workloads/digits'])\n"
        "heavy = [name for name in ('numpy', 'pandas', 'pyarrow', 'mip') if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else code)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["inferplan", *(f"inferplan.{room}" for room in MAY_IMPORT)])
def test_packages_import_nothing_by_themselves(package: str) -> None:
    code = f"import sys; import {package}; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_planning_needs_neither_torch_nor_onnxruntime() -> None:
    """The base install solves: `torch` and `onnxruntime` may be absent."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnxruntime', 'onnx', 'tritonclient', 'psutil', 'uvicorn'): sys.modules[name] = None\n"
        "import inferplan.solvers.planner, inferplan.cli.solve, inferplan.cli.validate\n"
        "import inferplan.solvers.queue_planner, inferplan.solvers.split_planner\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_is_short_enough_to_be_one_noun() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for room in MAY_IMPORT
        for p in modules(room)
        if (n := p.read_text().count("\n")) > 450
    }
    assert not long
