"""Every problem at once, each with its file, line, column and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.spec.document import load_workload, parse_yaml, read_with_includes
from inferplan.spec.errors import DocumentError, ExitCode, InferplanError, InputError

Write = Callable[..., Path]


def problems(path: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """Problems of a workload as `line:column: field: message`, the file name left out."""
    with pytest.raises(DocumentError) as caught:
        load_workload(path, overrides)
    assert caught.value.exit_code == ExitCode.INPUT
    return [str(problem).replace(f"{path}:", "") for problem in caught.value.problems]


def test_a_valid_workload_loads(write_workload: Write) -> None:
    loaded = load_workload(write_workload())
    assert loaded.workload.pipeline.order() == ["find", "read"]
    assert loaded.workload.classes["web"].rate_rps == 40


def test_the_folder_stands_for_its_workload_file(write_workload: Write) -> None:
    assert load_workload(write_workload().parent).workload.name == "shop"


def test_all_problems_come_at_once_with_their_places(write_workload: Write) -> None:
    path = write_workload(
        ("latency_s: 0.2", "latency_ms: 200"),
        ("rate_rps: 40", "rate_rps: 40ms"),
        ("cores: 2", "cores: two"),
        ("small.onnx}", "small.onnx, colour: red}"),
    )
    assert problems(path) == [
        "9:44: pipeline.stages.find.variants.small.colour: unknown field; known here: accuracy, factory, "
        "input_dims, input_dtypes, input_shapes, license, modalities, model, options, params, parent, precision, "
        "recipe, runtime",
        '21:42: tiers.edge.devices.cpu.cores: expected a whole number, got "two" (write the number alone)',
        '24:15: classes.web.rate_rps: expected a number of requests per second, got "40ms" (write the number alone)',
        "25:10: classes.web.slo: missing field 'latency_s' (seconds)",
        "25:39: classes.web.slo.latency_ms: unknown field; did you mean 'latency_s' (seconds)?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("from: find", "from: fnd", "there is no stage 'fnd'; did you mean 'find'?"),
        ("model: small.onnx", "model: gone.onnx", "there is no file"),
        ("code: stages:Find", "code: other:Find", "there is no file"),
        ("code: stages:Find", 'code: "../x:Find"', "expected module:Class"),
        ("small: {", '"../../etc": {', "a name is 1 to 64 letters"),
        ("small: {", '"$(rm -rf)": {', "a name is 1 to 64 letters"),
        ("fan_out: 3}", "fan_out: 3}\n    - {from: read, to: find}", "cycle through find, read"),
        ("runtime: skip", "runtime: skip, model: only.onnx", "a skip variant runs no model"),
        ("model: only.onnx", "precision: int8", "missing field 'model'"),
        ("reserved_cores: 1", "reserved_cores: 2", "leaves none of the 2 cores"),
        ("latency_s: 0.2", "latency_s: -1", "expected a number of seconds > 0, got -1"),
        ("latency_s: 0.2", "latency_s: .inf", "finite"),
        ("percentile: 99", "percentile: 100", "< 100"),
        ("rate_rps: 40", "trace: t.csv\n    rate_rps: 40", "exactly one of 'rate_rps'"),
        ("composition: product", "composition: sum", "expected 'product'"),
        ("name: shop", "name: shop\nname: twice", "stands here twice"),
        ("name: shop", "name: [shop", "expected ',' or ']'"),
        ("name: shop", "name: &a shop\ndescription: *b", "undefined alias"),
        ("name: shop", "name: !!python/object:os.system shop", "constructor"),
        ("apiVersion: inferplan/v1", "apiVersion: inferplan/v9", "expected 'inferplan/v1'"),
        ("apiVersion: inferplan/v1\n", "", "missing field 'apiVersion'"),
    ],
)
def test_one_wrong_thing_is_named(write_workload: Write, old: str, new: str, expected: str) -> None:
    found = problems(write_workload((old, new)))
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("name: shop", "name: shop\nmax_utilisation: 0.9", "max_utilisation"),
    ],
)
def test_what_nothing_honours_yet_is_refused(write_workload: Write, old: str, new: str, field: str) -> None:
    found = problems(write_workload((old, new)))
    assert any(field in problem and "honoured" in problem for problem in found), found


def test_load_levels_do_not_scale_traces_and_say_so(write_workload: Write) -> None:
    path = write_workload(
        ("rate_rps: 40", "trace: t.csv"), ("name: shop", "name: shop\nrobustness: {load_levels: [1, 2]}")
    )
    (path.parent / "t.csv").write_text("time_s\n0.5\n1.5\n2.5\n")
    assert any("load levels are not honoured for traces" in problem for problem in problems(path))


def test_overrides_reach_any_field_and_are_checked(write_workload: Write) -> None:
    path = write_workload()
    loaded = load_workload(path, ["classes.web.rate_rps=12.5", "classes.web.slo.latency_s=0.05"])
    assert loaded.workload.classes["web"].rate_rps == 12.5
    assert loaded.workload.classes["web"].slo is not None
    assert loaded.workload.classes["web"].slo.latency_s == 0.05
    assert loaded.sha256 != load_workload(path).sha256
    assert load_workload(path, ["pipeline.edges[0].fan_out=2"]).workload.pipeline.edges[0].fan_out == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "classes.web.rate_rp=1",
            "classes.web.rate_rp=1: classes.web.rate_rp: unknown field; did you mean 'rate_rps'",
        ),
        ("classes.web.rate_rps=fast", "--set classes.web.rate_rps=fast: classes.web.rate_rps: expected a number"),
        ("classes.web.rate_rps", "expected path=value"),
        ("pipeline.edges[7].fan_out=1", "a list of 1"),
        ("name.x=1", "it has no field 'x'"),
        ("name=[1", "not valid YAML"),
    ],
)
def test_a_wrong_override_says_which(write_workload: Write, override: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_workload(write_workload(), [override])
    assert expected in str(caught.value)


def test_includes_merge_and_keep_their_own_paths(write_workload: Write, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in write_workload().parent.glob("*.*"):
        file.rename(base / file.name)
    main = tmp_path / "more.yaml"
    main.write_text("include: [base/workload.yaml]\nclasses: {web: {rate_rps: 7}}\n")
    loaded = load_workload(main)
    assert loaded.workload.classes["web"].rate_rps == 7
    assert loaded.workload.model_path("read", "only") == (base / "only.onnx").resolve()
    assert loaded.workload.pipeline.stages["find"].code == "base/stages:Find"
    main.write_text("include: [base/workload.yaml]\nclasses: {web: {rate_rps: no}}\n")
    with pytest.raises(DocumentError) as caught:
        load_workload(main)
    assert (caught.value.problems[0].file, caught.value.problems[0].line) == (str(main), 2)


def test_every_reference_of_an_included_file_is_taken_from_its_folder(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "part.yaml").write_text("""\
pipeline:
  stages:
    s:
      code: stages:S
      metric: {name: m, compute: "scores:m"}
      variants:
        v:
          model: v.onnx
          factory: nets:make
          params: {model: as-it-is, code: "a:b"}
          modalities: {reads: [x], models: {x: x.onnx}}
        w: {metric: {compute: top1}}
