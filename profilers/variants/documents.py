"""The two workload files with made variants.

`NAME-variants.yaml` is the user's: it is written once and then left alone. It includes the workload and
`NAME-variants.generated.yaml`, which is ours and written anew each time. Both stand beside the workload, so that
paths and stage code mean the same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inferplan.profilers.variants.records import write_atomically
from inferplan.spec.document import LoadedWorkload, read_document
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Variant

Entries = dict[str, dict[str, dict[str, Any]]]
"""Fields of variants as a workload has them, by stage and name."""

_HEAD = """\
# Variants made by `inferplan variants {name}`, which writes this file anew each time.
# Your own additions belong into {own}.
"""
_OWN_HEAD = """\
# {workload} with the variants that `inferplan variants` made of its own. This file is written once, and yours from
# then on: what stands below the include replaces what is included (`variants: {{...}}` adds some).
"""


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the two files are."""

    workload: Path
    own: Path
    generated: Path

    @classmethod
    def of(cls, loaded: LoadedWorkload, output: Path | None) -> Documents:
        """Those beside a workload. Raises InputError where they could not be put there."""
        folder = loaded.path.parent
        own = folder / f"{loaded.workload.name}-variants.yaml" if output is None else output
        if own.parent.resolve() != folder.resolve():
            raise InputError(
                f"-o {own}: the file stands beside {loaded.path}, whose stage code and models it refers to"
            )
        if own.suffix not in (".yaml", ".yml"):
            raise InputError(f"-o {own}: expected a name that ends in .yaml")
        if own.resolve() == loaded.path.resolve():
            raise InputError(
                f"{own} is what would be written: give the workload that it includes, or another name with -o"
            )
        if own.stem.endswith(".generated"):
            raise InputError(f"-o {own}: names that end in .generated.yaml are for the file that it includes")
        found = cls(loaded.path, own, own.with_name(f"{own.stem}.generated.yaml"))
        found._check_own()
        return found

    def _check_own(self) -> None:
        if not self.own.exists():
            return
        data = read_document(self.own).data
        includes = data.get("include", []) if isinstance(data, dict) else []
        if self.generated.name not in (includes if isinstance(includes, list) else []):
            raise InputError(
                f"{self.own} is there and does not include {self.generated.name}: add it to its `include`, or give"
                " another name with -o"
            )

    def handwritten(self) -> dict[str, set[str]]:
        """Names of variants that the user's own file has, by stage."""
        if not self.own.exists():
            return {}
        return {stage: set(variants) for stage, variants in _variants(read_document(self.own).data).items()}

    def entries(self) -> Entries:
        """What the generated file has. Raises InputError, DocumentError where it cannot be read."""
        if not self.generated.exists():
            return {}
        data = read_document(self.generated).data
        return {
            stage: {name: entry for name, entry in variants.items() if isinstance(entry, dict)}
            for stage, variants in _variants(data).items()
        }

    def write(self, entries: Entries) -> list[str]:
        """Write both; returns the names of those that are new or changed."""
        stages = {stage: {"variants": dict(variants)} for stage, variants in entries.items() if variants}
        data = {"pipeline": {"stages": stages}}
        body = yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        text = _HEAD.format(name=self.workload.name, own=self.own.name) + body
        written = []
        if not self.generated.exists() or self.generated.read_text() != text:
            write_atomically(self.generated, text)
            written.append(self.generated.name)
        if not self.own.exists():
            include = yaml.safe_dump({"include": [self.workload.name, self.generated.name]}, default_flow_style=None)
            write_atomically(self.own, _OWN_HEAD.format(workload=self.workload.name) + include)
            written.append(self.own.name)
        return written


class _Dumper(yaml.SafeDumper):
    """Lists on one line, as people write them; no anchors."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _variants(data: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    pipeline = data.get("pipeline") if isinstance(data, dict) else None
    stages = pipeline.get("stages") if isinstance(pipeline, dict) else None
    for name, stage in (stages if isinstance(stages, dict) else {}).items():
        variants = stage.get("variants") if isinstance(stage, dict) else None
        if isinstance(variants, dict):
            found[str(name)] = variants
    return found


def entry_of(variant: Variant) -> dict[str, Any]:
    """A variant as a workload has it: fields at their default are left out."""
    return variant.model_dump(mode="json", exclude_defaults=True)


def made_variant(
    name: str, parent: Variant, changes: Mapping[str, Any], recipe: str, settings: Mapping[str, Any]
) -> Variant:
    """The variant that a recipe makes of `parent` (its name: `name`). What was declared of the parent's accuracy is
    not said of it."""
    fields = entry_of(parent)
    for key in ("accuracy", "parent", "recipe"):
        fields.pop(key, None)
    fields |= dict(changes)
    fields = {key: value for key, value in fields.items() if value is not None}
    return Variant.model_validate({**fields, "parent": name, "recipe": {"name": recipe, "settings": dict(settings)}})
