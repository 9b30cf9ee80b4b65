"""Past the entry latency is measured with what the stages before send on, accuracy with a stage's own examples."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.estimators.points import read_points
from inferplan.profilers import upstream
from inferplan.profilers.arriving import Arriving
from inferplan.profilers.campaign import Campaign, plan_campaign, run_campaign
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.jobs import PointJob
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.store import ProfileStore
from inferplan.profilers.upstream import Upstream, run_upstream, stages_fed, thinned
from inferplan.reports.profile_tables import place_notes
from inferplan.reports.profile_view import view
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import Measurement
from inferplan.spec.stage import Choice

MakeWorkload = Callable[..., LoadedWorkload]

CODE = """
import numpy as np

class Crop:
    '''What goes from stage to stage: pickled by the name of its class.'''
    def __init__(self, value, size):
        self.value = value
        self.size = size

class First:
    '''Sends on crops of 3 numbers; those that Then has labelled have 5.'''
    def __init__(self, context):
        self.params = context.params
    def examples(self):
        return [(float(i), 2.0 * i) for i in range(20)]
    def preprocess(self, inputs):
        print("noise on standard output")
        return {"x": np.array([[i] * 4 for i in inputs], np.float32)}
    def postprocess(self, inputs, outputs):
        if self.params.get("trick") == "fail" and len(inputs) > 1:
            raise ValueError("no good")
        return [float(row[0]) for row in outputs["y"]]
    def route(self, stage_input, prediction):
        if self.params.get("trick") == "misroute":
            return [prediction]
        return [Crop(self.params.get("value", prediction), self.params.get("size", 3))] * self.params.get("sends", 2)
    def score(self, predictions, truths):
        return {"right": [float(p == t) for p, t in zip(predictions, truths)]}

class Then:
    def __init__(self, context):
        pass
    def preprocess(self, inputs):
        return {"x": np.array([[item.value] * item.size for item in inputs], np.float32)}
    def postprocess(self, inputs, outputs):
        if any(item.value == 99.0 for item in inputs):
            raise ValueError("99 is too much")
        return [float(row[0]) for row in outputs["y"]]

class Labelled(Then):
    def examples(self):
        return [(Crop(float(i), 5), 2.0 * i) for i in range(7)]
    def route(self, stage_input, prediction):
        return [Crop(prediction, stage_input.size)]
    def score(self, predictions, truths):
        return {"right": [float(p == t) for p, t in zip(predictions, truths)]}

class Whole:
    def __init__(self, context):
        self.count = context.params.get("count", 100)
    def examples(self):
        return [(float(i), None) for i in range(self.count)]
