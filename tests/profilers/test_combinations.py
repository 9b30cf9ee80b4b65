"""Whole pipelines: what is shared between combinations, what a failure takes with it, how calls join."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.profilers.accuracy import evaluate_combinations
from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.combinations import Item, joined
from inferplan.profilers.jobs import CombinationsJob
from inferplan.profilers.planning import wanted_combinations
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import AccuracyRow

MakeWorkload = Callable[..., LoadedWorkload]

CODE = """
import os, signal
from pathlib import Path

def note(context, inputs):
    with open(context.root / "calls.txt", "a") as file:
        file.writelines(f"{context.stage} {context.variant} {item}\\n" for item in inputs)

class Split:
    '''A request is a word; its letters go on. `lower` loses capitals.'''
    def __init__(self, context): self.context = context
    def examples(self): return [("aBa", "aBa"), ("ab", "ab")]
    def passthrough(self, inputs):
        note(self.context, inputs)
        return [word.lower() if self.context.variant == "lower" else word for word in inputs]
    def route(self, word, split): return list(split)
    def score(self, predictions, truths): return {"same": [float(p == t) for p, t in zip(predictions, truths)]}

class Letter:
    '''A letter -> the letter; `crash` dies at B, `raise` raises there.'''
    def __init__(self, context): self.context = context
    def examples(self): return [("a", "a")]
    def passthrough(self, inputs):
        note(self.context, inputs)
        if self.context.variant == "crash" and "B" in inputs: os.kill(os.getpid(), signal.SIGSEGV)
        if self.context.variant == "raise" and "B" in inputs: raise ValueError("no B")
        return list(inputs)
    def score(self, predictions, truths): return {"same": [float(p == t) for p, t in zip(predictions, truths)]}

class Word:
    def __init__(self, context): pass
    def examples(self): return [("aBa", "aBa"), ("ab", "ab")]
    def join(self, request, results): return "".join(results["letter"])
    def score(self, answers, truths):
        return {"right": [float(a == t) for a, t in zip(answers, truths)],
                "letters": ([float(sum(map(str.__eq__, a, t))) / len(t) for a, t in zip(answers, truths)],
                            [float(len(t)) for t in truths])}
