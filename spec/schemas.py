"""JSON Schemas of the documents, for editors and other programs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from inferplan.spec.book import PlanBook
from inferplan.spec.catalogue import Catalogue
from inferplan.spec.plan import Plan
from inferplan.spec.workload import Workload

DOCUMENTS: dict[str, type[BaseModel]] = {"workload": Workload, "plan": Plan, "book": PlanBook, "catalogue": Catalogue}


def json_schema(document: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of `workload`, `plan`, `book` or `catalogue`."""
    schema = DOCUMENTS[document].model_json_schema(by_alias=True)
    if document == "workload":
        schema["properties"]["include"] = {
            "type": "array",
            "items": {"type": "string"},
            "description": "Files merged under this one; mappings merge, anything else is replaced.",
        }
        # What a device does not give comes from its instance's entry in a catalogue.
        device = schema["$defs"]["Device"]
        device["anyOf"] = [{"required": device.pop("required")}, {"required": ["instance"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"inferplan {document}, version 1",
        **{key: value for key, value in schema.items() if key != "title"},
    }
