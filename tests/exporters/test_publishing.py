"""Exports are put in place whole or not at all, and nothing of anybody else's is replaced unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplan.exporters.publishing import MANIFEST, published, written_files
from inferplan.spec.errors import InputError


def publish(target: Path, text: str = "one", *, force: bool = False, sources: Path = Path("/nowhere")) -> None:
    with published(target, {"target": "test"}, force=force, sources=sources) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/file.txt").write_text(text)


def only(target: Path) -> None:
    """Nothing stays behind beside the target."""
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_folder_is_written_and_replaced_by_the_next_export(tmp_path: Path) -> None:
    target = tmp_path / "out"
    publish(target)
    publish(target, "two")
    assert (target / "sub/file.txt").read_text() == "two"
    assert written_files(target) == [Path(MANIFEST), Path("sub/file.txt")]
    only(target)


def test_same_content_same_bytes(tmp_path: Path) -> None:
    publish(tmp_path / "a")
    publish(tmp_path / "b")
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    publish(target)

    def fail() -> None:
        with published(target, {}, force=False, sources=Path("/nowhere")) as folder:
            (folder / "half.txt").write_text("half")
            raise RuntimeError("checks failed")

    with pytest.raises(RuntimeError, match="checks failed"):
        fail()
    assert (target / "sub/file.txt").read_text() == "one"
    only(target)


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    publish(tmp_path / "out")
    only(tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("notes.txt", "notes.txt was not written by inferplan"),
        ("sub/file.txt", "sub/file.txt was changed since it was exported"),
        (MANIFEST, "inferplan-export.json cannot be read"),
    ],
)
def test_what_is_not_ours_any_more_is_replaced_only_by_force(tmp_path: Path, path: str, message: str) -> None:
    target = tmp_path / "out"
    publish(target)
    (target / path).write_text("mine")
    with pytest.raises(InputError, match=message):
        publish(target, "two")
    assert (target / path).read_text() == "mine"
    publish(target, "two", force=True)
    assert (target / "sub/file.txt").read_text() == "two"
    only(target)


def test_a_folder_of_others_is_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.tex").write_text("years")
    with pytest.raises(InputError, match="not written by inferplan; give another folder, or --force"):
        publish(target)
    assert (target / "thesis.tex").read_text() == "years"
    publish(target, force=True)
    assert not (target / "thesis.tex").exists()


def test_not_even_force_replaces_the_workload_or_the_home_or_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "all"
    (kept / "sub").mkdir(parents=True)
    with pytest.raises(InputError, match="holds the workload"):
        publish(kept, force=True, sources=kept / "sub")
    monkeypatch.setenv("HOME", str(kept / "sub"))
    with pytest.raises(InputError, match="holds the home folder"):
        publish(kept, force=True)
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.chdir(kept / "sub")
    with pytest.raises(InputError, match="holds the working folder"):
        publish(kept, force=True)


def test_a_file_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        publish(tmp_path / "out", force=True)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    publish(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/sub/file.txt").read_text() == "one"
