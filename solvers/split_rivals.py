"""Why a plan of spread classes has what it has: for every class and stage what could stand there instead.

Asked for are every other variant; of the chosen one all calls on one device, none on one that is in use, and one
replica less of an option. The best plan that has it and keeps every promise; where there is none, the cheapest one that
has it, whatever it breaks. There is no latency that would tell batches apart: an option has the batch that serves most,
or draws least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from inferplan.solvers.explain import TIED
from inferplan.solvers.goals import COST
from inferplan.solvers.rivals import Aspect, Rival
from inferplan.solvers.split_enquiry import SplitEnquiry
from inferplan.solvers.split_explain import accuracies, broken, dearer
from inferplan.solvers.split_instance import Question


def split_rivals(enquiry: SplitEnquiry) -> Iterator[Rival]:
    """Everything that could stand elsewhere: variants, then devices and replicas of the chosen ones."""
    split, problem = enquiry.split, enquiry.problem
    for stage in problem.stages:
        for k, need in enumerate(problem.classes):
            own = split.choices[k, stage]
            for variant in problem.variants(stage):
                if variant != own:
                    asked = {"chosen": {(k, stage): variant}}
                    yield from _rival(enquiry, need.name, stage, "variant", own, variant, asked)
        for choice in dict.fromkeys(split.choices[k, stage] for k in range(len(problem.classes))):
            yield from _of_choice(enquiry, stage, choice)


def _of_choice(enquiry: SplitEnquiry, stage: str, choice: str) -> Iterator[Rival]:
    """A choice of a stage on other devices, or with fewer replicas, for all classes that use it."""
    split, problem = enquiry.split, enquiry.problem
    users = [k for k in range(len(problem.classes)) if split.choices[k, stage] == choice]
    who, chosen = ", ".join(problem.classes[k].name for k in users), {(k, stage): choice for k in users}
    options = [o for o in enquiry.instance.options if (o.stage, o.variant) == (stage, choice)]
    used = sorted({option.device for option in options if option.name in split.replicas})
    own = ", ".join(used)
    for device in sorted({option.device for option in options}):
        if used != [device]:
            most = {option.name: 0 for option in options if option.device != device}
            yield from _rival(enquiry, who, stage, "device", own, f"all on {device}", {"chosen": chosen, "most": most})
        if device in used:
            most = {option.name: 0 for option in options if option.device == device}
            yield from _rival(enquiry, who, stage, "device", own, f"none on {device}", {"chosen": chosen, "most": most})
    for option in options:
        count = split.replicas.get(option.name, 0)
        # With none of it left that is the question above.
        if count > 1:
            most = {option.name: count - 1}
            text = f"at most {count - 1} on {option.device}"
            yield from _rival(
                enquiry, who, stage, "replicas", f"{count} x {option.name}", text, {"chosen": chosen, "most": most}
            )


def _rival(
    enquiry: SplitEnquiry, who: str, stage: str, aspect: Aspect, own: str, other: str, asked: Mapping[str, object]
) -> Iterator[Rival]:
    """What a plan would be with what is `asked` of it: fields of a question."""
    what = f"{stage}, {other}"
    before = len(enquiry.left_out)
    question: Question = replace(enquiry.plan.question, **asked)  # type: ignore[arg-type]
    split, keeps = enquiry.decide(what, question), True
    for without in (enquiry.floorless, enquiry.unpromised):
        if split is None and len(enquiry.left_out) == before:
            split, keeps = enquiry.decide(what, without(question), (COST,)), False
    if len(enquiry.left_out) > before:
        return
    if split is None:
        reason = "no plan has it, whatever its accuracy, machines and cost"
        yield Rival(who, stage, aspect, own, other, None, None, None, None, False, reason)
        return
    why = [*broken(enquiry.plan, accuracies(enquiry.plan.search, split)), *enquiry.breaks(split)]
    why += dearer(enquiry.plan, split)
    cost = split.cost_usd_per_h
    yield Rival(
        who, stage, aspect, own, other, cost, cost - enquiry.split.cost_usd_per_h, enquiry.worst_accuracy(split),
        None, keeps, "; ".join(why) or TIED,
    )  # fmt: skip
