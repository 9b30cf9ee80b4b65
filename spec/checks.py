"""Cross-checks of a workload that no single field can fail on its own: names that refer, cycles, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from inferplan.spec.composition import composition_findings
from inferplan.spec.document import Document, closest
from inferplan.spec.errors import InputError, Problem
from inferplan.spec.levels import ask_findings
from inferplan.spec.stage import Metric, Stage, Variant
from inferplan.spec.support import unsupported
from inferplan.spec.usercode import code_file
from inferplan.spec.workload import Workload

MOST_OBSERVABLE = 0.98
"""Load of a queue beyond which it is stable in theory only."""
Path_ = tuple[str | int, ...]
Finding = tuple[Path_, str]


def check_workload(workload: Workload, document: Document) -> list[Problem]:
    """Every problem of a well-formed workload, in order of place."""
    findings = [
        *_edges(workload),
        *_variants(workload),
        *_code(workload),
        *_accuracy(workload),
        *_choices(workload, ("profile", "upstream"), workload.profile.upstream),
        *_tiers(workload),
        *_classes(workload),
        *ask_findings(workload),
        *unsupported(workload),
    ]
    problems = {document.problem(path, message) for path, message in findings}
    return sorted(problems, key=lambda p: (p.file, p.line, p.column, p.field, p.message))


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = closest(name, known)
    return f"there is no {kind} {name!r}" + (
        f"; did you mean {near!r}?" if near else f"; there are: {', '.join(known)}"
    )


def _edges(workload: Workload) -> Iterator[Finding]:
    pipeline = workload.pipeline
    stages = list(pipeline.stages)
    seen: set[tuple[str, str]] = set()
    sound = True
    for index, edge in enumerate(pipeline.edges):
        at: Path_ = ("pipeline", "edges", index)
        for key, name in (("from", edge.source), ("to", edge.target)):
            if name not in pipeline.stages:
                sound = False
                yield (*at, key), _unknown("stage", name, stages)
        if (edge.source, edge.target) in seen:
            yield at, f"a second edge from {edge.source} to {edge.target}"
        seen.add((edge.source, edge.target))
    if not sound:
        return
    try:
        pipeline.order()
    except ValueError as error:
        yield ("pipeline", "edges"), str(error)
        return
    if len(pipeline.entry_stages()) != 1:
        yield (
            ("pipeline", "stages"),
            f"requests enter at one stage; without an edge leading to them: {', '.join(pipeline.entry_stages())}",
        )
    for name in stages:
        feeding = [index for index, edge in enumerate(pipeline.edges) if edge.target == name]
        for index in feeding if len(feeding) > 1 else []:
            if pipeline.edges[index].fan_out != 1.0:
                yield (
                    ("pipeline", "edges", index, "fan_out"),
                    f"stage {name} joins several edges: each must have fan_out 1",
                )


def _variants(workload: Workload) -> Iterator[Finding]:
    for stage_name, stage in workload.pipeline.stages.items():
        at: Path_ = ("pipeline", "stages", stage_name)
        for name, variant in stage.variants.items():
            where: Path_ = (*at, "variants", name)
            yield from _model_files(workload, variant, where)
            yield from _modalities(stage, variant, where)
            if variant.parent is not None and variant.parent not in stage.variants:
                yield (*where, "parent"), _unknown("variant", variant.parent, list(stage.variants))
            elif variant.parent == name:
                yield (*where, "parent"), "a variant is not made from itself"
            if variant.recipe is not None and variant.parent is None:
                yield (*where, "recipe"), "a recipe says how a variant was made from its 'parent'; name that"
            for tensor, shape in variant.input_shapes.items():
                for size in shape:
                    if isinstance(size, str) and size not in variant.input_dims:
                        yield (*where, "input_shapes", tensor), f"{size} has no size in 'input_dims'"
            if variant.accuracy is not None and stage.metric is None:
                yield (*where, "accuracy"), "the stage has no metric that this could be a value of"


def _model_files(workload: Workload, variant: Variant, where: Path_) -> Iterator[Finding]:
    files: list[tuple[Path_, str | None]] = [((*where, "model"), variant.model)]
    if variant.modalities is not None:
        files += [((*where, "modalities", "models", name), file) for name, file in variant.modalities.models.items()]
    for at, file in files:
        if file is None:
            continue
        path = workload.root / file
        if path.is_dir():
            yield at, f"{path} is a folder; expected a model file"
        elif not path.is_file():
            yield at, f"there is no file {path}{_preparing(workload)}"


def _modalities(stage: Stage, variant: Variant, where: Path_) -> Iterator[Finding]:
    """A variant reads what its stage has; the stage names its modalities once."""
    if variant.modalities is None:
        return
    if not stage.modalities:
        yield (*where, "modalities"), "the stage names no 'modalities' that this could read"
        return
    for index, name in enumerate(variant.modalities.reads):
        if name not in stage.modalities:
            yield (*where, "modalities", "reads", index), _unknown("modality", name, stage.modalities)


def _preparing(workload: Workload) -> str:
    """A hint for workloads that fetch their models: those with a prepare.py beside them."""
    script = workload.root / "prepare.py"
    return f" (run `python {script}` first)" if script.is_file() else ""


def _code(workload: Workload) -> Iterator[Finding]:
    pipeline = workload.pipeline
    references: list[tuple[Path_, str | None]] = [(("pipeline", "code"), pipeline.code)]
    for name, stage in pipeline.stages.items():
        at: Path_ = ("pipeline", "stages", name)
        references += [((*at, "code"), stage.code), ((*at, "metric", "compute"), _function(stage.metric))]
        references += [((*at, "variants", key, "factory"), v.factory) for key, v in stage.variants.items()]
    if workload.accuracy is not None:
        references.append((("accuracy", "metric", "compute"), _function(workload.accuracy.metric)))
        references.append((("accuracy", "function"), workload.accuracy.function))
    for path, reference in references:
        if reference is None:
            continue
        try:
            code_file(reference, workload.root)
        except InputError as error:
            yield path, error.message


def _function(metric: Metric | None) -> str | None:
    """The `module:function` of a metric that is not built in."""
    compute = None if metric is None else metric.compute
    return compute if compute is not None and ":" in compute else None


def _choices(workload: Workload, at: Path_, named: Mapping[str, str]) -> Iterator[Finding]:
    """Stages and choices of theirs that the workload does not have."""
    stages = workload.pipeline.stages
    for name, variant in named.items():
        if name not in stages:
            yield (*at, name), _unknown("stage", name, list(stages))
        elif variant not in stages[name].choices():
            yield (*at, name), _unknown("variant", variant, list(stages[name].choices()))


def _accuracy(workload: Workload) -> Iterator[Finding]:
    if workload.accuracy is None:
        for name, traffic in workload.classes.items():
            for what in ("floor", "goal"):
                if getattr(traffic.accuracy, what) is not None:
                    at: Path_ = ("classes", name, "accuracy", what)
                    yield at, "the workload has no 'accuracy' with a metric to hold this to"
        if "accuracy" in workload.objective.terms:
            yield ("objective",), "the workload has no 'accuracy' with a metric to make best of"
        return
    stages = workload.pipeline.stages
    for index, combination in enumerate(workload.accuracy.combinations):
        at = ("accuracy", "combinations", index)
        yield from _choices(workload, at, combination)
        missing = [name for name in stages if name not in combination]
        if missing:
            yield at, f"a combination names a variant for every stage; missing: {', '.join(missing)}"
    yield from composition_findings(workload)


def _tiers(workload: Workload) -> Iterator[Finding]:
    devices = workload.devices()
    for tier, places in workload.tiers.items():
        for name, device in places.devices.items():
            like = device.like
            at: Path_ = ("tiers", tier, "devices", name, "like", "device")
            yield from _purchase(workload, tier, name)
            if like is None:
                continue
            if like.device not in devices:
                yield at, _unknown("device", like.device, list(devices))
            elif devices[like.device].like is not None:
                yield at, f"{like.device} is not measured itself: name a device that is"
    yield from _links(workload)


def _links(workload: Workload) -> Iterator[Finding]:
    seen: dict[tuple[str, str], str] = {}
    for key, link in workload.links.items():
        for end, tier in (("from", link.source), ("to", link.target)):
            if tier not in workload.tiers:
                yield ("links", key, end), _unknown("tier", tier, list(workload.tiers))
        if link.source == link.target:
            yield ("links", key), "a link joins two tiers; traffic within a tier is free and takes no time"
        other = seen.setdefault((link.source, link.target), key)
        if other != key:
            yield ("links", key), f"a second link from {link.source} to {link.target}; the first is {other!r}"
    for index, edge in enumerate(workload.pipeline.edges):
        stage = workload.pipeline.stages.get(edge.source)
        if stage is None or not isinstance(edge.payload_bytes, dict):
            continue
        at: Path_ = ("pipeline", "edges", index, "payload_bytes")
        for choice in edge.payload_bytes:
            if choice not in stage.choices():
                yield (*at, choice), _unknown("variant", choice, list(stage.choices()))
        missing = [choice for choice in stage.choices() if choice not in edge.payload_bytes]
        if missing:
            yield at, f"a size for every variant of {edge.source} is needed; missing: {', '.join(missing)}"


def _trace(workload: Workload, file: str) -> Iterator[str]:
    """What is wrong with a trace."""
    # Reading it takes numpy, which a workload without traces can be checked without.
    from inferplan.spec.trace import read_trace

    path = workload.root / file
    if not path.is_file():
        yield f"there is no file {path}"
        return
    try:
        read_trace(path)
    except InputError as error:
        yield error.message


def _purchase(workload: Workload, tier: str, name: str) -> Iterator[Finding]:
    """What is bought how, and what is known of its power where electricity has a price."""
    device, at = workload.tiers[tier].devices[name], ("tiers", tier, "devices", name)
    if device.term is not None and device.purchase != "reserved":
        yield (*at, "term"), "a term belongs to purchase: reserved"
    if device.purchase == "spot" and "interruptions_per_h" not in device.model_fields_set:
        yield (*at, "purchase"), "bought spot: give interruptions_per_h (expected interruptions per hour of running)"
    if device.power_w is None and device.idle_power_w is None:
        give = "give power_w (watts), or idle_power_w where a counter was measured"
        if "energy" in workload.objective.terms:
            yield at, f"the objective is about energy: {give}"
        elif workload.tiers[tier].energy_price_usd_per_kwh > 0:
            yield at, f"electricity of tier {tier} has a price: {give}"


def _classes(workload: Workload) -> Iterator[Finding]:
    for name, traffic in workload.classes.items():
        at: Path_ = ("classes", name)
        if traffic.enters_at is not None and traffic.enters_at not in workload.tiers:
            yield (*at, "enters_at"), _unknown("tier", traffic.enters_at, list(workload.tiers))
        if traffic.enters_at is None and len(workload.tiers) > 1:
            yield at, f"'enters_at' is missing: which of the tiers do requests come from: {', '.join(workload.tiers)}?"
        if traffic.slo is not None and workload.max_utilisation > MOST_OBSERVABLE:
            yield (
                ("max_utilisation",),
                f"no finite observation could confirm the promise of class {name} on queues loaded beyond"
                f" {MOST_OBSERVABLE:g}; at most {MOST_OBSERVABLE:g} with an slo",
            )
        if traffic.trace is not None:
            yield from (((*at, "trace"), message) for message in _trace(workload, traffic.trace))
        floor, goal = traffic.accuracy.floor, traffic.accuracy.goal
        wanted: list[tuple[Path_, float | None]] = [((*at, "accuracy", "floor"), floor)]
        wanted.append(((*at, "accuracy", "goal"), goal))
        for index, asked in enumerate(traffic.asks.mix if traffic.asks else ()):
            wanted.append(((*at, "asks", "mix", index, "accuracy"), asked.accuracy))
        for where, value in wanted:
            named = workload.accuracy is not None and "acc" in workload.accuracy.metric.name
            if value is not None and named and 1.0 < value <= 100.0:
                yield where, f"accuracies are fractions: write {value / 100:g} for {value:g} %"
        if floor is not None and goal is not None and workload.accuracy is not None:
            sign = 1.0 if workload.accuracy.metric.direction == "maximize" else -1.0
            if sign * goal < sign * floor:
                yield (
                    (*at, "accuracy", "goal"),
                    f"this is worse than the floor, {floor:g}, which is promised",
                )
    objective = workload.objective
    if objective.maximize == "accuracy" and objective.budget_usd_per_h is None:
        yield ("objective",), "maximize: accuracy needs budget_usd_per_h (US dollars per hour)"
