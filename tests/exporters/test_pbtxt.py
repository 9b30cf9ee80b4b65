"""Protobuf text: what we write parses to what was meant, and every field is found where it stands."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inferplan.exporters.pbtxt import Word, render, scan


def parse(text: str) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


@given(
    name=st.text(),
    key=st.text(),
    value=st.text(),
    size=st.integers(-(2**31), 2**31 - 1),
    gpus=st.lists(st.integers(0, 9)),
)
def test_whatever_the_strings_hold_it_is_read_back_as_written(
    name: str, key: str, value: str, size: int, gpus: list[int]
) -> None:
    config = parse(
        render(
            {
                "name": name,
                "max_batch_size": size,
                "instance_group": [{"kind": Word("KIND_CPU"), "gpus": list(gpus)}],
                "parameters": [{"key": key, "value": {"string_value": value}}],
                "dynamic_batching": {},
            }
        )
    )
    assert (config.name, config.max_batch_size, list(config.instance_group[0].gpus)) == (name, size, gpus)
    assert {k: v.string_value for k, v in config.parameters.items()} == {key: value}
    assert config.HasField("dynamic_batching")
    assert not config.ListFields()[-1][0].name.startswith("model_"), "no field slipped in"


TEXT = """# a comment with { braces
name: "a" 'b'   # two strings make one
input [
  { name: "x" dims: [ -1, 3 ] },
  { name: "#y"; dims: 4 dims: 5 }
]
parameters { key: "threads" value { string_value: "1" } }
parameters: { key: "other" value: < string_value: "2" > }
version_policy: { specific { versions: [ 1, 2 ] } }
"""


def test_fields_are_found_where_they_stand() -> None:
    parse(TEXT)
    root = scan(TEXT)

    def place(*path: str | int) -> tuple[int, int]:
        node = root.find(path)
        return node.line, node.column

    assert place("name") == (2, 1)
    assert place("input", 0, "name") == (4, 5)
    assert place("input", 1) == (5, 3)
    assert place("input", 1, "dims", 1) == (5, 25)
    assert place("parameters", "other") == (8, 1)
    assert place("parameters", "threads", "string_value") == (7, 1), "the nearest place above"
    assert place("version_policy", "specific", "versions", 1) == (9, 45)
    assert place("output", 3, "dims") == (0, 0)


def test_what_is_written_is_told_from_what_is_left_out() -> None:
    root = scan(TEXT)
    assert root.written(("input", 0, "dims"))
    assert not root.written(("input", 0, "data_type"))
    assert not root.written(("instance_group",))
    assert not root.written(("input", 7, "dims"))
