"""Why a plan of classes that split, or have jobs, has what it has: how else requests could be shared out, and what else
could serve them.

For every class: all its requests one way; its ways with a little more or less on either. For every class and stage:
each variant that none of its ways uses, at least for some requests; the variants in use left out one by one; then each
of those on another device, at other batches, with fewer replicas, wherever the class uses it. As in `rivals` the answer
is the best plan there is with that, over all shares (finer ones included), or, where none keeps every promise, the
cheapest one whatever it promises, with what it breaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from inferplan.solvers.clock import OutOfTimeError
from inferplan.solvers.columns import Column, best_of_kinds, build_columns
from inferplan.solvers.enquiry import Enquiry
from inferplan.solvers.explain import verdict
from inferplan.solvers.goals import Pick
from inferplan.solvers.milp import Solution, instance
from inferplan.solvers.mixtures import MixtureSolver
from inferplan.solvers.options import Option
from inferplan.solvers.parts import STEPS, members, pattern_of, patterns, splits, whole, with_pattern
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.rivals import Aspect, Rival, batch_text, tied, whatever


def rivals(enquiry: Enquiry) -> Iterator[Rival]:
    """Shares first, then stage by stage what else could serve each class."""
    plan = enquiry.plan
    assert isinstance(plan.program, MixtureSolver)
    own = whole(plan.problem)
    late: list[str] = []
    for need in own:
        if need.name in splits(plan.problem):
            try:
                yield from _Sharing(enquiry, plan.program, need).rivals()
            except OutOfTimeError:
                enquiry.left_out.append(f"other shares of {need.name}: out of time")
    for stage in plan.problem.stages:
        if enquiry.seconds_left <= 0:
            late.append(stage)
            continue
        wider = _Wider(stage, _in_use(enquiry, stage))
        try:
            program = plan.program.widened(wider, plan.solution.classes, plan.deadline)
        except OutOfTimeError:
            late.append(stage)
            continue
        for need in own:
            yield from _Spot(enquiry, program, need.name, stage).rivals()
    if late:
        enquiry.left_out.append(f"what else could stand at {', '.join(late)}: out of time")


def _served(problem: Problem, name: str, stage: str, column: Column) -> bool:
    """Whether a column serves requests of a class at a stage."""
    if column.stage != stage:
        return False
    return any(problem.classes[k].share > 0 and problem.classes[k].name == name for k in column.classes)


def _in_use(enquiry: Enquiry, stage: str) -> frozenset[str]:
    return frozenset(column.option.variant for column in enquiry.plan.solution.columns if column.stage == stage)


@dataclass(frozen=True)
class _Wider:
    """Columns of a stage that questions about it need, though others may be better: of every variant and device the
    best, of those in use the best at every batch."""

    stage: str
    used: frozenset[str]

    def __call__(self, problem: Problem) -> Sequence[Column]:
        if problem.assurance.shapes_columns:
            return ()
        every = build_columns(problem, lifted=True, prune=False, stages=(self.stage,))
        return best_of_kinds(problem, every, self._kind)

    def _kind(self, option: Option) -> object:
        return option.variant, option.device, batch_text(option) if option.variant in self.used else ""


@dataclass(frozen=True)
class _Question:
    """Asks for plans that have something, or have something not, in some patterns; `finer`: also between them."""

    enquiry: Enquiry
    program: MixtureSolver
    name: str
    stage: str = ""
    finer: bool = True

    def rival(
        self, aspect: Aspect, own: str, other: str, some: Sequence[Pick], none: Sequence[Pick] = ()
    ) -> Iterator[Rival]:
        """The best plan with this; `other` names what is asked for where no plan has it."""
        plan, about = self.enquiry.plan, f"{self.stage or self.name}: another {aspect} than {own}"
        ask = replace(plan.ask, some=tuple(some), none=tuple(none))
        kept = self.enquiry.decide(about, ask, program=self.program, finer=self.finer)
        if kept is None and self.enquiry.seconds_left <= 0:
            return
        found = kept.solution if kept else replace(plan, program=self.program).best(whatever(ask))
        if found is None and (self.enquiry.seconds_left <= 0 or self.program.timed_out):
            self.enquiry.left_out.append(f"{about}: out of time")
            return
        if found is None:
            why = "no plan has it, with the machines there are"
            yield Rival(self.name, self.stage, aspect, own, other, None, None, None, None, False, why)
            return
        said = verdict(plan, found)
        yield Rival(
            self.name, self.stage, aspect, own, self._text(aspect, found, other), found.cost_usd_per_h,
            found.cost_usd_per_h - plan.solution.cost_usd_per_h,
            said.accuracy, said.latency_s, kept is not None,
            "; ".join(said.reasons) or tied(plan, said.accuracy),
        )  # fmt: skip

    def _text(self, aspect: Aspect, found: Solution, other: str) -> str:
        if aspect in ("shares", "ways"):
            return ways_text(self.enquiry.plan.problem, found, self.name)
        if aspect == "variant":
            return mix_text(self.enquiry.plan.problem, found, self.name, self.stage)
        return other


@dataclass(frozen=True)
class _Sharing:
    """How the requests of a class are shared out."""

    enquiry: Enquiry
    program: MixtureSolver
    need: ClassNeed

    def rivals(self) -> Iterator[Rival]:
        """All one way; a step less, and a step more, on the second of its ways."""
        plan, problem = self.enquiry.plan, self.enquiry.plan.problem
        split = instance(problem, plan.solution)
        text = ways_text(problem, plan.solution, self.need.name)
        parts = [k for k in members(split, self.need.name) if split.classes[k].share > 0]
        if len({_variants(split, plan.solution, k) for k in parts}) < 2:
            return
        at = [need.name for need in whole(problem)].index(self.need.name)
        unsplit = [with_pattern(problem, p) for p in patterns(problem) if sum(weight > 0 for weight in p[at]) == 1]
        one = _Question(self.enquiry, self.program.of(unsplit, plan.deadline), self.need.name)
        yield from replace(one, finer=False).rival("ways", text, "all one way", ())
        same = [_going(k, stage, variant) for k in parts for stage, variant in _variants(split, plan.solution, k)]
        for weights in self._nearby(split, at):
            pattern = list(pattern_of(split))
            pattern[at] = weights
            other = self.program.of([with_pattern(problem, tuple(pattern))], plan.deadline)
            yield from replace(one, program=other, finer=False).rival("shares", text, _shares_text(weights), same)

    def _nearby(self, split: Problem, at: int) -> Iterator[tuple[float, ...]]:
        """Weights of the parts with a step less and a step more on the second."""
        first, second = pattern_of(split)[at]
        steps = STEPS[len(splits(split))]
        step = float(-(-self.need.burst // steps)) if self.need.burst_of > 1 else 1 / steps
        for few in (second - step, second + step):
            if min(few, first + second - few) > 1e-9:
                yield (first + second - few, few)


@dataclass(frozen=True)
class _Spot:
    """A class's stage with what serves it there."""

    enquiry: Enquiry
    program: MixtureSolver
    name: str
    stage: str

    def rivals(self) -> Iterator[Rival]:
        """Other variants, then the device, batch and replicas of those in use."""
        plan = self.enquiry.plan
        split = instance(plan.problem, plan.solution)
        queues = [c for c in plan.solution.columns if _served(split, self.name, self.stage, c)]
        used = sorted({column.option.variant for column in queues})
        variants = plan.problem.variants(self.stage)
        own, ask = mix_text(plan.problem, plan.solution, self.name, self.stage), self._question()
        for variant in [v for v in variants if v not in used]:
            yield from ask.rival("variant", own, variant, [self._is(variant)])
        for variant in used if len(used) > 1 else ():
            yield from ask.rival("variant", own, f"not {variant}", (), [self._is(variant)])
        for variant in used:
            yield from self._aspects(variant, [c for c in queues if c.option.variant == variant])
        if self.enquiry.seconds_left <= 0:
            self.enquiry.left_out.append(f"{self.stage}: what else could serve {self.name}: out of time")

    def _aspects(self, variant: str, queues: Sequence[Column]) -> Iterator[Rival]:
        """The same variant elsewhere, at other batches, with fewer replicas."""
        options = [column.option for column in queues if column.option.need is not None]
        if not options:
            return
        problem, ask = self.enquiry.plan.problem, self._question()
        there = dict.fromkeys(option.device for option in options)
        every = [o for o in problem.options(self.stage) if o.variant == variant]
        devices, said = ", ".join(there), f"{variant}: "
        for device in sorted({o.device for o in every} - set(there)):
            some, none = [self._is(variant, device=device)], [self._is(variant, device=d) for d in there]
            yield from ask.rival("device", said + devices, said + device, some, none)
        batches = list(dict.fromkeys(batch_text(option) for option in options))
        if {batch_text(o) for o in every if o.device in there} - set(batches):
            none = [self._is(variant, batch=batch) for batch in batches]
            text = said + ", ".join(batches)
            yield from ask.rival("batch", text, f"{said}another", [self._is(variant)], none)
        for column in queues:
            if column.option.need is not None and column.replicas > 1:
                own, fewer = str(column.replicas), f"at most {column.replicas - 1}"
                where = f"{said}{own}" if len(queues) == 1 else f"{said}{own} at batch {batch_text(column.option)}"
                some, none = [self._is(variant)], [self._at_least(column)]
                yield from ask.rival("replicas", where, said + fewer, some, none)

    def _question(self) -> _Question:
        return _Question(self.enquiry, self.program, self.name, self.stage)

    def _is(self, variant: str, device: str | None = None, batch: str | None = None) -> Pick:
        def meant(problem: Problem, column: Column) -> bool:
            option = column.option
            return (
                _served(problem, self.name, self.stage, column)
                and option.variant == variant
                and device in (None, option.device)
                and (batch is None or batch_text(option) == batch)
            )

        return meant

    def _at_least(self, own: Column) -> Pick:
        def meant(problem: Problem, column: Column) -> bool:
            more = column.option == own.option and column.replicas >= own.replicas
            return more and _served(problem, self.name, self.stage, column)

        return meant


