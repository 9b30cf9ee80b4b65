"""`inferplan schema`: JSON Schema of the documents."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class DocumentKind(StrEnum):
    """Documents that have a schema."""

    workload = "workload"
    plan = "plan"
    book = "book"
    catalogue = "catalogue"


def schema(document: Annotated[DocumentKind, typer.Argument(help="Which document.")]) -> None:
    """Print the JSON Schema of a document, for editors and other programs."""
    from inferplan.cli.output import emit_json
    from inferplan.spec.schemas import json_schema

    emit_json(json_schema(document.value))
