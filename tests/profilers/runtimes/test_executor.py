"""A variant runs as one thing: pre-processing, model, post-processing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Choice, Sizes, Stage, Variant

MakeModel = Callable[..., Path]

CODE = """
import numpy as np
class Double:
    def __init__(self, context): self.context = context
    def examples(self): return [(float(i), 2.0 * i) for i in range(5)]
    def preprocess(self, inputs): return {"x": np.array([[i] * 4 for i in inputs], np.float32)}
    def postprocess(self, inputs, outputs): return [float(row[0]) for row in outputs["y"]]
    def passthrough(self, inputs): return [0.0 for _ in inputs]
    def route(self, stage_input, prediction): return [prediction] * 2
    def score(self, predictions, truths): return {"right": [float(p == t) for p, t in zip(predictions, truths)]}
"""


def opened(root: Path, variant: Variant, code: str | None = None) -> Executor:
    stage = Stage(code=code, variants={"v": variant})
    return Executor.open(root, "s", stage, Choice("v"))


def test_stage_code_stands_around_the_model(tmp_path: Path, make_model: MakeModel) -> None:
    make_model()
    (tmp_path / "double_code.py").write_text(CODE)
    with opened(tmp_path, Variant(model="model.onnx"), "double_code:Double") as executor:
        examples = executor.examples()
        batch = executor.execute([example.input for example in examples])
        assert batch.predictions == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert batch.elements == 20
        assert min(batch.pre_s, batch.infer_s, batch.post_s) > 0
        assert batch.service_s == batch.pre_s + batch.infer_s + batch.post_s
        assert executor.route(1.0, 2.0) == [2.0, 2.0]
        assert executor.score(batch.predictions, [example.truth for example in examples])["right"].value == 1.0
        assert executor.provider == "cpu"
        assert executor.version
        assert executor.fixed_batch is None
        assert executor.info.metadata == {"made_by": "tests"}


def test_skip_passes_through_and_runs_no_model(tmp_path: Path) -> None:
    (tmp_path / "skip_code.py").write_text(CODE)
    with opened(tmp_path, Variant(runtime="skip"), "skip_code:Double") as executor:
        batch = executor.execute([1.0, 2.0])
        assert batch.predictions == [0.0, 0.0]
        assert (batch.pre_s, batch.infer_s) == (0.0, 0.0)
        assert batch.elements == 0
        assert executor.info.inputs == ()


def test_without_code_inputs_are_made_up_in_the_models_shape(tmp_path: Path, make_model: MakeModel) -> None:
    make_model(shape=["N", 3, "W"])
    with opened(tmp_path, Variant(model="model.onnx", input_shapes={"x": [3, 7]})) as executor:
        inputs = executor.made_up_inputs(4)
        assert [item["x"].shape for item in inputs] == [(3, 7)] * 4
        predictions = executor.execute(inputs).predictions
        np.testing.assert_allclose(predictions[1]["y"], 2 * inputs[1]["x"])
        again = executor.made_up_inputs(4)
        np.testing.assert_array_equal(again[3]["x"], inputs[3]["x"])


def test_a_fixed_batch_dimension_is_known(tmp_path: Path, make_model: MakeModel) -> None:
    make_model(shape=[2, 4])
    with opened(tmp_path, Variant(model="model.onnx")) as executor:
        assert executor.fixed_batch == 2


def test_a_stage_with_preprocessing_needs_examples(tmp_path: Path, make_model: MakeModel) -> None:
    make_model()
    (tmp_path / "bare_code.py").write_text(
        "class Bare:\n def __init__(self, context): pass\n def preprocess(self, inputs): return inputs\n"
    )
    with opened(tmp_path, Variant(model="model.onnx"), "bare_code:Bare") as executor:
        assert executor.examples() == []
        with pytest.raises(InputError, match="examples"):
            executor.made_up_inputs(1)


def test_a_spec_survives_json(tmp_path: Path) -> None:
    spec = ExecutorSpec.of(tmp_path, "s", Stage(variants={"v": Variant(model="m.onnx")}), Choice("v"))
    assert ExecutorSpec(**spec.to_json()) == spec


def test_items_of_drawn_sizes_are_filled_up_to_the_largest_of_their_batch(
    tmp_path: Path, make_model: MakeModel
) -> None:
    make_model(shape=["N", 3, "W"])
    sizes = Sizes(values=[2, 5], weights=[1, 1])
    with opened(tmp_path, Variant(model="model.onnx", input_dims={"W": sizes})) as executor:
        inputs = executor.made_up_inputs(4)
        assert sorted(item["x"].shape[1] for item in inputs) == [2, 2, 5, 5]
        batch = executor.execute(inputs)
        assert batch.elements == 4 * 3 * 5
        for item, prediction in zip(inputs, batch.predictions, strict=True):
            width = item["x"].shape[1]
            np.testing.assert_allclose(prediction["y"][:, :width], 2 * item["x"])
            assert not prediction["y"][:, width:].any()
        drawn = {"name": "W", "values": [2, 5], "weights": [1.0, 1.0]}
        assert executor.made_up_shape(8) == {"x": [8, 3, drawn]}


def test_importing_it_is_light() -> None:
    script = "import sys, inferplan.profilers.runtimes.executor; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"pandas", "pyarrow", "onnxruntime", "torch", "pydantic"} & set(out.stdout.split())
