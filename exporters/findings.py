"""Findings of the Triton linter: the table of rules, and the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from inferplan.spec.errors import CheckFailedError

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: an error keeps the server from loading or answering as written, a warning makes it do something
    else than what the file seems to say. `remedy` is what to do."""

    id: str
    severity: Severity
    remedy: str


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One breach of one rule. `file` is relative to the repository; `line` and `column` count from 1, 0 where none."""

    file: str
    line: int
    column: int
    rule: str
    severity: Severity
    message: str
    remedy: str

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "") + (f":{self.column}" if self.column else "")
        return f"{place}: {self.severity}: {self.message} [{self.rule}]; {self.remedy}"


@dataclass(frozen=True, slots=True)
class LintReport:
    """What the linter found in a repository. `models` are the names of the models it looked at."""

    root: Path
    server: str
    models: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def as_dict(self) -> dict[str, object]:
        """The report for programs: stable keys, plain values."""
        return {
            "repository": str(self.root),
            "server": self.server,
            "models": list(self.models),
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def require_clean(self) -> None:
        """Raise CheckFailedError where there is any finding, warnings too: what we write has none."""
        if self.findings:
            raise CheckFailedError(
                f"{self.root}: {len(self.errors)} errors, {len(self.warnings)} warnings for Triton {self.server}",
                [str(finding) for finding in self.findings],
            )


def _rules(severity: Severity, table: dict[str, str]) -> list[Rule]:
    return [Rule(name, severity, remedy) for name, remedy in table.items()]


RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in [
        *_rules("error", {
            "repository-empty": "give the folder that holds one folder per model",
            "path-escape": "copy the file into the repository: a server sees nothing outside of it",
            "file-unreadable": "make it a regular, readable file",
            "config-missing": "write config.pbtxt",
            "config-parse": "correct the text (protobuf text format of Triton's ModelConfig)",
            "schema-skew": "remove the field, or serve with a release that knows it",
            "name-mismatch": "make the name in config.pbtxt and the folder's name the same",
            "version-missing": "add a folder named by a positive number, such as 1",
            "version-policy": "name versions that exist",
            "model-file-missing": "put the file there, or set default_model_filename",
            "backend-missing": 'name a backend (backend: "onnxruntime"), or platform: "ensemble"',
            "backend-platform": "let backend and platform name the same framework, or leave platform out",
            "batch-negative": "use 0 (no batching) or a positive number",
            "io-name": "give every input and output a name of its own",
            "io-type": "state data_type",
            "io-dims": "state dims: every dimension but the batch, each at least 1, or -1 where it varies",
            "instance-count": "use a count of at least 1",
            "instance-cpu-gpus": "list GPUs for KIND_GPU only",
            "preferred-batch-range": "use sizes from 1 to max_batch_size",
            "ort-threads-value": 'use a whole number in a string, as in string_value: "1"',
            "accelerator-unknown": 'use "tensorrt" or "cuda" on GPU, "openvino" on CPU',
            "warmup-input": "give exactly the model's inputs, each with zero_data, random_data or input_data_file",
            "warmup-type": "use the data_type of the model's input",
            "warmup-dims": "state every dimension but the batch, none free, agreeing with the input's dims",
            "warmup-batch": "use batch sizes from 1 to max_batch_size",
            "warmup-file": "put the file into the model's warmup folder",
            "graph-unreadable": "export the model again, or copy it again",
            "graph-input-unknown": "use the names of the ONNX graph's inputs",
            "graph-input-missing": "write every input of the ONNX graph",
            "graph-output-unknown": "use the names of the ONNX graph's outputs",
            "graph-type": "use the data type of the ONNX graph",
            "graph-batch": "export the model with a free first dimension, or set max_batch_size: 0",
            "graph-dims": "use the dimensions of the ONNX graph (less the batch where max_batch_size > 0)",
            "ensemble-platform": 'write platform: "ensemble" together with ensemble_scheduling, and no backend',
            "ensemble-instances": "remove instance_group: the members have their own",
            "ensemble-optimization": "remove optimization: the members have their own",
            "ensemble-warmup": "remove model_warmup: the members have their own",
            "ensemble-steps": "write at least one step",
            "ensemble-member": "name a model of this repository (and a version it has)",
            "ensemble-batch": "lower max_batch_size to that of the smallest member",
            "ensemble-map": "use the names of the member's inputs and outputs, each once",
            "ensemble-input-unmapped": "map every input of the member to a tensor",
            "ensemble-unproduced": "let one step, or the ensemble's inputs, produce the tensor",
            "ensemble-produced-twice": "let one step alone produce each tensor",
            "ensemble-unused": "remove the tensor, or let a step or the ensemble's outputs consume it",
            "ensemble-cycle": "break the cycle: data flows one way",
            "ensemble-type": "let producer and consumers of a tensor have one data type",
            "ensemble-dims": "let producer and consumers of a tensor have one shape",
        }),
        *_rules("warning", {
            "config-absent": "write config.pbtxt: with --disable-auto-complete-config the model does not load",
            "backend-guessed": "write the backend",
            "name-missing": "write the name: it is the folder's name",
            "version-ignored": "name version folders by positive numbers without leading zeros",
            "io-missing": "write all inputs and outputs: what is left out is guessed, or lost",
            "instance-missing": "write instance_group with kind, count and gpus",
            "instance-kind": "write KIND_CPU or KIND_GPU: KIND_AUTO depends on the machine",
            "instance-count-missing": "write the count",
            "instance-gpus-missing": "list the GPUs: without a list every GPU gets count instances",
            "preferred-batch": "remove preferred_batch_size, and set max_queue_delay_microseconds",
            "batching-without-batch": "set max_batch_size above 1, or remove dynamic_batching",
            "ort-threads-missing": "set parameters intra_op_thread_count and inter_op_thread_count",
            "warmup-ignored": "set batch_size to at least 1",
            "graph-output-missing": "write every output of the ONNX graph: requests cannot ask for the others",
        }),
    ]
}  # fmt: skip
