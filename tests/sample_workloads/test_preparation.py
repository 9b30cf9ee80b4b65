"""What preparing sample workloads rests on: pinned packages are checked and never run, what is made is noted."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "sample_workloads"
if str(SAMPLES) not in sys.path:
    sys.path.insert(0, str(SAMPLES))

import preparation  # noqa: E402
from preparation import DownloadError, Ledger, Package, PinnedFile, PrepareError, lay_out  # noqa: E402

FILES = {"a.bin": b"A", "b.txt": b"B", "extra.bin": b"C"}
PREFIX = {"models-1.0-py3-none-any.whl": "", "models-1.0.tar.gz": "models-1.0/"}

archives = pytest.mark.parametrize("archive", list(PREFIX))


def package_of(archive: str, files: dict[str, bytes] = FILES) -> Package:
    """A package of which all but `extra.bin` is wanted, below `out/`."""
    pinned = (
        PinnedFile(PREFIX[archive] + name, f"out/{name}", hashlib.sha256(content).hexdigest())
        for name, content in files.items()
        if name != "extra.bin"
    )
    return Package("models==1.0", archive, tuple(pinned))


def write_archive(folder: Path, archive: str, files: dict[str, bytes] = FILES) -> None:
    folder.mkdir(exist_ok=True)
    if archive.endswith(".whl"):
        with zipfile.ZipFile(folder / archive, "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
        return
    with tarfile.open(folder / archive, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(PREFIX[archive] + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@archives
def test_only_pinned_files_are_unpacked_and_once(tmp_path: Path, archive: str) -> None:
    write_archive(tmp_path / "packages", archive)
    assert lay_out(package_of(archive), tmp_path, tmp_path / "packages")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.bin", "b.txt"]
    (tmp_path / "packages" / archive).unlink()
    assert not lay_out(package_of(archive), tmp_path, tmp_path / "packages")


@archives
def test_a_damaged_file_is_unpacked_again(tmp_path: Path, archive: str) -> None:
    write_archive(tmp_path / "packages", archive)
    lay_out(package_of(archive), tmp_path, tmp_path / "packages")
    (tmp_path / "out" / "a.bin").write_bytes(b"")
    assert lay_out(package_of(archive), tmp_path, tmp_path / "packages")
    assert (tmp_path / "out" / "a.bin").read_bytes() == b"A"


@archives
def test_what_is_not_the_pinned_file_is_refused(tmp_path: Path, archive: str) -> None:
    write_archive(tmp_path / "packages", archive, {**FILES, "a.bin": b"tampered"})
    with pytest.raises(PrepareError, match=r"a\.bin of models==1\.0 is not the file expected"):
        lay_out(package_of(archive), tmp_path, tmp_path / "packages")
    assert not (tmp_path / "out").exists()
    write_archive(tmp_path / "packages", archive, {"other": b"A"})
    with pytest.raises(PrepareError, match=r"holds no file .*a\.bin"):
        lay_out(package_of(archive), tmp_path, tmp_path / "packages")


@archives
def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no route to host\n")

    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / archive).write_bytes(b"half an arch")  # what an interrupted download leaves
    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(DownloadError, match=r"(?s)models==1\.0: ERROR: no route.*--packages"):
        lay_out(package_of(archive), tmp_path, tmp_path / "packages")


def test_a_truncated_source_distribution_is_no_crash(tmp_path: Path) -> None:
    archive = "models-1.0.tar.gz"
    write_archive(tmp_path, archive, {"a.bin": bytes(range(256)) * 400, "b.txt": b"B"})
    whole = (tmp_path / archive).read_bytes()
    (tmp_path / archive).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PrepareError, match="cannot be read"):
        lay_out(package_of(archive, {"b.txt": b"B"}), tmp_path, tmp_path)


def test_a_source_distribution_is_fetched_by_pip_without_running_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, trace = "models-1.0.tar.gz", tmp_path / "it-ran"
    setup = f"import pathlib; pathlib.Path({str(trace)!r}).touch()\nraise SystemExit('setup.py was run')\n"
    write_archive(tmp_path / "index", archive, {**FILES, "setup.py": setup.encode()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert lay_out(package_of(archive), tmp_path, tmp_path / "packages")
    assert (tmp_path / "out" / "b.txt").read_bytes() == b"B"
    assert not trace.exists()


def test_missing_requirements_name_the_install_command() -> None:
    with pytest.raises(PrepareError, match=r"^preparing needs some-package: pip install that$"):
        preparation.check_requirements({"no_such_module_here": "some-package", "json": "json"}, "pip install that")
    preparation.check_requirements({"json": "json"}, "")


def test_the_ledger_holds_what_is_there_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"A")
    Ledger(tmp_path, "1", ["numpy"]).add(["a"])
    again = Ledger(tmp_path, "1")
    assert again.holds(["a"])
    assert not again.holds(["a", "b"])
    assert not Ledger(tmp_path, "2").holds(["a"])
    (tmp_path / "a").write_bytes(b"changed")
    assert not again.holds(["a"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"edition": "0", "files": {"a": "x"}}'])
def test_a_damaged_or_older_manifest_holds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert Ledger(tmp_path, "1").files == {}
