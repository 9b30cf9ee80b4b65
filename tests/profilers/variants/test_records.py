"""The folder of made variants: nothing that was not made there is touched, nothing is written elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplan.profilers.variants.records import Record, Shelf
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import file_sha256


def made(shelf: Shelf, content: bytes = b"model", name: str = "v") -> Record:
    with shelf.bench("s") as work:
        file = work / "made.onnx"
        file.write_bytes(content)
        record = Record("s", name, "p", "fp16", {}, {"models": {}}, files={f"{name}.onnx": file_sha256(file)},
                        distance={"n": 3})  # fmt: skip
        shelf.put(record, {f"{name}.onnx": file})
    return record


def test_what_was_made_is_known_again(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        record = made(shelf)
        assert shelf.records("s") == {"v": record}
        assert shelf.intact(record)
        assert shelf.foreign("s", "v.onnx", record) == ""
    assert sorted(path.name for path in (tmp_path / "generated" / "s").iterdir()) == ["v.json", "v.onnx"]


def test_a_changed_or_foreign_file_is_left_alone(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        record = made(shelf)
        (tmp_path / "generated/s/v.onnx").write_bytes(b"mine")
        assert not shelf.intact(record)
        assert "move it away" in shelf.foreign("s", "v.onnx", record)
        assert "move it away" in shelf.foreign("s", "v.onnx", None)


def test_a_link_is_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"model")
    with Shelf(tmp_path) as shelf:
        record = made(shelf)
        target = tmp_path / "generated/s/v.onnx"
        target.unlink()
        target.symlink_to(tmp_path / "elsewhere")
        assert "move it away" in shelf.foreign("s", "v.onnx", record)


@pytest.mark.parametrize("at", ["generated", "generated/s"])
def test_folders_that_lead_out_are_refused(at: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "workload", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / at).parent.mkdir(exist_ok=True)
    (root / at).symlink_to(outside)
    with pytest.raises(InputError, match="leads out of the workload's folder"), Shelf(root) as shelf:
        made(shelf)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"stage": "s", "variant": "other"}',
     '{"stage": "s", "variant": "v", "parent": "p", "recipe": "r", "settings": {}, "basis": {},'
     ' "files": {"../../x": "0"}}'],
)  # fmt: skip
def test_damaged_records_are_passed_over(text: str, tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        made(shelf)
        (tmp_path / "generated/s/v.json").write_text(text)
        assert shelf.records("s") == {}


def test_one_at_a_time(tmp_path: Path) -> None:
    with Shelf(tmp_path), pytest.raises(InputError, match="another `inferplan variants`"), Shelf(tmp_path):
        pass
    with Shelf(tmp_path):
        pass


def test_work_left_by_a_killed_run_goes(tmp_path: Path) -> None:
    (tmp_path / "generated/s/.making-old").mkdir(parents=True)
    with Shelf(tmp_path) as shelf:
        made(shelf)
    assert not (tmp_path / "generated/s/.making-old").exists()
