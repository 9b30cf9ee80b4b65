"""Makes variants of variants: makes files, checks each beside its parent, writes the workload.

Everything that touches a model or stage code happens in measuring processes with limits; what fails there is a
verdict with its reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inferplan.profilers.process import WorkerFailure
from inferplan.profilers.variants import registry
from inferplan.profilers.variants.base import Recipe
from inferplan.profilers.variants.documents import Documents, Entries, entry_of, made_variant
from inferplan.profilers.variants.integers import calibration_notes
from inferplan.profilers.variants.naming import fresh_name
from inferplan.profilers.variants.parents import Parent, Workplace
from inferplan.profilers.variants.records import FOLDER, Record, Shelf
from inferplan.profilers.variants.registry import Wanted
from inferplan.spec.derivation import Derived, Fit, Generation
from inferplan.spec.document import load_workload
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import code_sha256, file_sha256
from inferplan.spec.modelfiles import model_files, model_sha256
from inferplan.spec.stage import Variant

_NO_PART = frozenset(("accuracy", "parent", "recipe", "license"))
"""Fields of a parent that what is made of it does not rest on."""


def generate(place: Workplace, chosen: Sequence[Parent], texts: Sequence[str], output: Path | None) -> Generation:
    """Make what the recipes in `texts` make of the surveyed variants; without any, the defaults, and what the
    generated file has, as it was made. Writes the workload files. Raises InputError."""
    documents = Documents.of(place.loaded, output)
    asked = registry.wanted(texts)
    with Shelf(place.loaded.workload.root) as shelf:
        run = _Run(place, shelf, documents)
        for parent in chosen:
            for item in [*asked, *(run.earlier(parent) if not texts else [])]:
                run.add(parent, item)
        return run.finished()


def fits(chosen: Sequence[Parent], texts: Sequence[str]) -> list[Fit]:
    """Which recipes apply to which surveyed variants, and why others do not; all recipes where `texts` is empty."""
    found: list[Fit] = []
    for parent in chosen:
        reasons: dict[str, list[str]] = {}
        for item in registry.wanted(texts) if texts else _everything(parent):
            label = item.recipe if item.recipe not in registry.NEED_VALUES else _label(item)
            reasons.setdefault(label, []).append(refusal(parent, item))
        found += [
            Fit(parent.stage, parent.name, label, "" if "" in given else given[0]) for label, given in reasons.items()
        ]
    return found


def refusal(parent: Parent, item: Wanted) -> str:
    """Why a recipe does not apply to a surveyed variant; empty where it does."""
    if parent.survey.failure:
        return parent.survey.failure
    recipe = registry.recipe(item.recipe)
    missing = [name for name in recipe.packages if not parent.survey.tools.get(name)]
    reason = recipe.refusal(parent.variant, parent.survey, item.settings)
    return reason or (f"not installed: {', '.join(missing)}" if missing else "")


def _everything(parent: Parent) -> list[Wanted]:
    """Every recipe; those that need values, with what they could be given values for."""
    texts = [name for name in registry.RECIPES if name not in registry.NEED_VALUES]
    found = registry.wanted(texts)
    params = [name for name, value in parent.variant.params.items() if isinstance(value, bool | int | float)]
    found += [Wanted("param", {"name": name, "value": _another(parent.variant.params[name])}) for name in params]
    if parent.survey.source == "made-up":
        free = {part for shape in parent.survey.inputs.values() for part in (shape or [])[1:] if isinstance(part, str)}
        found += [Wanted("dim", {"name": name, "value": 0}) for name in sorted({*parent.variant.input_dims, *free})]
    return [*found, Wanted("opset", {"opset": 0})]


def _another(value: Any) -> Any:
    return not value if isinstance(value, bool) else value + 1


def _label(item: Wanted) -> str:
    return f"{item.recipe}:{item.settings['name']}" if "name" in item.settings else item.recipe


class _Run:
    """One run: what was made, what was there, what is to be written."""

    def __init__(self, place: Workplace, shelf: Shelf, documents: Documents) -> None:
        self._place = place
        self._shelf = shelf
        self._documents = documents
        self._workload = place.loaded.workload
        self._root = place.loaded.workload.root
        self._entries: Entries = documents.entries()
        self._handwritten = documents.handwritten()
        self._derived: list[Derived] = []
        self._refused: list[Fit] = []
        self._seen: set[tuple[str, str]] = set()

    def earlier(self, parent: Parent) -> list[Wanted]:
        """What the generated file has of a parent."""
        records = self._shelf.records(parent.stage)
        names = self._entries.get(parent.stage, {})
        return [
            Wanted(record.recipe, registry.recipe(record.recipe).completed(record.settings))
            for name, record in records.items()
            if name in names and record.parent == parent.name and record.recipe in registry.RECIPES
        ]

    def add(self, parent: Parent, item: Wanted) -> None:
        """Make a variant, or say why not."""
        reason = refusal(parent, item)
        if reason:
            self._refused.append(Fit(parent.stage, parent.name, item.recipe, reason))
            return
        recipe = registry.recipe(item.recipe)
        name, known = self._named(parent, item, recipe)
        if (parent.stage, name) in self._seen:
            return
        self._seen.add((parent.stage, name))
        basis = self._basis(parent, recipe)
        if known is not None and known.basis == basis and self._shelf.intact(known):
            derived = _derived(known, "current")
            variant = self._variant(parent, recipe, name, {**item.settings, **known.further})
        else:
            self._place.on_event(f"making {parent.stage}={name}")
            derived, variant = self._made(parent, item, recipe, name, known, basis)
        self._derived.append(derived)
        entries = self._entries.setdefault(parent.stage, {})
        if derived.verdict == "failed":
            entries.pop(name, None)
        else:
            entries[name] = entry_of(variant)

    def _named(self, parent: Parent, item: Wanted, recipe: Recipe) -> tuple[str, Record | None]:
        records = self._shelf.records(parent.stage)
        taken = {*self._workload.pipeline.stages[parent.stage].variants, *self._handwritten.get(parent.stage, ())}
        for name, record in records.items():
            same = (record.parent, record.recipe) == (parent.name, item.recipe)
            if name not in taken and same and recipe.completed(record.settings) == item.settings:
                return name, record
        used = {name for stage, name in self._seen if stage == parent.stage}
        return fresh_name(parent.name, recipe.suffix(item.settings), {*taken, *records, *used}), None

    def _basis(self, parent: Parent, recipe: Recipe) -> dict[str, Any]:
        """Everything that decides what is made."""
        stage = self._workload.pipeline.stages[parent.stage]
        choices = self._place.choices(parent)
        models = [model_sha256(self._workload, parent.stage, choice.name) for choice in choices]
        code = code_sha256(stage.code, parent.variant.params, self._root)
        fields = {
            k: v for k, v in entry_of(parent.variant).items() if k not in ("accuracy", "parent", "recipe", "license")
        }
        return {
            "models": dict(zip([choice.name for choice in choices], models, strict=True)),
            "variant": fields,
            "code_sha256": code if recipe.uses_inputs else "",
            "inputs_sha256": parent.survey.inputs_sha256 if recipe.uses_inputs else "",
            "revision": recipe.revision,
            "tools": {name: parent.survey.tools.get(name, "") for name in recipe.packages},
        }

    def _variant(self, parent: Parent, recipe: Recipe, name: str, settings: Mapping[str, Any]) -> Variant:
        changes = recipe.changes(parent.variant, settings)
        if recipe.makes_file:
            changes |= self._new_files(parent, name)
        return made_variant(parent.name, parent.variant, changes, recipe.name, settings)

    def _new_files(self, parent: Parent, name: str) -> dict[str, Any]:
        """Fields that name model files, with those that are made in place of the parent's."""
        targets = self._targets(parent, name)
        folder = f"{FOLDER}/{parent.stage}"
        variant = parent.variant
        used = {variant.model_of(choice.subset) for choice in self._place.choices(parent)}
        if variant.modalities is None:
            (target,) = targets.values()
            return {"model": f"{folder}/{target}"}
        model = f"{folder}/{targets[variant.model]}" if variant.model in used else None
        own = {subset: f"{folder}/{targets[file]}" for subset, file in variant.modalities.models.items()}
        modalities = variant.modalities.model_dump(mode="json", exclude_defaults=True)
        return {"model": model, "modalities": {**modalities, **({"models": own} if own else {})}}

    def _targets(self, parent: Parent, name: str) -> dict[str | None, str]:
        """Names of the files to make, by the parent's file each is made from (None: a factory alone)."""
        found: dict[str | None, str] = {}
        for choice in self._place.choices(parent):
            source = parent.variant.model_of(choice.subset)
            own = parent.variant.modalities is not None and choice.subset in parent.variant.modalities.models
            found.setdefault(source, f"{name}@{choice.subset}.onnx" if own else f"{name}.onnx")
        return found

    def _made(
        self,
        parent: Parent,
        item: Wanted,
        recipe: Recipe,
        name: str,
        known: Record | None,
        basis: Mapping[str, Any],
    ) -> tuple[Derived, Variant]:
        """Make it and check it; only what passes is put in place."""
        record = Record(parent.stage, name, parent.name, item.recipe, item.settings, basis)
        record = replace(record, parent_size_bytes=self._size(parent))
        variant = self._variant(parent, recipe, name, item.settings)
        try:
            with self._shelf.bench(parent.stage) as work:
                files, further = self._files(parent, item, recipe, name, known, work)
                settings = {**item.settings, **further}
                variant = self._variant(parent, recipe, name, settings)
                distance, notes = self._checked(parent, recipe, name, variant, files)
                record = replace(
                    record,
                    further=further,
                    files={target: file_sha256(file) for target, file in files.items()},
                    size_bytes=sum(file.stat().st_size for file in files.values()) if files else None,
                    distance=distance,
                    notes=(*notes, *calibration_notes(settings)),
                )
                self._shelf.put(record, files)
        except WorkerFailure as failure:
            return dataclasses.replace(_derived(record, "failed"), reason=failure.reason), variant
        except InputError as error:
            return dataclasses.replace(_derived(record, "failed"), reason=error.message), variant
        return _derived(record, "made"), variant

    def _size(self, parent: Parent) -> int | None:
        """Bytes of the parent's model files; None where a factory has none."""
        stage, choices = parent.stage, self._place.choices(parent)
        paths = {self._place.loaded.workload.model_path(stage, choice.name) for choice in choices}
        files = {file for path in paths if path is not None for file in model_files(path)}
        return sum(file.stat().st_size for file in files) or None

    def _files(
        self, parent: Parent, item: Wanted, recipe: Recipe, name: str, known: Record | None, work: Path
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        """The files that the recipe makes, by name, and further settings to record."""
        if not recipe.makes_file:
            return {}, {}
        place = self._place
        made: dict[str, Path] = {}
        further: dict[str, Any] = {}
        for source, target in self._targets(parent, name).items():
            if reason := self._shelf.foreign(parent.stage, target, known):
                raise InputError(reason)
            choices = [c for c in place.choices(parent) if parent.variant.model_of(c.subset) == source]
            specs = [place.spec(parent.stage, parent.name, parent.variant, choice) for choice in choices]
            folder = work / str(len(made))
            folder.mkdir()
            made[target] = folder / "made.onnx"
            with place.process() as worker:
                frame = worker.call(
                    "variants", "made", step="make", recipe=item.recipe, settings=item.settings,
                    specs=[spec.to_json() for spec in specs], requests=place.requests_of(parent),
                    target=str(made[target]),
                )  # fmt: skip
            further |= dict(frame.data["settings"])
        return made, further

    def _checked(
        self, parent: Parent, recipe: Recipe, name: str, variant: Variant, files: Mapping[str, Path]
    ) -> tuple[dict[str, Any], list[str]]:
        """Every choice beside its parent's; the farthest counts."""
        place = self._place
        worst: dict[str, Any] = {}
        notes: list[str] = []
        for choice in place.choices(parent):
            theirs = place.spec(parent.stage, parent.name, parent.variant, choice)
            ours = place.spec(parent.stage, name, variant, choice)
            if ours.model is not None and Path(ours.model).name in files:
                ours = replace(ours, model=str(files[Path(ours.model).name]))
            with place.process() as worker:
                frame = worker.call(
                    "variants", "compared", step="compare", parent=theirs.to_json(), child=ours.to_json(),
                    requests=place.requests_of(parent), same_outputs=recipe.same_outputs,
                    reduced=recipe.reduced,
                )  # fmt: skip
            worst = _farther(worst, dict(frame.data["distance"]))
            notes += [note for note in frame.data["notes"] if note not in notes]
        return worst, notes

    def finished(self) -> Generation:
        """Drop entries whose parent is gone, write both files, check that they load."""
        notes: list[str] = []
        stages = self._workload.pipeline.stages
        entries: Entries = {}
        for stage, spec in stages.items():
            known = self._entries.get(stage, {})
            order = list(spec.variants)
            gone = sorted(n for n, e in known.items() if e.get("parent") not in spec.variants or n in spec.variants)
            notes += [f"{stage}={name} left out: its parent is gone, or another variant has its name" for name in gone]
            kept = [name for name in known if name not in gone]
            kept.sort(key=lambda name: (order.index(known[name]["parent"]), name))
            entries[stage] = {name: known[name] for name in kept}
        if not any(entries.values()):
            return Generation(str(self._documents.own), tuple(self._derived), tuple(self._refused), tuple(notes))
        created = self._documents.write(entries)
        merged = load_workload(self._documents.own).workload
        if merged.accuracy is not None and merged.accuracy.combinations:
            notes.append(
                "accuracy.combinations lists what is evaluated end to end; made variants are planned with once they"
                f" are in that list: write one into {self._documents.own.name}"
            )
        return Generation(
            str(self._documents.own), tuple(self._derived), tuple(self._refused), tuple(notes), tuple(created)
        )


def _farther(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The larger distances and the smaller agreement of two; what one cannot say, both cannot."""
    if not a:
        return b

    def pick(key: str, choose: Callable[[float, float], float]) -> float | None:
        return None if a[key] is None or b[key] is None else choose(a[key], b[key])

    return {
        "n": a["n"] + b["n"],
        "max_abs": pick("max_abs", max),
        "relative_l2": pick("relative_l2", max),
        "same_class": pick("same_class", min),
        "same_answer": pick("same_answer", min),
    }


def _derived(record: Record, verdict: str) -> Derived:
    return Derived(
        record.stage,
        record.variant,
        record.parent,
        record.recipe,
        {**record.settings, **record.further},
        verdict,  # type: ignore[arg-type]
        parent_size_bytes=record.parent_size_bytes,
        size_bytes=record.size_bytes,
        distance=record.measured() if record.distance else None,
        notes=tuple(record.notes),
    )