"""
SKIP = {"runtime": "skip"}


def two_stages(make_workload: MakeWorkload, letters: list[str], **accuracy: Any) -> LoadedWorkload:
    stages = {
        "split": {"code": "tricks:Split", "metric": {"name": "same"}, "variants": {"lower": SKIP, "exact": SKIP}},
        "letter": {"code": "tricks:Letter", "metric": {"name": "same"}, "variants": dict.fromkeys(letters, SKIP)},
    }
    return make_workload(
        code=CODE,
        pipeline={
            "code": "tricks:Word",
            "stages": stages,
            "edges": [{"from": "split", "to": "letter", "fan_out": "measured"}],
        },
        accuracy={"metric": {"name": "right"}, "composition": "table", **accuracy},
        profile={"min_time_s": 0.001},
    )


def rows_of(profile: Profile, metric: str = "right") -> dict[str, AccuracyRow]:
    found = [row for row in profile.accuracy if row.scope == "pipeline" and row.metric == metric]
    return {" ".join(row.stages().values()): row for row in found}


@pytest.fixture
def profile_at(tmp_path: Path) -> Callable[[LoadedWorkload], Profile]:
    def profile(loaded: LoadedWorkload) -> Profile:
        run_campaign(plan_campaign(loaded, tmp_path / "p"))
        return read_profile(tmp_path / "p")

    return profile


def test_a_table_has_every_combination(
    make_workload: MakeWorkload, profile_at: Callable[[LoadedWorkload], Profile]
) -> None:
    profile = profile_at(two_stages(make_workload, ["plain", "other"]))
    values = {name: row.value for name, row in rows_of(profile).items()}
    # Keys are sorted by stage: letter, split.
    assert values == {"plain exact": 1.0, "other exact": 1.0, "plain lower": 0.5, "other lower": 0.5}
    letters = rows_of(profile, "letters")["plain lower"]
    assert letters.value == pytest.approx(4 / 5)
    assert letters.method == "bootstrap"
    assert letters.n == 2


def test_flows_count_calls_and_bytes(
    make_workload: MakeWorkload, profile_at: Callable[[LoadedWorkload], Profile]
) -> None:
    profile = profile_at(two_stages(make_workload, ["plain"]))
    flow = {row.variant: row for row in profile.flows}["exact"]
    assert (flow.source, flow.target, flow.fan_out_mean, flow.n) == ("split", "letter", 2.5, 2)
    assert json.loads(flow.fan_outs) == [3, 2]
    assert flow.payload_bytes_mean == 1.0


def test_the_same_work_is_done_once(
    make_workload: MakeWorkload, tmp_path: Path, profile_at: Callable[[LoadedWorkload], Profile]
) -> None:
    loaded = two_stages(make_workload, ["plain", "other"])
    calls = tmp_path / "workload" / "calls.txt"
    (job,) = [job for job in plan_campaign(loaded, tmp_path / "p").jobs if isinstance(job, CombinationsJob)]
    calls.unlink()
    wanted = [json.loads(text) for text in job.evidence]
    assert len(list(evaluate_combinations(job, wanted, lambda share: None))) == 4
    made = sorted(calls.read_text().splitlines())
    assert made == sorted(
        [f"split {variant} {word}" for variant in ("exact", "lower") for word in ("aBa", "ab")]
        + [f"letter {variant} {letter}" for variant in ("plain", "other") for letter in ("a", "B", "b")]
    )


@pytest.mark.parametrize(("bad", "reason"), [("raise", "letter=raise: ValueError: no B"), ("crash", "SIGSEGV")])
def test_a_variant_that_fails_takes_only_its_combinations_with_it(
    make_workload: MakeWorkload, profile_at: Callable[[LoadedWorkload], Profile], bad: str, reason: str
) -> None:
    profile = profile_at(two_stages(make_workload, [bad, "plain"]))
    rows = rows_of(profile)
    assert (rows["plain exact"].value, rows["plain lower"].value) == (1.0, 0.5)
    failed = rows[f"{bad} exact"]
    assert failed.status == "failed"
    assert reason in failed.reason


def test_only_listed_combinations_are_evaluated(
    make_workload: MakeWorkload, profile_at: Callable[[LoadedWorkload], Profile]
) -> None:
    listed = [{"split": "lower", "letter": "plain"}]
    profile = profile_at(two_stages(make_workload, ["plain", "other"], combinations=listed))
    assert set(rows_of(profile)) == {"plain lower"}


def test_combinations_that_are_there_are_not_evaluated_again(
    make_workload: MakeWorkload, tmp_path: Path, profile_at: Callable[[LoadedWorkload], Profile]
) -> None:
    profile_at(two_stages(make_workload, ["plain"]))
    more = two_stages(make_workload, ["plain", "other"])
    summary = run_campaign(plan_campaign(more, tmp_path / "p"))
    # The new variant's own accuracy and its two combinations.
    assert summary.evaluated == 3
    assert len(rows_of(read_profile(tmp_path / "p"))) == 4


def test_a_metric_the_pipeline_does_not_score_is_a_row(
    make_workload: MakeWorkload, profile_at: Callable[[LoadedWorkload], Profile]
) -> None:
    loaded = two_stages(make_workload, ["plain"], metric={"name": "bleu"})
    row = rows_of(profile_at(loaded), "bleu")["plain exact"]
    assert row.status == "failed"
    assert "not the metric bleu" in row.reason


def test_calls_of_one_fan_out_join_by_key() -> None:
    calls = joined(
        "j",
        {
            "left": [Item(0, (1,), "l1"), Item(0, (0,), "l0"), Item(1, (), "m")],
            "right": [Item(0, (0,), "r0"), Item(0, (1,), "r1"), Item(1, (), "s")],
        },
    )
    assert calls == [
        Item(0, (0,), {"left": "l0", "right": "r0"}),
        Item(0, (1,), {"left": "l1", "right": "r1"}),
        Item(1, (), {"left": "m", "right": "s"}),
    ]


def test_calls_without_a_common_key_join_by_order_and_must_match_in_number() -> None:
    left = [Item(0, (0,), "l0"), Item(0, (1,), "l1")]
    right = [Item(0, (0, 0), "r0"), Item(0, (0, 1), "r1")]
    assert [item.content for item in joined("j", {"left": left, "right": right})] == [
        {"left": "l0", "right": "r0"},
        {"left": "l1", "right": "r1"},
    ]
    with pytest.raises(InputError, match="2 from left, 1 from right"):
        joined("j", {"left": left, "right": right[:1]})


def test_a_fitted_accuracy_starts_from_as_few_combinations_as_show_every_choice(make_workload: MakeWorkload) -> None:
    loaded = two_stages(make_workload, ["plain", "other", "third"], composition="fitted")
    wanted = wanted_combinations(loaded.workload)
    assert len(wanted) == 3
    assert {one["split"] for one in wanted} == {"exact", "lower"}
    assert {one["letter"] for one in wanted} == {"plain", "other", "third"}
