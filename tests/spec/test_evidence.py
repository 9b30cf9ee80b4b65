"""Hashes change with what a value rests on, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplan.spec.errors import InputError
from inferplan.spec.evidence import code_sha256, file_sha256, imported_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stages.py").write_text("import helper\nimport numpy\nfrom other.part import x\nclass A: pass\n")
    (tmp_path / "helper.py").write_text("from deeper import y\n")
    (tmp_path / "deeper.py").write_text("import stages\n")
    (tmp_path / "train.py").write_text("print('not used')\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("")
    (tmp_path / "words.txt").write_text("abc")
    return tmp_path


def test_imported_neighbours_count_and_others_do_not(folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path in imported_files(folder / "stages.py")]
    assert names == ["deeper.py", "helper.py", "other/__init__.py", "stages.py"]


def test_imports_by_name_at_run_time_make_every_neighbour_count(folder: Path) -> None:
    (folder / "deeper.py").write_text("import importlib\n")
    assert folder / "train.py" in imported_files(folder / "stages.py")


@pytest.mark.parametrize(
    ("file", "changes"), [("stages.py", True), ("deeper.py", True), ("words.txt", True), ("train.py", False)]
)
def test_the_hash_of_code_follows_the_files_it_uses(folder: Path, file: str, changes: bool) -> None:
    params = {"dictionary": "words.txt", "side": 3}
    before = code_sha256("stages:A", params, folder)
    (folder / file).write_text((folder / file).read_text() + "\n")
    assert (code_sha256("stages:A", params, folder) != before) == changes


def test_params_and_class_count(folder: Path) -> None:
    base = code_sha256("stages:A", {"side": 3}, folder)
    assert code_sha256("stages:A", {"side": 4}, folder) != base
    assert code_sha256("stages:B", {"side": 3}, folder) != base
    assert code_sha256(None, {"side": 3}, folder) == ""


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*gone\.onnx"):
        file_sha256(tmp_path / "gone.onnx")