""")
    main = tmp_path / "main.yaml"
    main.write_text("include: [base/part.yaml]\n")
    stage = read_with_includes(main).data["pipeline"]["stages"]["s"]
    variant = stage["variants"]["v"]
    assert stage["code"] == "base/stages:S"
    assert stage["metric"]["compute"] == "base/scores:m"
    assert (variant["model"], variant["factory"]) == ("base/v.onnx", "base/nets:make")
    assert variant["modalities"]["models"] == {"x": "base/x.onnx"}
    assert variant["params"] == {"model": "as-it-is", "code": "a:b"}
    assert stage["variants"]["w"]["metric"]["compute"] == "top1"


def test_an_include_cycle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: [b.yaml]\n")
    (tmp_path / "b.yaml").write_text("include: [a.yaml]\n")
    with pytest.raises(InputError, match="includes itself"):
        load_workload(tmp_path / "a.yaml")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_workload(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "42\n", "\x00", "a: " + "[" * 2000])
def test_not_even_a_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text(text)
    with pytest.raises(InputError):
        load_workload(path)


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 9)]
    with pytest.raises(InputError, match="expanded too far"):
        parse_yaml("\n".join(lines).encode(), "bomb.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_fail_cleanly(data: bytes) -> None:
    try:
        parse_yaml(data, "any.yaml")
    except InferplanError as error:
        assert "any.yaml" in str(error)
