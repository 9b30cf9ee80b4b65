"""Which runtimes are installed, from which packages, and which providers they claim to have."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inferplan.spec.inventory import Distribution, Library

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": (
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-openvino",
        "onnxruntime-directml",
        "onnxruntime-migraphx",
        "onnxruntime-qnn",
        "onnxruntime-rocm",
        "onnxruntime-training",
    ),
    "torch": ("torch",),
}
"""Packages that own a runtime's module, which has the runtime's name."""
_NOT_ASKED = "not asked"
_ANSWER_S = 60.0
_MEMORY_BYTES = 4 * 2**30


def installed_libraries() -> tuple[Library, ...]:
    """The runtimes' libraries, none of them loaded."""
    return tuple(_installed(runtime) for runtime in PACKAGES)


def with_providers(libraries: Sequence[Library]) -> tuple[Library, ...]:
    """Ask every installed library for its providers, each in a measuring process of its own, side by side.

    What a library lists is what it was built with. Whether one works shows when a model is loaded.
    """
    with ThreadPoolExecutor(max(1, len(libraries))) as pool:
        return tuple(pool.map(_asked, libraries))


def warnings(libraries: Sequence[Library]) -> list[str]:
    """What is wrong with what is installed."""
    found = []
    for library in libraries:
        names = [distribution.name for distribution in library.distributions]
        if len(names) > 1:
            files = f"the files there are those of {library.loaded}" if library.loaded else "they overwrite each other"
            found.append(
                f"{' and '.join(names)} are both installed and own the same module {library.runtime}: {files}; "
                "uninstall all of them, then install one"
            )
    return found


def _installed(runtime: str) -> Library:
    found = []
    for name in PACKAGES[runtime]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(Distribution(name, importlib.metadata.version(name)))
    folder = _folder(runtime)
    if folder is None:
        gap = f"{found[0].name} is installed, but its module is not there" if found else "not installed"
        return Library(runtime, "", tuple(found), "", None, gap)
    built = _constants(folder / "capi" / "build_and_package_info.py") if runtime == "onnxruntime" else {}
    loaded = built.get("package_name") or (found[0].name if len(found) == 1 else "")
    version = built.get("__version__") or next((item.version for item in found if item.name == loaded), "")
    return Library(runtime, version, tuple(found), loaded, None, _NOT_ASKED)


def _asked(library: Library) -> Library:
    from inferplan.profilers.process import Limits, WorkerFailure, WorkerProcess

    if library.gap != _NOT_ASKED:
        return library
    try:
        # Libraries of GPU builds reserve more address space than they use.
        with WorkerProcess(Limits(_ANSWER_S, _MEMORY_BYTES), 1, bounded_data=False) as worker:
            answer = worker.call("providers", "providers", runtime=library.runtime).data["providers"]
    except WorkerFailure as failure:
        return dataclasses.replace(library, gap=f"does not work here: {failure.reason}")
    return dataclasses.replace(library, providers=tuple(answer), gap="")


def _folder(module: str) -> Path | None:
    """Where a module's files are, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def _constants(path: Path) -> dict[str, str]:
    """Texts that a Python file assigns to names, without running it."""
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError, ValueError):
        return {}
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