def _going(part: int, stage: str, variant: str) -> Pick:
    """A part of a class goes by a variant."""

    def meant(_: Problem, column: Column) -> bool:
        return column.stage == stage and part in column.classes and column.option.variant == variant

    return meant


def _variants(split: Problem, solution: Solution, part: int) -> tuple[tuple[str, str], ...]:
    chosen = solution.chosen()
    return tuple((stage, chosen[part, stage].option.variant) for stage in split.stages)


def _shares_text(weights: Sequence[float]) -> str:
    return " : ".join(f"{weight:.4g}" for weight in weights)


def _share_text(need: ClassNeed) -> str:
    return f"{need.burst} of {need.burst_of}" if need.burst_of > 1 else f"{100 * need.share:.4g} %"


def ways_text(problem: Problem, solution: Solution, name: str) -> str:
    """How a class's requests are shared out: `60 % by s, 40 % by l`; only stages at which its ways differ are named."""
    split = instance(problem, solution)
    ways: dict[tuple[tuple[str, str], ...], ClassNeed] = {}
    for k in members(split, name):
        if split.classes[k].share > 0:
            key, need = _variants(split, solution, k), split.classes[k]
            known = ways.get(key)
            more = 0 if known is None else known.burst
            ways[key] = replace(need, share=need.share + (known.share if known else 0.0), burst=need.burst + more)
    differ = [i for i in range(len(split.stages)) if len({way[i] for way in ways}) > 1]
    if not differ:
        (way,) = ways
        return f"all by {', '.join(variant for _, variant in way)}"
    return ", ".join(f"{_share_text(need)} by {' and '.join(way[i][1] for i in differ)}" for way, need in ways.items())


def mix_text(problem: Problem, solution: Solution, name: str, stage: str) -> str:
    """The variants that serve a class at a stage, with their shares where there are several."""
    split, chosen = instance(problem, solution), solution.chosen()
    shares: dict[str, ClassNeed] = {}
    for k in members(split, name):
        need, variant = split.classes[k], chosen[k, stage].option.variant
        if need.share > 0:
            known = shares.get(variant)
            more = 0 if known is None else known.burst
            shares[variant] = replace(need, share=need.share + (known.share if known else 0.0), burst=need.burst + more)
    if len(shares) == 1:
        return next(iter(shares))
    return " + ".join(f"{_share_text(need)} {variant}" for variant, need in shares.items())
