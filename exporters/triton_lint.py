"""Check a Triton model repository, whoever wrote it: layers 1 (protobuf) and 2 (our rules, the real graphs).

The rules are listed in docs/triton-lint.md and in `findings.RULES`.
"""

from __future__ import annotations

from pathlib import Path

from inferplan.exporters.findings import LintReport
from inferplan.exporters.triton_ensemble_rules import check_ensemble
from inferplan.exporters.triton_graph_rules import check_graphs
from inferplan.exporters.triton_repository import read_repository
from inferplan.exporters.triton_rules import check_config
from inferplan.exporters.triton_schema import CONTAINER_RELEASE, SERVER_VERSION
from inferplan.spec.errors import InputError


def lint_repository(path: Path | str) -> LintReport:
    """Every finding in the repository at `path`, in order of file and line.

    Raises InputError where there is no repository to look at, MissingExtraError without the `export` extra.
    """
    root = Path(path)
    try:
        return _lint(root)
    except OSError as error:
        raise InputError(f"{root}: cannot be read: {error}") from error


def _lint(root: Path) -> LintReport:
    repository = read_repository(root)
    found = list(repository.findings)
    for model in repository.models.values():
        for file in model.configs:
            found.extend(check_config(model, file, repository))
            found.extend(check_graphs(model, file, repository))
            found.extend(check_ensemble(file, repository))
    return LintReport(
        root=root,
        server=f"{SERVER_VERSION} ({CONTAINER_RELEASE})",
        models=tuple(repository.models),
        findings=tuple(sorted(set(found))),
    )
