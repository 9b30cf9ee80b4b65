"""Options that several verbs share, and the units they are given in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from inferplan.spec.errors import InputError

WorkloadArgument = Annotated[Path, typer.Argument(metavar="WORKLOAD", help="workload.yaml, or its folder.")]
PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="plan.yaml, written by `inferplan solve`.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a field, e.g. classes.web.rate_rps=40. Repeatable."),
]
ParquetOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows as Parquet.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object (keys: docs/cli.md).")]
ProfileOption = Annotated[
    Path | None,
    typer.Option("--profile", metavar="DIR", help="Profile directory [default: NAME.profile beside the workload]."),
]

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|min|m|h)")
_FACTORS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def duration_s(text: str, option: str) -> float:
    """`30s`, `5m`, `1.5h`, `200ms` in seconds. A bare number is refused: it has no unit."""
    match = _DURATION.fullmatch(text.strip())
    value = float(match["number"]) * _FACTORS[match["unit"]] if match else 0.0
    if value <= 0:
        raise InputError(f"{option} {text}: expected a duration with its unit, e.g. 30s, 5m or 200ms")
    return value


def check_writable(path: Path | None, option: str) -> None:
    """Raise InputError where no file can be written under a path: said before anything takes long, not after."""
    if path is not None and path.is_dir():
        raise InputError(f"{option} {path}: this is a folder; name a file in it")
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.absolute().parent}")


def profile_path(given: Path | None, workload_path: Path, name: str) -> Path:
    """The profile directory: the one given, or `NAME.profile` beside the workload."""
    return given if given is not None else workload_path.parent / f"{name}.profile"
