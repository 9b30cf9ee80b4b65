"""The deployment graph: plan and workload held against one another and the real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.exporters.compose import export_compose
from inferplan.exporters.deployment import build_deployment
from inferplan.exporters.triton import export_triton
from inferplan.spec.errors import InputError
from inferplan.spec.selection import Selection, ServingRoute, Tail


def test_what_runs_where(chain: Any, make_plan: Callable[..., Any]) -> None:
    options = {
        "double-only": {"stage": "double", "variant": "only", "threads": 2, "max_batch": 8},
        "add-only": {"stage": "add", "variant": "only"},
    }
    machines = {"edge/cpu": [{"double-only": 1, "add-only": 1}, {"add-only": 2}]}
    deployment = build_deployment(make_plan(chain, options, machines), chain)
    assert [(m.name, m.device, m.spec.cores, dict(m.replicas)) for m in deployment.machines] == [
        ("edge-cpu-0", "edge/cpu", 4, {"double-only": 1, "add-only": 1}),
        ("edge-cpu-1", "edge/cpu", 4, {"add-only": 2}),
    ]
    assert deployment.replicas(None) == {"add-only": 3, "double-only": 1}
    model = deployment.models["double-only"]
    assert (model.threads, model.max_batch, model.batched, model.gpu) == (2, 8, True, False)
    assert [(stage.name, stage.parents, stage.children) for stage in deployment.stages] == [
        ("double", (), ("add",)),
        ("add", ("double",), ()),
    ]
    assert [(route.name, route.classes) for route in deployment.routes] == [("shop", ("web",))]


def test_classes_with_the_same_way_share_a_name_and_others_do_not(digits: Any, make_plan: Callable[..., Any]) -> None:
    options = {
        f"read-{variant}": {"stage": "read", "variant": variant, "device": "edge/small-cpu"}
        for variant in ("linear", "cnn-s")
    }
    machines = {"edge/small-cpu": [dict.fromkeys(options, 1)]}
    ways = {"a": "read-linear", "b": "read-cnn-s", "c": "read-linear"}
    routes = {name: {"read": {option: 1.0}} for name, option in ways.items()}
    found = build_deployment(make_plan(digits, options, machines, routes), digits).routes
    assert [(route.name, route.classes) for route in found] == [("digits-a", ("a", "c")), ("digits-b", ("b",))]


def test_long_names_make_names_that_fit_and_differ(digits: Any, make_plan: Callable[..., Any]) -> None:
    """The workload's name and a class's, each as long as may be, are more than a model's name may have."""
    device = {"device": "edge/small-cpu"}
    options = {f"read-{variant}": {"stage": "read", "variant": variant, **device} for variant in ("linear", "cnn-s")}
    loaded = digits.model_copy(update={"name": "w" * 64}).at(digits.root)
    ways = {"a" * 63 + "x": "read-linear", "a" * 63 + "y": "read-cnn-s"}
    routes = {name: {"read": {option: 1.0}} for name, option in ways.items()}
    plan = make_plan(loaded, options, {"edge/small-cpu": [dict.fromkeys(options, 1)]}, routes)
    names = [route.name for route in build_deployment(plan, loaded).routes]
    assert len(set(names)) == 2
    assert all(len(name) <= 128 and name.startswith("w" * 64 + "-aaa") for name in names)


def test_a_table_of_choices_is_said_not_to_be_exported(
    digits: Any, make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"read-linear": {"stage": "read", "variant": "linear", "device": "edge/small-cpu"}}
    plan = make_plan(digits, options, {"edge/small-cpu": [{"read-linear": 1}]})
    assert not build_deployment(plan, digits).notes
    row = ServingRoute(
        options={"read": "read-linear"}, latency_s=Tail(value=0.01, upper=0.02), cost_usd_per_request=1e-6
    )
    plan = plan.model_copy(update={"selection": Selection(percentile=99, rows=[row])})
    export_triton(plan, digits, tmp_path / "out")
    export_compose(plan, digits, tmp_path / "both")
    for folder in ("out", "both"):
        assert "The plan's table of choices is not exported" in (tmp_path / folder / "README.md").read_text()


