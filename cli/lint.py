"""`inferplan lint`: check any Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inferplan.cli.options import JsonOption


def lint(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A Triton model repository, ours or not.")],
    json: JsonOption = False,
) -> int:
    """Check a Triton model repository: its configs as protobuf, and our rules against the real graphs."""
    from inferplan.cli.output import emit_json, say
    from inferplan.exporters.triton_lint import lint_repository
    from inferplan.spec.errors import ExitCode

    report = lint_repository(directory)
    code = ExitCode.CHECK_FAILED if report.errors else ExitCode.DONE
    if json:
        emit_json({"status": "failed" if report.errors else "ok", **report.as_dict()})
        return code
    for finding in report.findings:
        say(str(finding))
    counts = (("model", report.models), ("error", report.errors), ("warning", report.warnings))
    say(f"{directory}: " + ", ".join(f"{len(items)} {name}{'s' * (len(items) != 1)}" for name, items in counts))
    return code
