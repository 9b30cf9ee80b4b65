"""Archives that pip does not fetch: downloaded over HTTPS, checked against a pinned sha-256, read and never run."""

from __future__ import annotations

import http.client
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from preparation import DownloadError, PrepareError, file_sha256

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60
LARGEST_MEMBER_BYTES = 32 << 20
"""No file that is wanted of an archive comes near to it."""

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60


@dataclass(frozen=True, slots=True)
class Archive:
    """A file on the web: its name, where it is found (tried in this order), its size and sha-256."""

    name: str
    urls: tuple[str, ...]
    size_bytes: int
    sha256: str


def fetch(archive: Archive, folder: Path, say: Callable[[str], object] = print) -> Path:
    """The archive in `folder`, downloaded where it is not there yet; goes on where a download was cut off.

    Raises DownloadError where no address gives it, PrepareError where the file is not the pinned one.
    """
    path = folder / archive.name
    if path.is_file() and file_sha256(path) == archive.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{archive.name}.part")
    errors: list[str] = []
    for url in archive.urls:
        try:
            _download(url, partial, archive, say)
            break
        except (OSError, http.client.HTTPException) as error:
            errors.append(f"{url}: {error}")
    else:
        raise DownloadError(
            f"cannot download {archive.name}: " + "; ".join(errors) + "\n"
            f"without a network, put {archive.name} into a folder and name it with --packages"
        )
    found = file_sha256(partial)
    if found != archive.sha256:
        partial.unlink()
        raise PrepareError(f"{archive.name} is not the file expected: sha-256 {found}, not {archive.sha256}")
    os.replace(partial, path)
    return path


def deb_members(deb: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every regular file that a Debian package holds, in its order; `usr/share/...`.

    Nothing is written and no maintainer script is looked at; links and devices are passed over. Raises
    PrepareError where it is no such package.
    """
    try:
        with deb.open("rb") as stream:
            _seek_member(stream, "data.tar")
            with tarfile.open(fileobj=stream, mode="r|xz") as tar:
                for info in tar:
                    content = tar.extractfile(info) if info.isreg() and info.size <= LARGEST_MEMBER_BYTES else None
                    if content is not None:
                        yield info.name.removeprefix("./"), content.read()
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise PrepareError(f"{deb} cannot be read ({error}): remove it and start again") from None


def _seek_member(stream: object, name: str) -> None:
    """Go to where the content of the first member whose name starts with `name` begins, in an `ar` archive."""
    read, seek = stream.read, stream.seek  # type: ignore[attr-defined]
    if read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("not a Debian package")
    while len(header := read(_AR_HEADER_BYTES)) == _AR_HEADER_BYTES:
        if header[:16].decode("ascii", "replace").startswith(name):
            return
        size = int(header[48:58])
        seek(size + size % 2, os.SEEK_CUR)  # members start at even places
    raise ValueError(f"it has no {name}")


def _download(url: str, partial: Path, archive: Archive, say: Callable[[str], object]) -> None:
    """Append to `partial` what it lacks; says so every 40 MB."""
    had = partial.stat().st_size if partial.exists() else 0
    if had == archive.size_bytes:
        return
    headers = {"User-Agent": "inferplan-sample-workload"}
    if 0 < had < archive.size_bytes:
        headers["Range"] = f"bytes={had}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        continued = answer.status == http.client.PARTIAL_CONTENT
        done = had if continued else 0
        told = done
        with partial.open("ab" if continued else "wb") as target:
            while chunk := answer.read(CHUNK_BYTES):
                target.write(chunk)
                done += len(chunk)
                if done - told >= 40e6:
                    told = done
                    say(f"  {archive.name}: {done / 1e6:.0f} of {archive.size_bytes / 1e6:.0f} MB")
    if done < archive.size_bytes:
        raise urllib.error.URLError(f"the download broke off after {done} of {archive.size_bytes} bytes")