def test_deadlines_are_said_not_to_be_exported(digits: Any, make_plan: Callable[..., Any], tmp_path: Path) -> None:
    """Where calls of one queue have several; with one deadline the server's order is the plan's."""
    options = {"read-linear": {"stage": "read", "variant": "linear", "device": "edge/small-cpu", "order": "edf"}}
    routes = {name: {"read": {"read-linear": 1.0}} for name in ("a", "b")}
    plan = make_plan(digits, options, {"edge/small-cpu": [{"read-linear": 1}]}, routes)
    assert not build_deployment(plan, digits).notes
    quick = plan.classes["a"].model_copy(update={"slo_latency_s": 0.01})
    plan = plan.model_copy(update={"classes": {**plan.classes, "a": quick}})
    export_triton(plan, digits, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Options read-linear are planned to take the calls of the earliest deadlines first" in text


def test_a_model_and_the_pipeline_never_share_a_name(chain: Any, make_plan: Callable[..., Any]) -> None:
    options = {"Shop": {"stage": "double", "variant": "only"}, "add": {"stage": "add", "variant": "only"}}
    deployment = build_deployment(make_plan(chain, options, {"edge/cpu": [{"Shop": 1, "add": 1}]}), chain)
    assert deployment.routes[0].name == "shop-pipeline"


def test_a_model_file_that_changed_since_planning_is_refused(chain: Any, chain_plan: Any) -> None:
    path = chain.model_path("add", "only")
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(InputError, match=r"option add-only: .* is not the model that was planned with"):
        build_deployment(chain_plan, chain)


def test_a_model_without_a_free_first_dimension_goes_call_by_call(
    tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any], make_plan: Callable[..., Any]
) -> None:
    make_model(tmp_path / "m.onnx", {"x": ("FLOAT", [1, 4])}, {"y": ("FLOAT", [1, 4])}, [("Relu", ["x"], ["y"], {})])
    workload = make_workload(tmp_path, {"stages": {"s": {"variants": {"v": {"model": "m.onnx"}}}}})
    plan = make_plan(workload, {"s-v": {"stage": "s", "variant": "v", "max_batch": 2}}, {"edge/cpu": [{"s-v": 1}]})
    with pytest.raises(InputError, match=r"wants batches of 2, but the first dimension is not free"):
        build_deployment(plan, workload)
    plan = make_plan(workload, {"s-v": {"stage": "s", "variant": "v", "max_batch": 1}}, {"edge/cpu": [{"s-v": 1}]})
    assert not build_deployment(plan, workload).models["s-v"].batched


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("options", {"variant": "gone"}, "the workload has no variant 'gone'"),
        ("options", {"stage": "gone"}, "the workload has no variant 'only' of stage 'gone'"),
        ("options", {"runtime": "torch"}, "runtime torch cannot be exported"),
        ("options", {"device": "edge/moon"}, "the workload has no device 'edge/moon'"),
        ("options", {"provider": "cuda"}, "provider cuda does not run on edge/cpu, a cpu"),
        ("machines", {}, "machines of 'edge/moon', a device the workload does not have"),
    ],
)
def test_a_plan_that_does_not_belong_to_the_workload_is_refused(
    chain: Any, chain_plan: Any, where: str, change: dict[str, Any], message: str
) -> None:
    if where == "options":
        options = chain_plan.options | {"add-only": chain_plan.options["add-only"].model_copy(update=change)}
        plan = chain_plan.model_copy(update={"options": options})
    else:
        plan = chain_plan.model_copy(update={"machines": {"edge/moon": chain_plan.machines["edge/cpu"]}})
    with pytest.raises(InputError, match=message):
        build_deployment(plan, chain)


@pytest.mark.parametrize("name", ["../../evil", "a b", 'x"\nbackend: "python', "$(reboot)", "{{x}}", ""])
def test_names_that_mean_something_elsewhere_are_refused(chain: Any, chain_plan: Any, name: str) -> None:
    """Documents cannot hold such names; should one come in another way, it ends here."""
    options = {name: chain_plan.options["double-only"], "add-only": chain_plan.options["add-only"]}
    with pytest.raises(InputError, match="is not a name"):
        build_deployment(chain_plan.model_copy(update={"options": options}), chain)
    with pytest.raises(InputError, match="is not a name"):
        build_deployment(chain_plan, chain.model_copy(update={"name": name}))


def test_ways_through_several_stages_are_refused(chain: Any, make_plan: Callable[..., Any]) -> None:
    """An exported pipeline draws an option at every stage: it cannot keep a request to its way."""
    from inferplan.spec.plan import Mixture

    options = {
        "double-a": {"stage": "double", "variant": "only"},
        "double-b": {"stage": "double", "variant": "only", "max_batch": 8},
        "add-only": {"stage": "add", "variant": "only"},
    }
    plan = make_plan(chain, options, {"edge/cpu": [{"double-a": 1, "double-b": 1, "add-only": 1}]})
    ways = [Mixture(share=0.5, routes={"double": f"double-{x}", "add": "add-only"}) for x in ("a", "b")]
    split = plan.model_copy(update={"classes": {"web": plan.classes["web"].model_copy(update={"mixtures": ways})}})
    build_deployment(plan, chain)
    with pytest.raises(InputError, match="different ways through the pipeline"):
        build_deployment(split, chain)
