"""Code that a workload names: which file it is in, and importing it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from inferplan.spec.errors import InputError

_REFERENCE = re.compile(
    r"(?P<path>[A-Za-z0-9_][A-Za-z0-9_\-]*(?:/[A-Za-z0-9_][A-Za-z0-9_\-]*)*):(?P<name>[A-Za-z_]\w*)"
)


def code_file(reference: str, root: Path) -> Path:
    """The Python file that `module:Class` names. Raises InputError where there is none."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise InputError(f"code {reference!r}: expected module:Class, a Python file next to the workload")
    path = root / (match["path"] + ".py")
    if not path.is_file():
        raise InputError(f"code {reference!r}: there is no file {path}")
    return path


def load_class(reference: str, root: Path) -> type:
    """Import the class that `module:Class` names, from the file next to the workload.

    This runs the user's code. The file's folder is put on `sys.path`, so that it can import its neighbours.
    """
    found = _loaded(reference, root)
    if not isinstance(found, type):
        raise InputError(f"code {reference!r}: {code_file(reference, root)} defines no class {_named(reference)}")
    return found


def load_function(reference: str, root: Path) -> Callable[..., Any]:
    """Import what `module:function` names, from the file next to the workload, as `load_class` does."""
    found = _loaded(reference, root)
    if not callable(found):
        raise InputError(f"code {reference!r}: {code_file(reference, root)} defines no function {_named(reference)}")
    return cast("Callable[..., Any]", found)


def _loaded(reference: str, root: Path) -> object:
    return getattr(_module(code_file(reference, root).resolve()), _named(reference), None)


def _named(reference: str) -> str:
    return reference.partition(":")[2]


def _module(path: Path) -> ModuleType:
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    # A neighbour of another workload, or an installed module of the same name, must not be taken for it.
    name = path.stem if loaded is None else f"inferplan_user_{abs(hash(str(path)))}_{path.stem}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    return module
