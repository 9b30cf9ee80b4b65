"""What each stage of a pipeline is asked: its requests at the entry, past it what the stages before send on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inferplan.profilers.inputs import PipelineSpec, StageInputs
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.profilers.upstream import Folder, Upstream, provenance, run_upstream, stages_fed
from inferplan.spec.evidence import code_sha256, combined_sha256
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.stage import Choice
from inferplan.spec.workload import Workload


@dataclass(frozen=True, slots=True)
class Arriving:
    """What arrives at the stages of a workload. It lies in `folder`, as long as anybody holds on to this."""

    workload: Workload
    sent: Mapping[str, Upstream] = field(default_factory=dict)
    """By stage past the entry."""
    folder: Folder | None = None

    @classmethod
    def of(cls, workload: Workload, provider: str, limits: Limits, tell: Callable[[str], None]) -> Arriving:
        """Run what leads to stages that can do with it, on `provider`; `tell` hears of it, where there is any."""
        stages, requests = stages_fed(workload), _pipeline(workload)
        if requests is None or not stages:
            return cls(workload)
        tell(f"what arrives at {', '.join(stages)}")
        folder = Folder()
        return cls(workload, run_upstream(workload, requests, stages, provider, limits, folder.path), folder)

    def requests(self, stage: str) -> PipelineSpec | None:
        """The pipeline's requests on their way to a stage; None where nothing of them gets there."""
        requests, pipeline = _pipeline(self.workload), self.workload.pipeline
        if requests is None or stage in pipeline.entry_stages():
            return requests
        if stage not in self.sent:
            return None
        codes = sorted({other.code for other in pipeline.stages.values() if other.code is not None})
        return replace(requests, upstream={**self.sent[stage].to_json(), "codes": codes})

    def timed(self, spec: ExecutorSpec, provider: str) -> list[Any]:
        """The inputs that latencies of a choice are measured with. Raises InputError where it does not load."""
        with Executor.from_spec(spec, provider) as executor:
            return [example.input for example in StageInputs.timed(executor, self.requests(spec.stage)).examples]

    def provenance(self, stage: str) -> str:
        """What keys say of what arrives at a stage: the choices before it, and the hash of all that it rests on; empty
        where nothing does."""
        upstream = self.sent.get(stage)
        if upstream is None or upstream.reason:
            return ""
        pipeline, root = self.workload.pipeline, self.workload.root
        parts: list[object] = [upstream.data_sha256, code_sha256(pipeline.code, pipeline.params, root)]
        for name, choice in (upstream.choices or {}).items():
            variant = pipeline.stages[name].variants[Choice.parse(choice).variant]
            code = code_sha256(pipeline.stages[name].code, variant.params, root)
            parts.append((name, choice, model_sha256(self.workload, name, choice), code, variant.options.changed()))
        leading = {upstream.stage, *(upstream.choices or {})}
        parts.append(sorted((e.source, e.target) for e in pipeline.edges if {e.source, e.target} <= leading))
        return provenance(upstream, combined_sha256(*parts))

    def notes(self, stages: Collection[str]) -> list[str]:
        """Of these stages, those past the entry that are not measured with what arrives there, and why."""
        return [
            f"{stage} is measured with its own inputs, not with what arrives: {upstream.reason}"
            for stage, upstream in self.sent.items()
            if upstream.reason and stage in stages
        ]


def _pipeline(workload: Workload) -> PipelineSpec | None:
    """The pipeline's requests; None where it has no code."""
    pipeline = workload.pipeline
    return None if pipeline.code is None else PipelineSpec(str(workload.root), pipeline.code, pipeline.params)
