"""The linter: every rule on a repository that breaks it, and nothing to say about a sound one.

The same breaches go to a real server. Where it refuses to load, our rule must be an error; a rule that is an
error although the server loads is one of those it is known to accept silently.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inferplan.exporters.findings import RULES, Finding
from inferplan.exporters.triton import export_triton
from inferplan.exporters.triton_lint import lint_repository
from inferplan.spec.errors import CheckFailedError, InputError

DOUBLE, ADD, SHOP = "double-only/config.pbtxt", "add-only/config.pbtxt", "shop/config.pbtxt"


@dataclass(frozen=True)
class Breach:
    """Replace `old` by `new` in a configuration (old "" appends), and expect a rule.

    `loads`: the server does. `crashes`: it refuses, and in the release we write for may crash doing so.
    """

    rule: str
    file: str
    old: str
    new: str
    loads: bool = False
    crashes: bool = False

    def __str__(self) -> str:
        return f"{self.rule}-{self.new[:24]!r}"

    def apply(self, repository: Path) -> None:
        path = repository / self.file
        text = path.read_text()
        assert not self.old or re.search(self.old, text), f"nothing to replace in {self.file}"
        path.write_text(re.sub(self.old, self.new, text, count=1) if self.old else text + self.new + "\n")


X_INPUT = r'name: "x"\s+data_type: TYPE_FP32\s+dims: \[ 4 \]'
Y_OUTPUT = r'name: "y"\s+data_type: TYPE_FP32\s+dims: \[ 4 \]'
X_SAMPLE = 'key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true }'
WARP = "optimization { execution_accelerators { gpu_execution_accelerator { name: 'warp' } } }"


def step(source: str, target: str) -> str:
    """A further step of an ensemble, in front of the others."""
    maps = f'input_map {{ key: "x" value: "{source}" }} output_map {{ key: "y" value: "{target}" }}'
    return f'step {{ model_name: "double-only" model_version: -1 {maps} }} '


CONFIG_BREACHES = [
    Breach("config-parse", DOUBLE, "max_batch_size", "max_batch_sizes"),
    Breach("schema-skew", DOUBLE, "", "model_metrics { }"),
    Breach("schema-skew", SHOP, "step \\[", "max_inflight_requests: 3 step ["),
    Breach("name-mismatch", DOUBLE, '"double-only"', '"other"'),
    Breach("name-missing", DOUBLE, 'name: "double-only"', "", loads=True),
    Breach("backend-guessed", DOUBLE, 'backend: "onnxruntime"', "", loads=True),
    Breach("backend-missing", SHOP, '(?s)platform: "ensemble".*ensemble_scheduling.*', "max_batch_size: 4"),
    Breach("backend-platform", DOUBLE, 'backend: "onnxruntime"', 'backend: "onnxruntime" platform: "tensorrt_plan"'),
    Breach("batch-negative", DOUBLE, "max_batch_size: 8", "max_batch_size: -8"),
    Breach("version-policy", DOUBLE, r"latest \{\s+num_versions: 1\s+\}", "specific { versions: [ 7 ] }"),
    Breach("model-file-missing", DOUBLE, "", 'default_model_filename: "other.onnx"'),
    Breach("io-missing", DOUBLE, r"(?s)output \[.*?\n\]", ""),
    Breach("io-name", DOUBLE, 'name: "x"', 'name: ""'),
    Breach("io-type", DOUBLE, X_INPUT, 'name: "x" dims: [ 4 ]'),
    Breach("io-dims", DOUBLE, X_INPUT, 'name: "x" data_type: TYPE_FP32 dims: [ 0 ]'),
    Breach("instance-missing", DOUBLE, r"(?s)instance_group \[.*?\}\n\]", "", loads=True),
    Breach("instance-kind", DOUBLE, "kind: KIND_CPU", "", loads=True),
    Breach("instance-count-missing", DOUBLE, "count: 1\n    gpus", "gpus", loads=True),
    Breach("instance-count", DOUBLE, "count: 1\n    gpus", "count: 0\n    gpus", loads=True),
    Breach("instance-count", DOUBLE, "count: 1\n    gpus", "count: -1\n    gpus", loads=True),
    Breach("instance-cpu-gpus", DOUBLE, r"gpus: \[ \]", "gpus: [ 0 ]"),
    Breach("instance-gpus-missing", DOUBLE, "KIND_CPU", "KIND_GPU"),
    Breach("preferred-batch", DOUBLE, "dynamic_batching {", "dynamic_batching { preferred_batch_size: 4", loads=True),
    Breach("preferred-batch-range", DOUBLE, "dynamic_batching {", "dynamic_batching { preferred_batch_size: 9"),
    Breach("ort-threads-value", DOUBLE, r'(intra_op_thread_count"\s+value \{\s+string_value: )"1"', r'\1"two"'),
    Breach("accelerator-unknown", DOUBLE, "", WARP, loads=True),
    Breach("warmup-ignored", DOUBLE, "batch_size: 1\n", "batch_size: 0\n", loads=True),
    Breach("warmup-batch", DOUBLE, "batch_size: 8\n    count", "batch_size: 9\n    count", crashes=True),
    Breach("warmup-input", DOUBLE, 'key: "x"', 'key: "w"'),
    Breach("warmup-input", DOUBLE, "zero_data: true", ""),
    Breach("warmup-type", DOUBLE, r"TYPE_FP32(\s+dims: \[ 4 \]\s+zero)", r"TYPE_INT64\1"),
    Breach("warmup-dims", DOUBLE, r"dims: \[ 4 \](\s+zero)", r"dims: [ 1, 4 ]\1"),
    Breach("warmup-dims", DOUBLE, r"dims: \[ 4 \](\s+zero)", r"dims: [ -1 ]\1"),
    Breach("warmup-file", DOUBLE, "zero_data: true", 'input_data_file: "x.bin"'),
    Breach("graph-input-unknown", DOUBLE, 'name: "x"', 'name: "image"'),
    Breach("graph-input-missing", DOUBLE, 'name: "x"', 'name: "image"'),
    Breach("graph-output-unknown", DOUBLE, 'name: "y"', 'name: "scores"'),
    Breach("graph-output-missing", DOUBLE, 'name: "y"', 'name: "scores"'),
    Breach("graph-type", DOUBLE, "TYPE_FP32", "TYPE_FP16"),
    Breach("graph-dims", DOUBLE, X_INPUT, 'name: "x" data_type: TYPE_FP32 dims: [ 5 ]'),
    Breach("graph-dims", DOUBLE, X_INPUT, 'name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ]'),
    Breach("graph-dims", DOUBLE, Y_OUTPUT, 'name: "y" data_type: TYPE_FP32 dims: [ -1 ]'),
    Breach("ensemble-platform", SHOP, 'platform: "ensemble"', 'platform: "ensemble" backend: "python"'),
    Breach("ensemble-instances", SHOP, "", "instance_group { kind: KIND_CPU count: 1 }"),
    Breach("ensemble-optimization", SHOP, "", "optimization { priority: PRIORITY_MAX }"),
    Breach("ensemble-warmup", SHOP, "", f"model_warmup {{ batch_size: 1 inputs {{ {X_SAMPLE} }} }}"),
    Breach("ensemble-steps", SHOP, r"(?s)step \[.*\n  \]", ""),
    Breach("ensemble-member", SHOP, 'model_name: "add-only"', 'model_name: "gone"'),
    Breach("ensemble-batch", SHOP, "max_batch_size: 4", "max_batch_size: 5"),
    Breach("ensemble-map", SHOP, 'key: "x"', 'key: "image"'),
    Breach("ensemble-input-unmapped", SHOP, 'key: "x"', 'key: "image"'),
    Breach("ensemble-unproduced", SHOP, 'value: "x"', 'value: "q"'),
    Breach("ensemble-unused", SHOP, 'value: "x"', 'value: "q"'),
    Breach("ensemble-produced-twice", SHOP, r"step \[", step("x", "z") + "step ["),
    Breach("ensemble-cycle", SHOP, r"step \[", step("b", "a") + step("a", "b") + "step ["),
    Breach("ensemble-type", SHOP, "TYPE_FP32", "TYPE_INT32"),
    Breach("ensemble-dims", SHOP, r"dims: \[ 4 \]", "dims: [ 3 ]"),
]  # fmt: skip


def remove(path: str) -> Callable[[Path], None]:
    return lambda repository: (repository / path).unlink()


def truncate(path: str) -> Callable[[Path], None]:
    return lambda repository: os.truncate(repository / path, 100)


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda repository: (repository / old).rename(repository / new) and None


def link_out(path: str) -> Callable[[Path], None]:
    def act(repository: Path) -> None:
        outside = repository.parent / "outside.onnx"
        (repository / path).rename(outside)
        (repository / path).symlink_to(outside)

    return act


def pipe(path: str) -> Callable[[Path], None]:
    def act(repository: Path) -> None:
        (repository / path).unlink()
        os.mkfifo(repository / path)

    return act


def binary(path: str) -> Callable[[Path], None]:
    return lambda repository: (repository / path).write_bytes(b"\xff\xfe\x00") and None


FOLDER_BREACHES: list[tuple[str, Callable[[Path], None]]] = [
    ("path-escape", link_out("add-only/1/model.onnx")),
    ("model-file-missing", link_out("add-only/1/model.onnx")),
    ("path-escape", lambda repository: (repository / "loop").symlink_to("loop")),
    ("config-absent", remove(ADD)),
    ("config-missing", remove(SHOP)),
    ("file-unreadable", pipe(ADD)),
    ("file-unreadable", binary(ADD)),
    ("version-missing", rename("add-only/1", "add-only/one")),
    ("version-ignored", rename("add-only/1", "add-only/01")),
    ("model-file-missing", remove("add-only/1/model.onnx")),
    ("graph-unreadable", truncate("add-only/1/model.onnx")),
]


@pytest.fixture
def repository(chain: Any, chain_plan: Any, tmp_path: Path) -> Path:
    """A sound repository: two models and their ensemble."""
    export_triton(chain_plan, chain, tmp_path / "repository")
    return tmp_path / "repository"


def rules(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.rule for finding in findings}


def test_a_sound_repository_has_no_findings(repository: Path) -> None:
    report = lint_repository(repository)
    assert report.findings == ()
    assert report.models == ("add-only", "double-only", "shop")
    report.require_clean()


@pytest.mark.parametrize("breach", CONFIG_BREACHES, ids=str)
def test_a_breach_in_a_configuration_is_found_in_its_file_and_line(repository: Path, breach: Breach) -> None:
    breach.apply(repository)
    found = [finding for finding in lint_repository(repository).findings if finding.rule == breach.rule]
    assert found, "the rule found nothing"
    (file,) = {finding.file for finding in found}
    assert file == breach.file
    assert {finding.severity for finding in found} == {RULES[breach.rule].severity}
    length = len((repository / file).read_text().splitlines())
    assert all(0 <= finding.line <= length for finding in found)


@pytest.mark.parametrize(("rule", "act"), FOLDER_BREACHES, ids=[rule for rule, _ in FOLDER_BREACHES])
def test_a_breach_in_the_folders_is_found(repository: Path, rule: str, act: Callable[[Path], None]) -> None:
    act(repository)
    assert rule in rules(lint_repository(repository).findings)


def test_rules_that_need_another_model(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    make_model(
        tmp_path / "fixed/1/model.onnx",
        {"x": ("FLOAT", [1, 4])},
        {"y": ("FLOAT", [1, 4])},
        [("Relu", ["x"], ["y"], {})],
    )
    config = 'name: "fixed" backend: "onnxruntime" max_batch_size: %d dynamic_batching { }\n' + (
        'input { name: "x" data_type: TYPE_FP32 dims: [%s] } output { name: "y" data_type: TYPE_FP32 dims: [%s] }'
        "instance_group { kind: KIND_CPU count: 1 }"
    )
    (tmp_path / "fixed/config.pbtxt").write_text(config % (4, "4", "4"))
    assert rules(lint_repository(tmp_path).findings) == {"graph-batch", "ort-threads-missing"}
    (tmp_path / "fixed/config.pbtxt").write_text(config % (0, "1, 4", "1, 4"))
    assert rules(lint_repository(tmp_path).findings) == {"batching-without-batch", "ort-threads-missing"}


def test_every_rule_is_tried_and_documented(repository: Path) -> None:
    elsewhere = {"repository-empty", "graph-batch", "ort-threads-missing", "batching-without-batch"}
    tried = {breach.rule for breach in CONFIG_BREACHES} | {rule for rule, _ in FOLDER_BREACHES} | elsewhere
    assert tried == set(RULES)
    text = (Path(__file__).parents[2] / "docs/triton-lint.md").read_text()
    documented = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning) \|", text, re.MULTILINE))
    assert documented == {rule.id: rule.severity for rule in RULES.values()}


def test_findings_say_where_what_and_what_to_do(repository: Path) -> None:
    path = repository / DOUBLE
    path.write_text(path.read_text().replace('name: "x"', 'name: "image"'))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if '"image"' in text)
    (found,) = [f for f in lint_repository(repository).findings if f.rule == "graph-input-unknown"]
    assert (found.line, found.column) == (line, 5)
    assert str(found) == (
        f"{DOUBLE}:{line}:5: error: input 'image' is not in the graph, which has 'x' [graph-input-unknown];"
        " use the names of the ONNX graph's inputs"
    )
    report = lint_repository(repository)
    assert report.as_dict()["errors"] == len(report.errors) > 0
    with pytest.raises(CheckFailedError, match="is not in the graph"):
        report.require_clean()


def test_a_syntax_error_keeps_its_line_and_column(repository: Path) -> None:
    (repository / ADD).write_text('name: "add-only"\ninput { name: 3 }\n')
    (found,) = [f for f in lint_repository(repository).findings if f.rule == "config-parse"]
    assert (found.file, found.line, found.column) == (ADD, 2, 15)


def test_numbers_that_name_nothing_are_found(repository: Path) -> None:
    """Where a word is expected any number parses."""
    config = repository / DOUBLE
    text = config.read_text().replace("kind: KIND_CPU", "kind: -1")
    config.write_text(text.replace("data_type: TYPE_FP32", "data_type: 99"))
    found = {finding.rule: finding.message for finding in lint_repository(repository).findings}
    assert found["instance-kind"] == "there is no kind -1"
    assert "is 99; in the graph TYPE_FP32" in found["graph-type"]
    assert "99 by" in found["ensemble-type"]


def test_of_a_step_that_is_not_there_no_type_is_known(repository: Path) -> None:
    config = repository / SHOP
    config.write_text(config.read_text().replace('model_name: "double-only"', 'model_name: "nobody"'))
    rules = {finding.rule for finding in lint_repository(repository).findings}
    assert rules
    assert "ensemble-type" not in rules


def test_configurations_for_other_machines_are_checked_too(repository: Path) -> None:
    (repository / "add-only/configs").mkdir()
    text = (repository / ADD).read_text()
    (repository / "add-only/configs/edge.pbtxt").write_text(text.replace("TYPE_FP32", "TYPE_FP64", 1))
    found = {(finding.rule, finding.file) for finding in lint_repository(repository).findings}
    assert found == {(rule, "add-only/configs/edge.pbtxt") for rule in ("graph-type", "warmup-type")}


def test_what_is_not_a_repository_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        lint_repository(tmp_path / "gone")
    with pytest.raises(InputError, match="this is one model"):
        lint_repository(repository / "add-only")
    (tmp_path / "empty").mkdir()
    assert rules(lint_repository(tmp_path / "empty").findings) == {"repository-empty"}


def test_repositories_of_others_are_read_with_their_own_habits(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    """Platform instead of backend, angle brackets, a model in a folder, ragged and reshaped tensors, other backends."""
    make_model(
        tmp_path / "theirs/3/model.onnx/model.onnx",
        {"ids": ("INT64", ["n", "t"])},
        {"label": ("INT64", ["n"])},
        [("ArgMax", ["ids"], ["label"], {"axis": 1, "keepdims": 0})],
    )
    (tmp_path / "theirs/config.pbtxt").write_text(
        "name: 'theirs' platform: \"onnxruntime_onnx\" max_batch_size: 2  # angle brackets, too\n"
        "input < name: 'ids'; data_type: TYPE_INT64; dims: -1 >\n"
        "output [ { name: 'label' data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } } ]\n"
        "instance_group { kind: KIND_CPU count: 1 } version_policy { all { } }\n"
        'parameters { key: "intra_op_thread_count" value { string_value: "2" } }\n'
        'parameters { key: "inter_op_thread_count" value { string_value: "1" } }\n'
    )
    (tmp_path / "plan/1").mkdir(parents=True)
    (tmp_path / "plan/1/model.plan").write_bytes(b"engine")
    (tmp_path / "plan/config.pbtxt").write_text(
        'name: "plan" backend: "tensorrt" max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4, 8 ] }\n'
        'input { name: "x" data_type: TYPE_FP32 dims: 3 } output { name: "y" data_type: TYPE_FP32 dims: 3 }\n'
        "instance_group { kind: KIND_GPU count: 1 gpus: 0 }\n"
    )
    assert lint_repository(tmp_path).findings == ()


@pytest.fixture(scope="module")
def loads(
    tritonserver: ModuleType, triton_installation: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path, str], str]]:
    """loads(repository, model): what one server, kept for all tests, says when told to load it; "" for nothing.

    Every model is loaded once, under a name of its own: this release may crash when it replaces models. Should
    it crash all the same, a fresh server is asked, once.
    """
    served = tmp_path_factory.mktemp("served")
    numbers = itertools.count()
    servers: list[Any] = []

    def start() -> None:
        log = served.parent / f"server-{next(numbers)}.log"
        stop()
        servers.append(tritonserver.serving(triton_installation, served, log, "--model-control-mode=explicit"))
        servers.append(servers[0].__enter__())

    def stop() -> None:
        if servers:
            servers[0].__exit__(None, None, None)
            servers.clear()

    def ask(repository: Path, model: str) -> str:
        name = f"{model}-{next(numbers)}"
        for other in {"double-only", "add-only"} - {path.name for path in served.iterdir()} - {model}:
            shutil.copytree(repository / other, served / other)
        shutil.copytree(repository / model, served / name)
        config = served / name / "config.pbtxt"
        config.write_text(config.read_text().replace(f'name: "{model}"', f'name: "{name}"', 1))
        try:
            return _refusal(servers[1].http, name)
        except (TimeoutError, ConnectionError):
            start()
            return _refusal(servers[1].http, name)

    start()
    try:
        yield ask
    finally:
        stop()


def _refusal(address: str, model: str) -> str:
    """Tell a server to load a model: "" where it does, else why not. Raises OSError where it does not answer."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("POST", f"/v2/repository/models/{model}/load", b"{}")
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    return "" if answer.status == 200 else str(json.loads(content)["error"])


@pytest.mark.server
@pytest.mark.timeout(600)
@pytest.mark.parametrize("breach", [b for b in CONFIG_BREACHES if not b.crashes], ids=str)
def test_the_server_judges_as_we_do(repository: Path, breach: Breach, loads: Callable[[Path, str], str]) -> None:
    breach.apply(repository)
    refusal = loads(repository, breach.file.partition("/")[0])
    assert bool(refusal) != breach.loads, refusal
