"""Triton repositories: what is written, byte for byte, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.exporters.triton import export_triton
from inferplan.exporters.triton_lint import lint_repository
from inferplan.spec.errors import CheckFailedError, InputError

Export = Callable[[str], Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def parsed(path: Path) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_a_chain_is_written_as_the_golden_repository(chain: Any, chain_plan: Any, tmp_path: Path, golden: Any) -> None:
    files = export_triton(chain_plan, chain, tmp_path / "out")
    assert sorted(map(str, files)) == sorted(tree(tmp_path / "out"))
    golden("triton-chain", tmp_path / "out")


def test_a_fan_out_on_two_machines_is_written_as_the_golden_repository(
    fan: Any, fan_options: Any, make_plan: Callable[..., Any], tmp_path: Path, golden: Any
) -> None:
    plan = make_plan(fan, fan_options, {"edge/cpu": [{"split-only": 1, "read-only": 1}, {"read-only": 2}]})
    export_triton(plan, fan, tmp_path / "out")
    golden("triton-fan", tmp_path / "out")


def test_gpu_options_are_written_as_the_golden_repository(
    chain: Any, make_plan: Callable[..., Any], tmp_path: Path, golden: Any
) -> None:
    options = {
        name: {"stage": name, "variant": "only", "provider": provider, "device": "edge/gpu"}
        for name, provider in (("double", "cuda"), ("add", "tensorrt"))
    }
    export_triton(make_plan(chain, options, {"edge/gpu": [{"double": 1, "add": 2}]}), chain, tmp_path / "out")
    golden("triton-gpu", tmp_path / "out")


def test_same_plan_same_bytes(fan: Any, fan_options: Any, make_plan: Callable[..., Any], tmp_path: Path) -> None:
    machines = {"edge/cpu": [{"split-only": 1, "read-only": 2}]}
    export_triton(make_plan(fan, fan_options, machines), fan, tmp_path / "a")
    turned = dict(reversed(fan_options.items()))
    export_triton(make_plan(fan, turned, machines), fan, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_digits_gets_its_models_an_ensemble_and_the_pipeline(
    digits: Any, make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"read-cnn-m": {"stage": "read", "variant": "cnn-m", "device": "edge/small-cpu", "max_batch": 8}}
    export_triton(make_plan(digits, options, {"edge/small-cpu": [{"read-cnn-m": 1}]}), digits, tmp_path / "out")
    assert lint_repository(tmp_path / "out").models == ("digits", "digits-ensemble", "read-cnn-m")
    model, ensemble, pipeline = (
        parsed(tmp_path / f"out/{name}/config.pbtxt") for name in ("read-cnn-m", "digits-ensemble", "digits")
    )
    assert (model.backend, model.max_batch_size, list(model.input[0].dims)) == ("onnxruntime", 8, [28, 28])
    assert [sample.batch_size for sample in model.model_warmup] == list(range(1, 9))
    assert {key: value.string_value for key, value in model.parameters.items()} == {
        "intra_op_thread_count": "1",
        "inter_op_thread_count": "1",
    }
    assert (ensemble.platform, ensemble.backend, [o.name for o in ensemble.output]) == ("ensemble", "", ["logits"])
    assert (pipeline.backend, [(o.name, list(o.dims)) for o in pipeline.output]) == ("python", [("label", [1])])


def test_large_batches_are_warmed_up_at_powers_of_two(
    chain: Any, make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    options = {
        "double": {"stage": "double", "variant": "only", "max_batch": 40},
        "add": {"stage": "add", "variant": "only", "max_batch": 1},
    }
    export_triton(make_plan(chain, options, {"edge/cpu": [{"double": 1, "add": 1}]}), chain, tmp_path / "out")
    config = parsed(tmp_path / "out/double/config.pbtxt")
    assert [sample.batch_size for sample in config.model_warmup] == [1, 2, 4, 8, 16, 32, 40]
    alone = parsed(tmp_path / "out/add/config.pbtxt")
    assert (alone.max_batch_size, alone.HasField("dynamic_batching")) == (1, False)
    assert parsed(tmp_path / "out/shop/config.pbtxt").max_batch_size == 1, "that of the smallest member"


def test_models_that_cannot_be_batched_are_served_one_call_at_a_time(
    tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any], make_plan: Callable[..., Any]
) -> None:
    make_model(tmp_path / "m.onnx", {"x": ("FLOAT", [1, 4])}, {"y": ("FLOAT", [1, 4])}, [("Relu", ["x"], ["y"], {})])
    workload = make_workload(tmp_path, {"stages": {"s": {"variants": {"v": {"model": "m.onnx"}}}}})
    plan = make_plan(workload, {"s-v": {"stage": "s", "variant": "v", "max_batch": 1}}, {"edge/cpu": [{"s-v": 1}]})
    export_triton(plan, workload, tmp_path / "out")
    config = parsed(tmp_path / "out/s-v/config.pbtxt")
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (0, [1, 4], [1, 4])
    assert not config.HasField("dynamic_batching")


def test_tensors_that_do_not_fit_together_get_no_ensemble(
    tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any], make_plan: Callable[..., Any]
) -> None:
    relu = [("Relu", ["x"], ["y"], {})]
    make_model(tmp_path / "m.onnx", {"x": ("FLOAT", ["n", 4])}, {"y": ("FLOAT", ["n", 4])}, relu)
    stages = {name: {"variants": {"v": {"model": "m.onnx"}}} for name in ("a", "b")}
    workload = make_workload(tmp_path, {"stages": stages, "edges": [{"from": "a", "to": "b"}]})
    options = {name: {"stage": name, "variant": "v"} for name in ("a", "b")}
    export_triton(make_plan(workload, options, {"edge/cpu": [{"a": 1, "b": 1}]}), workload, tmp_path / "out")
    assert parsed(tmp_path / "out/shop/config.pbtxt").backend == "python", "y is not x: stage b cannot take it"


def test_code_without_declared_tensors_gets_no_pipeline_and_a_note(
    fan: Any, fan_options: Any, make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    plan = make_plan(fan, fan_options, {"edge/cpu": [{"split-only": 1, "read-only": 1}]})
    silent = fan.model_copy(update={"pipeline": fan.pipeline.model_copy(update={"inputs": [], "outputs": []})})
    export_triton(plan, silent.at(fan.root), tmp_path / "out")
    assert lint_repository(tmp_path / "out").models == ("read-only", "split-only")
    said = (tmp_path / "out/README.md").read_text()
    assert "There is no pipeline model `fan`: the workload has code of its own" in said


def test_a_fork_without_code_gets_no_pipeline_for_its_ends(
    tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any], make_plan: Callable[..., Any]
) -> None:
    relu = [("Relu", ["x"], ["y"], {})]
    make_model(tmp_path / "m.onnx", {"x": ("FLOAT", ["n", 4])}, {"y": ("FLOAT", ["n", 4])}, relu)
    stages = {name: {"variants": {"v": {"model": "m.onnx"}}} for name in ("a", "b", "c")}
    edges = [{"from": "a", "to": "b"}, {"from": "a", "to": "c"}]
    workload = make_workload(tmp_path, {"stages": stages, "edges": edges})
    plan = make_plan(
        workload, {n: {"stage": n, "variant": "v"} for n in stages}, {"edge/cpu": [dict.fromkeys(stages, 1)]}
    )
    export_triton(plan, workload, tmp_path / "out")
    said = (tmp_path / "out/README.md").read_text()
    assert "There is no pipeline model `shop`: the workload's pipeline begins or ends in several stages" in said
    assert "code" not in said.split("There is no pipeline model")[1].split(". ")[0]


def test_weights_in_files_beside_the_model_travel_with_it(
    tmp_path: Path, make_workload: Callable[..., Any], make_plan: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    import numpy as np
    import onnx

    ends = {"x": ("FLOAT", ["n", 4])}, {"y": ("FLOAT", ["n", 4])}
    weights = {"w": np.arange(4, dtype=np.float32)}
    path = make_model(tmp_path / "m.onnx", *ends, [("Mul", ["x", "w"], ["y"], {})], weights)
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="m.weights", size_threshold=0)
    workload = make_workload(tmp_path, {"stages": {"s": {"variants": {"v": {"model": "m.onnx"}}}}})
    plan = make_plan(workload, {"s-v": {"stage": "s", "variant": "v"}}, {"edge/cpu": [{"s-v": 1}]})
    export_triton(plan, workload, tmp_path / "out")
    assert (tmp_path / "out/s-v/1/m.weights").read_bytes() == weights["w"].tobytes()


def test_what_the_linter_objects_to_is_never_put_in_place(
    chain: Any, chain_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferplan.exporters.triton.model_config", lambda model, count, gpus: f'name: "{model.name}"\n')
    with pytest.raises(CheckFailedError, match="graph-input-missing"):
        export_triton(chain_plan, chain, tmp_path / "sub/out")
    assert list((tmp_path / "sub").iterdir()) == []


def test_a_plan_without_models_has_nothing_to_export(fan: Any, make_plan: Callable[..., Any], tmp_path: Path) -> None:
    options = {"turn-skip": {"stage": "turn", "variant": "skip"}}
    routes = {"web": {"turn": {"turn-skip": 1.0}, "split": {"turn-skip": 1.0}, "read": {"turn-skip": 1.0}}}
    plan = make_plan(fan, options, {}, {"web": {"turn": {"turn-skip": 1.0}}})
    traffic = plan.classes["web"]
    everywhere = dict.fromkeys(routes["web"], traffic.routes["turn"])
    plan = plan.model_copy(update={"classes": {"web": traffic.model_copy(update={"routes": everywhere})}})
    with pytest.raises(InputError, match="the plan runs no model"):
        export_triton(plan, fan, tmp_path / "out")


def test_params_that_are_not_plain_are_refused(
    chain: Any, chain_plan: Any, fan: Any, fan_options: Any, make_plan: Any, tmp_path: Path
) -> None:
    plan = make_plan(fan, fan_options, {"edge/cpu": [{"split-only": 1, "read-only": 1}]})
    odd = fan.pipeline.model_copy(update={"params": {"name": {1, 2}}})
    with pytest.raises(InputError, match="params must be plain"):
        export_triton(plan, fan.model_copy(update={"pipeline": odd}).at(fan.root), tmp_path / "out")


def test_the_manifest_names_the_server_and_every_file(chain: Any, chain_plan: Any, tmp_path: Path) -> None:
    export_triton(chain_plan, chain, tmp_path / "out")
    manifest = json.loads((tmp_path / "out/inferplan-export.json").read_text())
    assert manifest["server"] == "2.51.0 (24.10)"
    assert set(manifest["files"]) == set(tree(tmp_path / "out")) - {"inferplan-export.json"}
    assert "2.51.0" in (tmp_path / "out/README.md").read_text()


def test_files_can_be_read_by_the_user_a_server_runs_as(chain: Any, chain_plan: Any, tmp_path: Path) -> None:
    chain.model_path("add", "only").chmod(0o600)
    before = os.umask(0o077)
    try:
        export_triton(chain_plan, chain, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {0o644}


LEVELS = {"all": None, "extended": 1, "basic": -1, "disabled": 2}


@pytest.mark.parametrize("level", LEVELS)
def test_graph_optimisation_is_the_backends_level(
    level: str,
    tmp_path: Path,
    make_model: Callable[..., Path],
    make_workload: Callable[..., Any],
    make_plan: Callable[..., Any],
) -> None:
    make_model(
        tmp_path / "m.onnx", {"x": ("FLOAT", ["n", 4])}, {"y": ("FLOAT", ["n", 4])}, [("Relu", ["x"], ["y"], {})]
    )
    variant = {"model": "m.onnx", "options": {"graph_optimization": level}}
    workload = make_workload(tmp_path, {"stages": {"s": {"variants": {"v": variant}}}})
    plan = make_plan(
        workload, {"s-v": {"stage": "s", "variant": "v", "provider": "openvino"}}, {"edge/cpu": [{"s-v": 1}]}
    )
    export_triton(plan, workload, tmp_path / "out")
    optimization = parsed(tmp_path / "out/s-v/config.pbtxt").optimization
    assert optimization.HasField("graph") == (LEVELS[level] is not None)
    assert optimization.graph.level == (LEVELS[level] or 0)
    accelerators = optimization.execution_accelerators
    assert [a.name for a in accelerators.cpu_execution_accelerator] == ["openvino"]
    assert not accelerators.gpu_execution_accelerator
    assert "must be built with it" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_queue_limit_is_a_policy_of_the_dynamic_batcher(
    batch: int,
    tmp_path: Path,
    make_model: Callable[..., Path],
    make_workload: Callable[..., Any],
    make_plan: Callable[..., Any],
) -> None:
    make_model(
        tmp_path / "m.onnx", {"x": ("FLOAT", ["n", 4])}, {"y": ("FLOAT", ["n", 4])}, [("Relu", ["x"], ["y"], {})]
    )
    stage = {"variants": {"v": {"model": "m.onnx"}}, "queue_limit": 12}
    workload = make_workload(tmp_path, {"stages": {"s": stage}})
    plan = make_plan(workload, {"s-v": {"stage": "s", "variant": "v", "max_batch": batch}}, {"edge/cpu": [{"s-v": 1}]})
    export_triton(plan, workload, tmp_path / "out")
    config = parsed(tmp_path / "out/s-v/config.pbtxt")
    assert config.max_batch_size == batch
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 12


def test_a_modality_subset_is_exported_with_its_model_and_told_to_its_code(
    tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any], make_plan: Callable[..., Any]
) -> None:
    names = {"acc": ["acc"], "acc+gyro": ["acc", "gyro"]}
    for subset, inputs in names.items():
        make_model(
            tmp_path / f"{subset}.onnx",
            {name: ("FLOAT", ["n", 4]) for name in inputs},
            {"y": ("FLOAT", ["n", 4])},
            [("Sum", inputs, ["y"], {})],
        )
    (tmp_path / "code.py").write_text("class S:\n    def __init__(self, context):\n        pass\n")
    tensors = [{"name": "x", "dtype": "float32", "shape": [4]}]
    modalities = {"reads": ["acc", "gyro"], "optional": ["gyro"], "models": {n: f"{n}.onnx" for n in names}}
    stage = {"code": "code:S", "modalities": ["acc", "gyro"], "variants": {"m": {"modalities": modalities}}}
    workload = make_workload(tmp_path, {"inputs": tensors, "outputs": tensors, "stages": {"s": stage}})
    options = {"s-m": {"stage": "s", "variant": "m", "modalities": ["acc"]}}
    plan = make_plan(workload, options, {"edge/cpu": [{"s-m": 1}]})
    export_triton(plan, workload, tmp_path / "out")
    assert (tmp_path / "out/s-m/1/model.onnx").read_bytes() == (tmp_path / "acc.onnx").read_bytes()
    spec = json.loads((tmp_path / "out/shop/1/pipeline.json").read_text())
    assert spec["stages"][0]["choices"][0]["modalities"] == ["acc"]
    assert "| s, m@acc |" in (tmp_path / "out/README.md").read_text()


def test_shapes_by_names_of_dimensions_warm_up_where_they_are_fixed(
    tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any], make_plan: Callable[..., Any]
) -> None:
    make_model(
        tmp_path / "m.onnx", {"x": ("FLOAT", ["n", "t"])}, {"y": ("FLOAT", ["n", "t"])}, [("Relu", ["x"], ["y"], {})]
    )
    for size, warm in ((16, True), ({"values": [8, 16], "weights": [1.0, 1.0]}, False)):
        variant = {"model": "m.onnx", "input_shapes": {"x": ["t"]}, "input_dims": {"t": size}}
        workload = make_workload(tmp_path, {"stages": {"s": {"variants": {"v": variant}}}})
        plan = make_plan(workload, {"s-v": {"stage": "s", "variant": "v"}}, {"edge/cpu": [{"s-v": 1}]})
        export_triton(plan, workload, tmp_path / "out", force=True)
        samples = parsed(tmp_path / "out/s-v/config.pbtxt").model_warmup
        assert [list(s.inputs["x"].dims) for s in samples] == ([[16]] * 4 if warm else [])
