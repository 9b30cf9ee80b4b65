"""What is measured: every choice of every stage, with what a look at it found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from inferplan.profilers.arriving import Arriving
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.inspection import Inspection, Inspector
from inferplan.profilers.jobs import Inspecting, LeftOut, OnEvent
from inferplan.profilers.process import Limits
from inferplan.profilers.provision import Providers, installed_versions
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import code_sha256
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement
from inferplan.spec.stage import Choice, Variant
from inferplan.spec.workload import Workload

NO_SHAPE = "{}"


@dataclass(frozen=True, slots=True)
class Subject:
    """A choice on one provider, with what a look at it found."""

    stage: str
    choice: Choice
    spec: ExecutorSpec
    requests: PipelineSpec | None
    """The pipeline's requests, and what they become on their way to it."""
    provider: str
    model_sha256: str
    code_sha256: str
    lineage: str
    found: Inspection
    rank: int = 0
    """Position among the choices of its stage."""
    primary: bool = True
    """Whether it is on the first provider on which the choice works: accuracy is evaluated there."""
    arriving: str = ""
    """What its points' keys say of the inputs that arrive at its stage."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.stage}={self.choice.name}"

    @property
    def options(self) -> str:
        """Runtime options as profiles write them."""
        return json.dumps(dict(self.spec.options), sort_keys=True)

    @property
    def inputs(self) -> str:
        """What its points' keys say of where their inputs come from."""
        return self.arriving if self.found.arrived else ""


class Casting:
    """Looks at every choice of a workload, on every provider of its runtime."""

    def __init__(
        self,
        workload: Workload,
        inspector: Inspector,
        providers: Providers,
        device: str,
        fingerprint: str,
        limits: Limits,
    ) -> None:
        self._workload = workload
        self._inspector = inspector
        self._providers = providers
        self._device = device
        self._fingerprint = fingerprint
        self._limits = limits
        self._batches = sorted(set(workload.profile.batch_sizes))
        self.left_out: list[LeftOut] = []
        self.arriving = Arriving(workload)
        self._provenance: Mapping[str, str] = {}

    def subjects(self, known: Profile | None, on_event: OnEvent) -> list[Subject]:
        """Every choice on every provider where it works; one that works nowhere once, with the reason.

        Choices that `known` says do not run are not tried again. Raises InputError where the fault is in the
        workload's code or data, with every such problem.
        """
        stages = self._workload.pipeline.stages
        names = [(stage, choice) for stage in stages for choice in stages[stage].choices().values()]
        found: list[Subject] = []
        problems: list[str] = []
        self.arriving = Arriving.of(
            self._workload, self._providers.common, self._limits, lambda name: on_event(Inspecting(name, 0, len(names)))
        )
        self._provenance = {stage: self.arriving.provenance(stage) for stage in stages}
        for index, (stage, choice) in enumerate(names):
            on_event(Inspecting(f"{stage}={choice.name}", index, len(names)))
            try:
                found += self._of_choice(stage, choice, known)
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError("nothing was measured: the workload's code or data is not ready", problems)
        return found

    def notes(self, subjects: Sequence[Subject]) -> list[str]:
        """Stages past the entry that are not measured with what arrives there, and why."""
        return self.arriving.notes({subject.stage for subject in subjects if subject.found.status == "ok"})

    def _of_choice(self, stage_name: str, choice: Choice, known: Profile | None) -> list[Subject]:
        runtime = self._workload.pipeline.stages[stage_name].variants[choice.variant].runtime
        looked = [self._look(stage_name, choice, name, known) for name in self._providers.by_runtime[runtime]]
        working = [subject for subject in looked if subject.found.status == "ok"]
        if not working:
            return looked[:1]
        self.left_out += [
            LeftOut(f"{subject.name} on {subject.provider}", subject.found.reason)
            for subject in looked
            if subject.found.status != "ok"
        ]
        return [working[0], *(replace(subject, primary=False) for subject in working[1:])]

    def _look(self, stage_name: str, choice: Choice, provider: str, known: Profile | None) -> Subject:
        stage = self._workload.pipeline.stages[stage_name]
        variant = stage.variants[choice.variant]
        root = self._workload.root
        spec = ExecutorSpec.of(root, stage_name, stage, choice)
        subject = Subject(
            stage_name,
            choice,
            spec,
            self.arriving.requests(stage_name),
            provider,
            model_sha256(self._workload, stage_name, choice.name),
            code_sha256(stage.code, variant.params, root),
            lineage(variant),
            Inspection(),
            list(stage.choices()).index(choice.name),
            arriving=self._provenance[stage_name],
        )
        failure = None if known is None else self._known_failure(subject, known.measurements)
        found = failure or self._inspector.variant(spec, subject.requests, provider, self._batches)
        return replace(subject, found=found)

    def _known_failure(self, subject: Subject, rows: Sequence[Measurement]) -> Inspection | None:
        """What an earlier look found where it found that the choice does not run."""
        wanted = (
            subject.stage, subject.choice.variant, subject.choice.subset, subject.model_sha256, subject.code_sha256,
            subject.options, subject.provider, self._device, self._fingerprint, NO_SHAPE,
        )  # fmt: skip
        for row in rows:
            key = row.key
            known = (
                key.stage, key.variant, key.modalities, key.model_sha256, key.code_sha256,
                key.options, key.provider, key.device, key.device_fingerprint, key.input_shape,
            )  # fmt: skip
            current = key.runtime_version in installed_versions(key.runtime)
            # What failed on other inputs than arrive now may run on these.
            current = current and key.inputs in ("", subject.arriving)
            if row.status != "ok" and known == wanted and current:
                return Inspection(row.status, row.reason, key.runtime_version, arrived=key.inputs != "")
        return None


def lineage(variant: Variant) -> str:
    """What a profile says of a variant's making, as JSON: parent, precision, recipe; empty without a parent."""
    if variant.parent is None:
        return ""
    recipe = None if variant.recipe is None else variant.recipe.model_dump(mode="json")
    made = {"parent": variant.parent, "precision": variant.precision, "recipe": recipe}
    return json.dumps(made, sort_keys=True)