"""


@pytest.fixture
def chain(make_workload: MakeWorkload, make_model: Callable[..., Path]) -> Callable[..., LoadedWorkload]:
    """A chain `first` (choices v, w) -> `then` -> `last`; only `code` says whether `then` has labelled crops."""

    def made(
        params: dict[str, Any] | None = None,
        code: str = "Labelled",
        pipeline: dict[str, Any] | None = None,
        w: dict[str, Any] | None = None,
    ) -> LoadedWorkload:
        variant = {"model": "double.onnx"}
        any_size = {"model": make_model("workload/any.onnx", shape=["N", "S"]).name}
        metric = {"name": "right"}
        first = {"v": {**variant, "params": params or {}}, "w": {**variant, "params": w or {}}}
        then = {"code": f"tricks:{code}", "variants": {"v": any_size}, **({"metric": metric} if code != "Then" else {})}
        stages = {
            "first": {"code": "tricks:First", "metric": metric, "variants": first},
            "then": then,
            "last": {"code": "tricks:Labelled", "metric": metric, "variants": {"v": any_size}},
        }
        edges = [{"from": "first", "to": "then", "fan_out": "measured"}]
        if code != "Then":
            edges.append({"from": "then", "to": "last"})
        else:
            del stages["last"]
        whole = {"stages": stages, "edges": edges, **(pipeline or {})}
        return make_workload(code=CODE, pipeline=whole)

    return made


def point(profile: Profile, stage: str) -> Measurement:
    (row,) = [row for row in profile.measurements if row.key.stage == stage]
    return row


def widths(profile: Profile, stage: str) -> set[int]:
    """What the model was really fed with, in elements."""
    samples = profile.samples(point(profile, stage).key)
    assert samples is not None
    return set(samples.elements.tolist())


def points_of(campaign: Campaign) -> set[str]:
    return {job.name for job in campaign.jobs if isinstance(job, PointJob)}


def arrivals(loaded: LoadedWorkload, folder: Path) -> dict[str, Upstream]:
    workload = loaded.workload
    requests = PipelineSpec(str(workload.root), workload.pipeline.code, workload.pipeline.params)
    return run_upstream(workload, requests, stages_fed(workload), "cpu", Limits(20.0, 2**30), folder)


def test_latency_is_measured_with_what_arrives_and_accuracy_with_labelled_inputs(
    chain: Callable[..., LoadedWorkload], tmp_path: Path
) -> None:
    loaded = chain()
    campaign = plan_campaign(loaded, tmp_path / "p")
    assert campaign.notes == ()
    assert run_campaign(campaign).failed == ()
    profile = read_profile(tmp_path / "p")
    assert widths(profile, "then") == widths(profile, "last") == {3}
    assert json.loads(point(profile, "then").key.input_shape) == {"x": [1, 3]}
    assert point(profile, "then").key.senders == {"first": "v"}
    assert point(profile, "last").key.senders == {"first": "v", "then": "v"}
    assert {row.key.inputs for row in profile.measurements if row.key.stage == "first"} == {""}
    notes = {place.stage: place_notes(place) for place in view(profile).places}
    assert "measured with what first=v, then=v sends it" in notes["last"]
    assert not [note for note in notes["first"] if "sends it" in note]
    judged = {row.stage: (row.n, row.value) for row in profile.accuracy}
    assert judged == {"first": (20, 1.0), "then": (7, 1.0), "last": (7, 1.0)}
    assert {row.n for row in profile.flows if row.source == "then"} == {7}


def test_stages_are_served_with_what_they_are_timed_with(chain: Callable[..., LoadedWorkload]) -> None:
    loaded = chain()
    pipeline = loaded.workload.pipeline
    told: list[str] = []
    arriving = Arriving.of(loaded.workload, "cpu", Limits(20.0, 2**30), told.append)
    assert told == ["what arrives at then, last"]

    def inputs(found: Arriving, stage: str) -> list[Any]:
        spec = ExecutorSpec.of(loaded.workload.root, stage, pipeline.stages[stage], Choice("v"))
        return found.timed(spec, "cpu")

    assert len(inputs(arriving, "first")) == 20  # its own labelled ones
    assert {item.size for item in inputs(arriving, "then")} == {3}
    assert {item.size for item in inputs(arriving, "last")} == {3}
    # Where nothing was sent, the labelled ones stand in.
    assert {item.size for item in inputs(Arriving(loaded.workload), "then")} == {5}


def test_it_goes_on_where_it_was_and_measures_again_what_other_inputs_arrive_at(
    chain: Callable[..., LoadedWorkload], tmp_path: Path
) -> None:
    run_campaign(plan_campaign(chain(), tmp_path / "p"))
    assert plan_campaign(chain(), tmp_path / "p").jobs == ()
    # What does not run before the stages changes nothing for them.
    assert points_of(plan_campaign(chain(w={"size": 8}), tmp_path / "p")) == {"first=w batch 1"}
    again = plan_campaign(chain({"size": 4}), tmp_path / "p")
    assert points_of(again) == {"first=v batch 1", "then=v batch 1", "last=v batch 1"}
    assert any(note.startswith("then=v is measured again: ") and "inputs" in note for note in again.notes)
    more = plan_campaign(chain(pipeline={"params": {"count": 30}}), tmp_path / "p")
    assert points_of(more) == {"then=v batch 1", "last=v batch 1"}
    assert "then=v is measured again: where its inputs come from changed" in more.notes


def test_profiles_of_earlier_versions_are_read_and_give_way(
    chain: Callable[..., LoadedWorkload], tmp_path: Path
) -> None:
    """They have no column `inputs`, and their points are named without it."""
    path = tmp_path / "p"
    run_campaign(plan_campaign(chain(), path))
    before = {row.key.stage: row for row in read_profile(path).measurements if row.choice == "v"}
    samples = {stage: read_profile(path).samples(row.key) for stage, row in before.items()}
    for file in [*(path / "measurements").glob("*.parquet"), *(path / "samples").glob("*.parquet")]:
        file.unlink()
    with ProfileStore(path) as store:
        for stage, row in before.items():
            old = dataclasses.replace(row, key=dataclasses.replace(row.key, inputs=""))
            fields = {item.name for item in dataclasses.fields(old.key)} - {"inputs"}
            assert old.key.id() == _id_without_inputs({name: getattr(old.key, name) for name in fields})
            raw = samples[stage]
            assert raw is not None
            store.add_measurement(old, dataclasses.replace(raw, point=old.key.id()))
    for file in (path / "measurements").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["inputs"]), file)
    profile = read_profile(path)
    assert profile.damaged == ()
    assert len(read_points(chain().workload, profile).models) == 3
    again = plan_campaign(chain(), path)
    assert points_of(again) == {"first=w batch 1", "then=v batch 1", "last=v batch 1"}
    run_campaign(again)
    points = read_points(chain().workload, read_profile(path))
    assert "then/v on edge/box: 1 rows of another source of inputs" in points.superseded


def _id_without_inputs(fields: dict[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:24]


def test_the_first_choice_that_runs_does_the_work(chain: Callable[..., LoadedWorkload], tmp_path: Path) -> None:
    found = arrivals(chain({"trick": "fail"}, w={"size": 6}), tmp_path)
    assert {stage: dict(item.choices or {}) for stage, item in found.items()} == {
        "then": {"first": "w"},
        "last": {"first": "w", "then": "v"},
    }
    assert {item.reason for item in found.values()} == {""}


def test_the_choice_that_the_workload_names_does_the_work(chain: Callable[..., LoadedWorkload], tmp_path: Path) -> None:
    loaded = chain(w={"size": 6})
    loaded.workload.profile.upstream["first"] = "w"
    assert run_campaign(plan_campaign(loaded, tmp_path / "p")).failed == ()
    profile = read_profile(tmp_path / "p")
    assert widths(profile, "then") == {6}
    assert point(profile, "then").key.senders == {"first": "w"}


@pytest.mark.parametrize(
    ("params", "pipeline", "words"),
    [
        ({"trick": "fail"}, {}, "those before it fail: first=v: ValueError: no good"),
        ({"sends": 0}, {}, "those before it send it nothing on the labelled requests"),
        ({}, {"params": {"count": 0}}, "the pipeline has no labelled requests"),
    ],
)
def test_without_anything_that_arrives_labelled_inputs_stand_in(
    chain: Callable[..., LoadedWorkload], tmp_path: Path, params: dict[str, Any], pipeline: dict[str, Any], words: str
) -> None:
    loaded = chain(params, w={"trick": "fail"}, pipeline=pipeline)
    campaign = plan_campaign(loaded, tmp_path / "p")
    assert f"then is measured with its own inputs, not with what arrives: {words}" in campaign.notes
    run_campaign(campaign)
    profile = read_profile(tmp_path / "p")
    assert widths(profile, "then") == {5}
    assert point(profile, "then").key.inputs == ""
    assert plan_campaign(loaded, tmp_path / "p").jobs == ()


def test_a_pipeline_without_code_has_labelled_inputs(chain: Callable[..., LoadedWorkload], tmp_path: Path) -> None:
    run_campaign(plan_campaign(chain(pipeline={"code": None}), tmp_path / "p"))
    assert widths(read_profile(tmp_path / "p"), "then") == {5}


def test_upstream_output_that_a_stage_cannot_take_is_said_before_anything_is_measured(
    chain: Callable[..., LoadedWorkload], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        plan_campaign(chain({"trick": "misroute"}), tmp_path / "p")
    (detail,) = caught.value.details
    assert "stage then (Labelled): preprocess fails on what first=v sends it: AttributeError" in detail


def test_a_choice_that_fails_on_what_arrives_says_so_until_something_else_does(
    chain: Callable[..., LoadedWorkload], tmp_path: Path
) -> None:
    bad = chain({"value": 99.0})
    summary = run_campaign(plan_campaign(bad, tmp_path / "p"))
    row = point(read_profile(tmp_path / "p"), "then")
    assert row.status == "failed"
    assert row.reason.startswith("on what first=v sends it: ValueError: 99 is too much")
    assert row.key.senders == {"first": "v"}
    assert any(failed.name == "then=v batch 1" for failed in summary.failed)
    again = plan_campaign(bad, tmp_path / "p")
    assert "then=v batch 1" in {failed.name for failed in again.failed_before}
    assert "then=v batch 1" in points_of(plan_campaign(chain({"value": 9.0}), tmp_path / "p"))


def test_a_stage_without_examples_is_measured_and_watched_with_what_arrives(
    chain: Callable[..., LoadedWorkload], tmp_path: Path
) -> None:
    loaded = chain(code="Then")
    assert run_campaign(plan_campaign(loaded, tmp_path / "p")).failed == ()
    profile = read_profile(tmp_path / "p")
    assert widths(profile, "then") == {3}
    assert point(profile, "then").key.senders == {"first": "v"}
    assert plan_campaign(loaded, tmp_path / "p").jobs == ()


@pytest.mark.parametrize(
    ("params", "words"),
    [({"trick": "fail"}, "those before it fail: first=v: ValueError: no good"), ({"sends": 0}, "send it nothing")],
)
def test_what_cannot_be_had_is_said_before_anything_is_measured(
    chain: Callable[..., LoadedWorkload], tmp_path: Path, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        plan_campaign(chain(params, "Then", w={"trick": "fail"}), tmp_path / "p")
    (detail,) = caught.value.details
    assert detail.startswith("stage then: it has no examples of its own, and those before it")
    assert words in detail


def test_requests_are_spread_over_all_and_kept_inputs_are_read(
    chain: Callable[..., LoadedWorkload], tmp_path: Path
) -> None:
    loaded = chain(code="Then")
    workload = loaded.workload
    found = arrivals(loaded, tmp_path)["then"]
    spec = PipelineSpec(str(workload.root), workload.pipeline.code, {}, {**found.to_json(), "codes": ["tricks:First"]})
    arriving = [example.input.value for example in spec.arriving()]
    # 64 of 100 requests, each doubled by the model and sent on twice.
    assert arriving == [2.0 * (i * 100 // 64) for i in range(64) for _ in range(2)]
    text = json.dumps(spec.to_json())
    assert json.dumps(PipelineSpec(**json.loads(text)).to_json()) == text
    Path(found.file).write_bytes(b"no pickle")
    with pytest.raises(InputError, match="stage then: what first=v send it cannot be read"):
        spec.arriving()


def test_the_folder_is_gone_with_the_campaign(chain: Callable[..., LoadedWorkload], tmp_path: Path) -> None:
    campaign = plan_campaign(chain(), tmp_path / "p")
    assert campaign.listed.arriving.folder is not None
    folder = campaign.listed.arriving.folder.path
    assert sorted(file.name for file in folder.iterdir()) == ["last.pickle", "then.pickle"]
    del campaign
    assert not folder.exists()


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=60), most=st.integers(1, 40), room=st.integers(1, 900))
def test_what_is_kept_is_bounded_in_number_and_bytes(sizes: list[int], most: int, room: int) -> None:
    contents = [bytes([index]) * size for index, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "INPUTS", most)
        patch.setattr(upstream, "INPUTS_BYTES", room)
        kept = thinned(contents)
        assert kept == thinned(contents)
    assert 1 <= len(kept) <= most
    assert kept == sorted(kept)
    assert not Counter(kept) - Counter(contents)
    if len(contents) <= most and sum(sizes) <= room:
        assert kept == contents
