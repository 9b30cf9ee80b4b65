"""Making variants from end to end, in measuring processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from inferplan.profilers.variants.generation import fits, generate
from inferplan.profilers.variants.parents import Workplace, parents
from inferplan.spec.derivation import Fit, Generation
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InputError

MakeWorkload = Callable[..., LoadedWorkload]


def run(loaded: LoadedWorkload, *texts: str, limit_s: float = 60.0, output: Path | None = None) -> Generation:
    place = Workplace(loaded, limit_s)
    return generate(place, place.surveyed(parents(loaded, [], [])), texts, output)


def verdicts(done: Generation) -> dict[str, str]:
    return {item.variant: item.verdict for item in done.derived}


def test_made_checked_written_and_current_the_next_time(make_workload: MakeWorkload) -> None:
    loaded = make_workload({"mlp": {"model": "mlp.onnx", "params": {"count": 300}}})
    root = loaded.workload.root
    done = run(loaded)
    assert verdicts(done) == {"mlp-int8": "made", "mlp-int8s": "made", "mlp-fp16": "made"}
    assert [fit.recipe for fit in done.refused] == ["onnx"]
    for item in done.derived:
        assert item.distance is not None
        assert item.distance.n == 64
        assert 0 < (item.distance.relative_l2 or 0) < 0.2
        assert (item.distance.same_answer or 0) > 0.9
        assert item.parent_size_bytes == (root / "mlp.onnx").stat().st_size
    merged = load_workload(root / "test-variants.yaml").workload.pipeline.stages["s"].variants
    made = merged["mlp-int8s"]
    assert (made.model, made.precision) == ("generated/s/mlp-int8s.onnx", "int8")
    assert made.recipe is not None
    assert len(made.recipe.settings["calibrated_on"]) == 30
    before = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".pyc"}
    again = run(loaded)
    assert set(verdicts(again).values()) == {"current"}
    assert [item.distance for item in again.derived] == [item.distance for item in done.derived]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_the_same_inputs_give_the_same_files(make_workload: MakeWorkload) -> None:
    loaded = make_workload()
    root = loaded.workload.root
    run(loaded)
    first = {path.name: path.read_bytes() for path in (root / "generated/s").iterdir()}
    for path in (root / "generated/s").iterdir():
        path.unlink()
    assert set(verdicts(run(loaded)).values()) == {"made"}
    assert {path.name: path.read_bytes() for path in (root / "generated/s").iterdir()} == first


def test_a_changed_parent_is_made_from_again(make_workload: MakeWorkload) -> None:
    loaded = make_workload()
    run(loaded, "fp16")
    model = onnx.load(str(loaded.workload.root / "mlp.onnx"))
    model.producer_name = "another"
    onnx.save(model, str(loaded.workload.root / "mlp.onnx"))
    assert verdicts(run(loaded, "fp16")) == {"mlp-fp16": "made"}


def test_records_of_older_versions_are_understood(make_workload: MakeWorkload) -> None:
    """A setting that came later has its default in what was made before."""
    loaded = make_workload()
    run(loaded, "int8-dynamic")
    file = loaded.workload.root / "generated/s/mlp-int8.json"
    record = json.loads(file.read_text())
    del record["settings"]["reduce_range"]
    file.write_text(json.dumps(record))
    assert verdicts(run(loaded, "int8-dynamic")) == {"mlp-int8": "current"}


@pytest.mark.slow
def test_without_recipes_earlier_ones_are_kept_up(make_workload: MakeWorkload) -> None:
    loaded = make_workload({"mlp": {"model": "mlp.onnx", "params": {"scale": 1}}})
    run(loaded, "graph:basic", "param:scale=2", "opset:21")
    entries = load_workload(loaded.workload.root / "test-variants.yaml").workload.pipeline.stages["s"].variants
    assert list(entries) == ["mlp", "mlp-opset21", "mlp-opt-basic", "mlp-scale2"]
    assert (entries["mlp-scale2"].params, entries["mlp-scale2"].model) == ({"scale": 2}, "mlp.onnx")
    assert entries["mlp-opt-basic"].options.graph_optimization == "basic"
    found = verdicts(run(loaded))
    assert {name for name, verdict in found.items() if verdict == "current"} == set(entries) - {"mlp"}


def test_names_and_files_of_others_are_left_alone(make_workload: MakeWorkload) -> None:
    loaded = make_workload({"mlp": {"model": "mlp.onnx"}, "mlp-fp16": {"model": "mlp.onnx"}})
    place = Workplace(loaded, 60.0)
    surveyed = place.surveyed(parents(loaded, [], ["mlp"]))
    assert verdicts(generate(place, surveyed, ["fp16"], None)) == {"mlp-fp16-2": "made"}
    mine = loaded.workload.root / "generated/s/mlp-int8.onnx"
    mine.write_bytes(b"mine")
    done = generate(place, surveyed, ["int8-dynamic"], None)
    assert verdicts(done) == {"mlp-int8": "failed"}
    assert "move it away" in done.derived[0].reason
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("trick", "reason"),
    [("crash", "SIGSEGV"), ("hang", "no answer within"), ("eat", "more than the limit")],
)
def test_what_crashes_hangs_or_eats_is_a_verdict(trick: str, reason: str, make_workload: MakeWorkload) -> None:
    loaded = make_workload({"mlp": {"model": "mlp.onnx"}, "bad": {"model": "mlp.onnx", "params": {"trick": trick}}})
    done = run(loaded, "int8-static", limit_s=3.0 if trick == "hang" else 60.0)
    assert verdicts(done) == {"mlp-int8s": "made", "bad-int8s": "failed"}
    assert reason in done.derived[1].reason
    root = loaded.workload.root
    assert sorted(path.name for path in (root / "generated/s").iterdir()) == ["mlp-int8s.json", "mlp-int8s.onnx"]
    assert list(load_workload(root / "test-variants.yaml").workload.pipeline.stages["s"].variants) == [
        "mlp", "bad", "mlp-int8s",
    ]  # fmt: skip


def test_outputs_that_are_not_finite_fail(make_workload: MakeWorkload) -> None:
    loaded = make_workload({"mlp": {"model": "mlp.onnx", "params": {"scale": 1.0}}})
    done = run(loaded, "param:scale=3e38")
    assert list(verdicts(done).values()) == ["failed"]
    assert "not finite" in done.derived[0].reason
    assert not (loaded.workload.root / "test-variants.yaml").exists()


def test_a_model_that_does_not_load_is_refused_with_the_reason(make_workload: MakeWorkload) -> None:
    root = make_workload().workload.root
    (root / "bad.onnx").write_bytes(b"no model")
    done = run(make_workload({"bad": {"model": "bad.onnx"}, "skip": {"runtime": "skip"}}), "fp16")
    assert done.derived == ()
    assert "onnxruntime cannot load it" in done.refused[0].reason
    assert done.refused[1] == Fit("s", "skip", "fp16", "runs no model")


def test_every_modality_subset_has_a_model(make_workload: MakeWorkload) -> None:
    root = make_workload().workload.root
    models = {"a": "mlp.onnx", "b": "mlp.onnx", "a+b": "both.onnx"}
    (root / "both.onnx").write_bytes((root / "mlp.onnx").read_bytes())
    variant = {"modalities": {"reads": ["a", "b"], "optional": ["a", "b"], "models": models}}
    done = run(make_workload({"m": variant}, modalities=["a", "b"]), "fp16")
    assert verdicts(done) == {"m-fp16": "made"}
    made = load_workload(root / "test-variants.yaml").workload.pipeline.stages["s"].variants["m-fp16"]
    assert made.modalities is not None
    assert made.modalities.models == {
        "a": "generated/s/m-fp16@a.onnx", "b": "generated/s/m-fp16@a.onnx", "a+b": "generated/s/m-fp16@a+b.onnx",
    }  # fmt: skip
    assert done.derived[0].distance is not None
    assert done.derived[0].distance.n == 3 * 40


@pytest.mark.slow
def test_variants_of_made_variants(make_workload: MakeWorkload) -> None:
    loaded = make_workload()
    run(loaded, "fp16")
    root = loaded.workload.root
    more = load_workload(root / "test-variants.yaml")
    with pytest.raises(InputError, match="give the workload that it includes"):
        run(more, "graph:basic")
    done = run(more, "graph:basic", output=root / "more.yaml")
    assert verdicts(done) == {"mlp-opt-basic": "made", "mlp-fp16-opt-basic": "made"}
    assert list(load_workload(root / "more.yaml").workload.pipeline.stages["s"].variants) == [
        "mlp", "mlp-fp16", "mlp-opt-basic", "mlp-fp16-opt-basic",
    ]  # fmt: skip


def test_variants_of_parents_that_are_gone_are_left_out(make_workload: MakeWorkload) -> None:
    run(make_workload({"mlp": {"model": "mlp.onnx"}, "old": {"model": "mlp.onnx"}}), "graph:basic")
    done = run(make_workload({"mlp": {"model": "mlp.onnx"}}), "graph:basic")
    assert done.notes == ("s=old-opt-basic left out: its parent is gone, or another variant has its name",)
    merged = load_workload(done.path).workload.pipeline.stages["s"].variants
    assert list(merged) == ["mlp", "mlp-opt-basic"]


def test_a_file_that_is_in_the_way_is_not_dropped(make_workload: MakeWorkload) -> None:
    loaded = make_workload()
    own = loaded.workload.root / "test-variants.yaml"
    own.write_text("include: [workload.yaml]\nname: mine\n")
    with pytest.raises(InputError, match="does not include"):
        run(loaded, "fp16")
    assert own.read_text() == "include: [workload.yaml]\nname: mine\n"


def test_fits_say_what_applies_and_why_not(make_workload: MakeWorkload) -> None:
    loaded = make_workload({"mlp": {"model": "mlp.onnx", "params": {"scale": 1}}, "skip": {"runtime": "skip"}})
    surveyed = Workplace(loaded, 60.0).surveyed(parents(loaded, ["s"], []))
    found: dict[tuple[str, str], str] = {(fit.variant, fit.recipe): fit.reason for fit in fits(surveyed, [])}
    applying = [recipe for (variant, recipe), reason in found.items() if variant == "mlp" and not reason]
    assert applying == ["int8-dynamic", "int8-static", "fp16", "graph", "offline", "param:scale", "opset"]
    assert found["mlp", "autocast"] == "belongs to runtime torch"
    assert "a provider, not a file" in found["mlp", "tensorrt"]
    assert {reason for (variant, _), reason in found.items() if variant == "skip"} == {"runs no model"}
    (one,) = [fit for fit in fits(surveyed, ["opset:17"]) if fit.variant == "mlp"]
    assert one == Fit("s", "mlp", "opset", "has opset 17 already")


@pytest.mark.parametrize(
    ("stages", "names", "message"),
    [(["x"], [], "--stage x"), ([], ["mpl"], "did you mean 'mlp'")],
)
def test_unknown_names(stages: list[str], names: list[str], message: str, make_workload: MakeWorkload) -> None:
    with pytest.raises(InputError, match=message):
        parents(make_workload(), stages, names)


def test_a_missing_tool_is_named(make_workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch) -> None:
    from inferplan.profilers.variants import parents as module
    from inferplan.spec.errors import MissingExtraError

    loaded = make_workload()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"inferplan\[variants\]"):
        Workplace(loaded, 60.0).surveyed(parents(loaded, [], []))


@pytest.mark.slow
def test_torch_variants(make_workload: MakeWorkload) -> None:
    torch: Any = pytest.importorskip("torch")
    root = make_workload().workload.root
    (root / "nets.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        torch.manual_seed(0)\n        self.out = torch.nn.Linear(16, 3)\n"
        "    def forward(self, x):\n        return {'y': self.out(x)}\n\ndef net():\n    return Net()\n"
    )
    assert torch.__version__
    done = run(make_workload({"net": {"runtime": "torch", "factory": "nets:net"}}), "onnx", "autocast")
    assert verdicts(done) == {"net-onnx": "made", "net-bf16": "made"}, done
    merged = load_workload(root / "test-variants.yaml").workload.pipeline.stages["s"].variants
    assert (merged["net-onnx"].runtime, merged["net-onnx"].factory) == ("onnxruntime", None)
    assert (merged["net-bf16"].options.autocast, merged["net-bf16"].precision) == ("bf16", "mixed")
    exact, mixed = (item.distance for item in done.derived)
    assert exact is not None
    assert mixed is not None
    assert (exact.relative_l2 or 0) < 1e-5 < (mixed.relative_l2 or 0) < 0.05
