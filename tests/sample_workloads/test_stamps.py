"""The stamps workload: safe archives, families and the split, nets that do without a modality, real models.

Nothing is downloaded: tests that need the packages (301 MB) are skipped where the workload is not prepared.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inferplan.spec.document import load_workload
from inferplan.spec.stagecode import Context
from inferplan.spec.usercode import load_class

SAMPLES = Path(__file__).resolve().parents[2] / "sample_workloads"
STAMPS = SAMPLES / "stamps"
for folder in (SAMPLES / "sentiment", SAMPLES, STAMPS):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import stamps_archives as archives  # noqa: E402
import stamps_data as data  # noqa: E402
import stamps_sources as sources  # noqa: E402
from preparation import DownloadError, PrepareError  # noqa: E402

SUBSETS = ("audio+image+text", "audio+image", "audio+text", "image+text", "audio", "image", "text")
CHOICES = [f"{size}@{subset}" for size in "sml" for subset in SUBSETS]
# A row of the README's table: choice, MB, accuracy, "low to high".
ROW = re.compile(r"^\| ([sml]@[a-z+]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", re.MULTILINE)
TESTED = 199
"""Stamps that the README's figures are of."""


def png(
    size: tuple[int, int] = (40, 20), colour: tuple[int, int, int, int] = (255, 0, 0, 255), margin: int = 0
) -> bytes:
    """A picture of one colour, with a transparent margin."""
    image = pytest.importorskip("PIL.Image")
    whole = image.new("RGBA", (size[0] + 2 * margin, size[1] + 2 * margin), (0, 0, 0, 0))
    whole.paste(image.new("RGBA", size, colour), (margin, margin))
    content = io.BytesIO()
    whole.save(content, "PNG")
    return content.getvalue()


def made_up(count: int) -> data.Stamps:
    """Stamps whose class shows in the picture's grey, is a word of the caption, and is how long a tone lasts."""
    labels = np.arange(count) % len(data.CLASSES)
    pictures = np.zeros((count, data.SIDE, data.SIDE, 3), np.uint8) + (25 * labels[:, None, None, None]).astype(
        np.uint8
    )
    at = np.arange(data.SAMPLES)
    speech = np.sin(2 * np.pi * 440 * at / 16_000) * 16_000 * (at < 4_000 * (1 + labels[:, None]))
    captions = np.array([f"One of the {data.CLASSES[label]}." for label in labels])
    names = np.array([f"n{i}" for i in range(count)])
    return data.Stamps(pictures, captions, speech.astype(np.int16), labels, np.arange(count), names)


def store(stamps: data.Stamps, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **stamps.columns())


def tar_of(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return content.getvalue()


def ar_of(*members: tuple[str, bytes]) -> bytes:
    content = b"!<arch>\n"
    for name, text in members:
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(text):<10}`\n".encode()
        content += text + b"\n" * (len(text) % 2)
    return content


def deb_of(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """A Debian package; its control member has an odd length."""
    return ar_of(("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", tar_of(files, links)))


class TestArchives:
    def test_files_of_a_debian_package_come_in_order_and_links_do_not(self, tmp_path: Path) -> None:
        (tmp_path / "it.deb").write_bytes(deb_of({"./usr/b": b"B", "./usr/a": b""}, links=("./usr/link",)))
        assert list(archives.deb_members(tmp_path / "it.deb")) == [("usr/b", b"B"), ("usr/a", b"")]
        assert [path.name for path in tmp_path.iterdir()] == ["it.deb"], "nothing is unpacked"

    @pytest.mark.parametrize(
        "content", [b"", b"no package", ar_of(("debian-binary", b"2.0\n")), deb_of({"a": b"A" * 5000})[:-60]]
    )
    def test_a_damaged_package_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "it.deb").write_bytes(content)
        with pytest.raises(PrepareError, match="cannot be read"):
            list(archives.deb_members(tmp_path / "it.deb"))

    def archive(self, content: bytes, *urls: Path) -> archives.Archive:
        addresses = tuple(url.as_uri() for url in urls)
        return archives.Archive("it.bin", addresses, len(content), hashlib.sha256(content).hexdigest())

    @pytest.fixture(autouse=True)
    def _file_addresses_answer_as_servers_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a network: file:// addresses, with the status that a server gives."""
        opened = archives.urllib.request.urlopen

        def open_with_status(request: Any, **options: Any) -> Any:
            answer = opened(request, **options)
            answer.code = 200
            return answer

        monkeypatch.setattr(archives.urllib.request, "urlopen", open_with_status)

    def test_the_next_address_is_tried_and_nothing_is_fetched_twice(self, tmp_path: Path) -> None:
        (tmp_path / "web").write_bytes(b"content")
        archive = self.archive(b"content", tmp_path / "none", tmp_path / "web")
        assert archives.fetch(archive, tmp_path / "kept").read_bytes() == b"content"
        (tmp_path / "web").unlink()
        assert archives.fetch(archive, tmp_path / "kept").read_bytes() == b"content"
        assert [path.name for path in (tmp_path / "kept").iterdir()] == ["it.bin"]

    def test_another_file_than_the_pinned_one_is_refused_and_removed(self, tmp_path: Path) -> None:
        (tmp_path / "web").write_bytes(b"tampered")
        with pytest.raises(PrepareError, match=r"it\.bin is not the file expected: sha-256"):
            archives.fetch(self.archive(b"12345678", tmp_path / "web"), tmp_path / "kept")
        assert not list((tmp_path / "kept").iterdir())

    def test_no_address_and_half_a_download_say_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(DownloadError, match=r"(?s)it\.bin.*--packages"):
            archives.fetch(self.archive(b"content", tmp_path / "none"), tmp_path / "kept")
        (tmp_path / "web").write_bytes(b"cont")
        with pytest.raises(DownloadError, match="broke off after 4 of 7 bytes"):
            archives.fetch(self.archive(b"content", tmp_path / "web"), tmp_path / "kept")

    @pytest.mark.parametrize("continues", [True, False])
    def test_a_download_goes_on_where_the_server_can(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, continues: bool
    ) -> None:
        asked: list[str | None] = []

        class Answer(io.BytesIO):
            status = 206 if continues else 200

        def serve(request: Any, timeout: float) -> Answer:
            asked.append(request.get_header("Range"))
            return Answer(b"ent" if continues else b"content")

        monkeypatch.setattr(archives.urllib.request, "urlopen", serve)
        (tmp_path / ".it.bin.part").write_bytes(b"cont")
        assert archives.fetch(self.archive(b"content", tmp_path / "web"), tmp_path).read_bytes() == b"content"
        assert asked == ["bytes=4-"]


def source(name: str, caption: str, kind: str = "food", spoken: str = "") -> sources.Source:
    return sources.Source(name, kind, caption, spoken, b"", b"")


class TestSources:
    def test_stamps_with_all_three_in_a_known_folder_are_taken(self) -> None:
        root = sources.ROOT
        files = {
            "food/fruit/pear.png": b"P",
            "food/fruit/pear.txt": b"A pear.\nde.utf8=Eine Birne.\nfr.utf8=Une poire.\n",
            "food/fruit/pear_desc_fr.ogg": b"O",
            "food/fruit/pear_desc.ogg": b"english",
            "food/fig.png": b"no caption",
            "food/fig_desc_fr.ogg": b"O",
            "sports/ball.png": b"another folder",
            "sports/ball.txt": b"A ball.",
            "sports/ball_desc_fr.ogg": b"O",
        }
        members = [(root + name, content) for name, content in files.items()] + [("usr/food/x.png", b"")]
        assert sources.gather(members) == [
            sources.Source("food/fruit/pear", "food", "A pear.", "Une poire.", b"P", b"O")
        ]

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("animals/mammals/cats/lion", "mammals"),
            ("animals/fish/bass", "small-animals"),
            ("animals/dinosaur/rex", None),
            ("foodstuff/pear", None),
            ("town/cartoon/mine", "buildings"),
        ],
    )
    def test_folders_decide_the_class(self, name: str, kind: str | None) -> None:
        assert sources.kind_of(name) == kind

    def test_every_folder_has_a_class_and_every_class_a_folder(self) -> None:
        assert set(sources.FOLDERS.values()) == set(data.CLASSES)

    def test_words_tell_what_is_shown(self) -> None:
        assert sources.words("food/fruit/apple_red-2", "Some red apples.") == {"apple"}
        assert sources.words("clothes/dress", "A green dress") == {"dress"}

    def test_families_are_joined_by_words_captions_and_what_they_connect(self) -> None:
        stamps = [
            source("food/apple_fuji", "A red apple."),
            source("food/core", "An apple core."),
            source("food/core-2", "The core."),
            source("food/pear", "A red pear."),
            source("household/apple", "An apple.", kind="household"),
            source("birds/duck", "A duck.", kind="birds", spoken="Un canard."),
            source("birds/drake", "A drake.", kind="birds", spoken="Un canard."),
        ]
        assert sorted(map(sorted, sources.families(stamps))) == [[0, 1, 2], [3], [4], [5, 6]]

    @given(
        st.lists(
            st.tuples(st.sampled_from(data.CLASSES[:3]), st.sets(st.sampled_from("vwxyz"), min_size=1)), max_size=30
        ),
        st.integers(0, 9),
    )
    def test_a_split_loses_none_divides_no_family_and_is_even(
        self, drawn: list[tuple[str, set[str]]], seed: int
    ) -> None:
        stamps = [source("f/s", " ".join(letter * 3 for letter in sorted(letters)), kind) for kind, letters in drawn]
        # All have the file name "s": too short to be a word of it.
        train, test = sources.split(stamps, seed)
        assert sorted(train + test) == list(range(len(stamps)))
        assert (train, test) == sources.split(stamps, seed)
        for family in sources.families(stamps):
            assert set(family) <= set(train) or set(family) <= set(test)
        for kind in data.CLASSES:
            sizes = [len(family) for family in sources.families(stamps) if stamps[family[0]].kind == kind]
            uneven = sum(stamps[i].kind == kind for i in train) - sum(stamps[i].kind == kind for i in test)
            assert abs(uneven) <= max(sizes, default=0)

    def test_a_picture_is_cropped_squared_and_put_on_white(self) -> None:
        found = sources.picture(png(size=(40, 20), margin=30))
        assert (found.shape, found.dtype) == ((260, 260, 3), np.uint8)
        assert found[130, 130].tolist() == [255, 0, 0]
        assert found[130, 2].tolist() == [255, 0, 0], "the margin is cut off"
        assert found[5, 130].tolist() == [255, 255, 255]

    def test_speech_starts_where_it_is_heard_and_has_one_loudness(self) -> None:
        soundfile = pytest.importorskip("soundfile")
        rate_hz = 44_100
        tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)
        content = io.BytesIO()
        stereo = np.stack([np.concatenate([np.zeros(rate_hz), tone])] * 2, 1)
        soundfile.write(content, stereo, rate_hz, format="OGG", subtype="VORBIS")
        found = sources.speech(content.getvalue())
        assert (found.shape, found.dtype) == ((40_000,), np.int16)
        assert np.abs(found).max() == 16_384
        assert np.abs(found[:200]).max() > 1_000, "silence at the start is cut off"
        assert np.abs(found[17_000:]).max() == 0, "one second of sound, then nothing"


def stage(root: Path, *modalities: str, params: dict[str, Any] | None = None) -> Any:
    return load_class("stages:Classify", STAMPS)(Context(root=root, modalities=modalities, params=params or {}))


def pipeline(root: Path) -> Any:
    return load_class("stages:StampsPipeline", STAMPS)(Context(root=root))


def write_tokenizer(file: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "one": 2, "birds": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(file))


class TestStageCode:
    @pytest.mark.parametrize("subset", SUBSETS)
    def test_a_model_is_given_its_modalities_only(self, tmp_path: Path, subset: str) -> None:
        stamps = made_up(5)
        store(stamps, tmp_path / "prepared" / "data" / "test.npz")
        write_tokenizer(tmp_path / "it.json")
        params = {"side": 96, "samples": 20_000, "tokens": 6, "tokenizer": "it.json"}
        code = stage(tmp_path, *subset.split("+"), params=params)
        examples = code.examples()
        assert [truth for _, truth in examples] == stamps.labels.tolist()
        tensors = code.preprocess([stamp for stamp, _ in examples])
        assert sorted(tensors) == subset.split("+")
        if "image" in tensors:
            assert (tensors["image"].shape, tensors["image"].dtype) == ((5, 96, 96, 3), np.uint8)
            assert tensors["image"][:, 50, 50, 1].tolist() == [0, 25, 50, 75, 100]
        if "audio" in tensors:
            np.testing.assert_array_equal(tensors["audio"], stamps.speech[:, :20_000])
        if "text" in tensors:
            assert tensors["text"][1].tolist() == [2, 1, 1, 3, 1, 0], "one of the birds. [PAD]"
            assert tensors["text"].dtype == np.int64

    def test_calibration_stamps_are_those_trained_on(self, tmp_path: Path) -> None:
        store(made_up(3), tmp_path / "prepared" / "data" / "train.npz")
        stamps = stage(tmp_path).calibration()
        assert [sorted(stamp) for stamp in stamps] == [["audio", "image", "text"]] * 3

    def test_a_picture_of_the_right_size_is_left_alone(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (260, 260, 3), np.uint8)
        np.testing.assert_array_equal(data.resized([picture], 260)[0], picture)

    def test_the_largest_logit_is_the_answer(self, tmp_path: Path) -> None:
        answers = stage(tmp_path).postprocess([{}] * 3, {"logits": np.eye(10, dtype=np.float32)[[9, 0, 6]]})
        assert answers == [9, 0, 6]
        assert all(type(answer) is int for answer in answers)

    def test_served_tensors_become_stamps_and_answers_tensors(self, tmp_path: Path) -> None:
        stamps = made_up(2)
        texts = np.array([["A bear."], ["Ein Bär.".encode()]], dtype=object)
        found = pipeline(tmp_path).decode({"image": stamps.pictures, "text": texts, "audio": stamps.speech})
        assert [stamp["text"] for stamp in found] == ["A bear.", "Ein Bär."]
        np.testing.assert_array_equal(found[1]["image"], stamps.pictures[1])
        np.testing.assert_array_equal(found[1]["audio"], stamps.speech[1])
        answers = pipeline(tmp_path).encode([5, 1])["kind"]
        assert (answers.dtype.name, answers.tolist()) == ("int64", [[5], [1]])

    @pytest.mark.parametrize(
        ("name", "wrong"),
        [
            ("image", np.zeros((1, 260, 260, 3), np.float32)),
            ("image", np.zeros((1, 96, 96, 3), np.uint8)),
            ("audio", np.zeros((1, 100), np.int16)),
            ("text", np.array(["flat"], dtype=object)),
        ],
    )
    def test_other_shapes_and_types_are_refused(self, tmp_path: Path, name: str, wrong: NDArray[Any]) -> None:
        stamps = made_up(1)
        right = {"image": stamps.pictures, "text": stamps.captions[:, None], "audio": stamps.speech}
        with pytest.raises(ValueError, match=f"{name} must be"):
            pipeline(tmp_path).decode({**right, name: wrong})


class TestWorkload:
    def test_it_is_valid_once_prepared_and_has_21_choices(
        self, tmp_path: Path, copied: Callable[[str, Path], Path]
    ) -> None:
        root = copied("stamps", tmp_path)
        (root / "prepared" / "models").mkdir(parents=True)
        for choice in CHOICES:
            (root / "prepared" / "models" / f"{choice.replace('@', '-')}.onnx").touch()
        workload = load_workload(root / "workload.yaml").workload
        assert sorted(workload.pipeline.stages["classify"].choices()) == sorted(CHOICES)
        for choice in CHOICES:
            path = workload.model_path("classify", choice)
            assert path is not None
            assert path.name == f"{choice.replace('@', '-')}.onnx"

    def test_params_say_what_the_encoders_take(self) -> None:
        from stamps_nets import SIZES

        document = yaml.safe_load((STAMPS / "workload.yaml").read_text(encoding="utf-8"))
        variants = document["pipeline"]["stages"]["classify"]["variants"]
        assert list(variants) == list(SIZES)
        for name, size in SIZES.items():
            params = variants[name]["params"]
            assert (params["side"], params["samples"], params["tokens"]) == (size.side, size.samples, size.tokens)

    def test_readme_has_a_row_per_choice_with_its_interval(self) -> None:
        rows = ROW.findall((STAMPS / "README.md").read_text(encoding="utf-8"))
        assert sorted(row[0] for row in rows) == sorted(CHOICES)
        for _, _, share, low, high in rows:
            assert (float(low), float(high)) == pytest.approx(wilson_percent(float(share) / 100, TESTED), abs=0.11)


def wilson_percent(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): the shares p with |share - p| <= z sqrt(p (1 - p) / n)."""
    z2 = 1.959964**2
    low, high = sorted(np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2]).real)
    return 100 * float(low), 100 * float(high)


def small_embedding() -> onnx.ModelProto:
    """A speech embedding of the published one's kind: 12 frames of 32 at a time, the next step 4 frames later."""
    dice = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((dice.standard_normal(shape) * 0.4).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], kernel_shape=[3, 3], pads=[0, 1, 0, 1], strides=[1, 1]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.2),
        helper.make_node("Max", ["b", "least"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["d", "w2"], ["e"], kernel_shape=[2, 1], strides=[1, 1]),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[2, 16], strides=[2, 16]),
        helper.make_node("Conv", ["f", "w3"], ["y"], kernel_shape=[2, 1], strides=[1, 1]),
    ]
    tensors = [weights("w1", 4, 1, 3, 3), weights("b1", 4), weights("w2", 4, 4, 2, 1), weights("w3", 5, 4, 2, 1)]
    tensors.append(numpy_helper.from_array(np.full((1, 1, 1, 1), -0.4, np.float32), "least"))
    shapes = [("x", [None, 1, None, 32]), ("y", [None, 5, None, None])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def small_speech(folder: Path) -> tuple[Path, Path]:
    """Files of a spectrogram's weights (a Fourier transform, bands of two bins) and of a small embedding."""
    phases = 2 * np.pi * np.outer(np.arange(257), np.arange(512)) / 512
    bands = np.zeros((257, 32))
    bands[np.arange(257), np.minimum(31, np.arange(257) // 2)] = 1
    arrays = {
        "0.stft.conv_real.weight": np.cos(phases)[:, None],
        "0.stft.conv_imag.weight": np.sin(phases)[:, None],
        "1.melW": bands,
    }
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["x2"])], "weights", [value], [], tensors)
    onnx.save(helper.make_model(graph), folder / "spectrogram.onnx")
    onnx.save(small_embedding(), folder / "embedding.onnx")
    return folder / "spectrogram.onnx", folder / "embedding.onnx"


@pytest.mark.slow
class TestNets:
    def test_a_whole_spectrogram_at_once_says_what_its_windows_say(self) -> None:
        import torch
        from stamps_nets import embedding_layers

        model = small_embedding()
        spectrogram = np.random.default_rng(2).standard_normal((1, 1, 40, 32)).astype(np.float32)
        with torch.inference_mode():
            at_once = embedding_layers(model)(torch.from_numpy(spectrogram)).numpy()[0, :, :, 0]
        session = onnxruntime.InferenceSession(model.SerializeToString())
        windows = [session.run(None, {"x": spectrogram[:, :, at : at + 12]})[0].ravel() for at in range(0, 29, 4)]
        assert at_once.shape == (5, 8)
        np.testing.assert_allclose(at_once.T, windows, atol=1e-4)

    def test_layers_of_an_unknown_kind_are_refused(self) -> None:
        from stamps_nets import embedding_layers

        model = small_embedding()
        model.graph.node[1].op_type = "Softplus"
        with pytest.raises(ValueError, match="unknown kind: Softplus"):
            embedding_layers(model)

    def test_a_recording_is_heard_the_same_in_any_batch(self, tmp_path: Path) -> None:
        import torch
        from stamps_nets import SpeechEncoder

        encoder = SpeechEncoder(*small_speech(tmp_path)).eval()
        loud = torch.tensor(made_up(2).speech)
        soft = loud // 1000
        with torch.inference_mode():
            together, alone = encoder(torch.cat([loud, soft])), encoder(soft)
        assert together.shape == (4, 6 * 5)
        torch.testing.assert_close(together[2:], alone, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("size", [95, 96])
    @pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
    def test_convolutions_keep_or_halve_the_size(self, size: int, kernel: int, stride: int) -> None:
        import torch
        from stamps_nets import SameConv

        torch.manual_seed(0)
        convolution = SameConv(1, 1, kernel, stride)
        x = torch.randn(1, 1, size, size)
        # By hand: zeros all round, as many as "same" padding asks for, one more at the end where they are odd.
        wanted = -(-size // stride)
        lacking = (wanted - 1) * stride + kernel - size
        padded = np.pad(x.numpy()[0, 0], (lacking // 2, lacking - lacking // 2))
        weight = convolution.weight.detach().numpy()[0, 0]
        by_hand = [
            [float((padded[i : i + kernel, j : j + kernel] * weight).sum()) for j in range(0, wanted * stride, stride)]
            for i in range(0, 3 * stride, stride)
        ]
        with torch.inference_mode():
            found = convolution(x).numpy()[0, 0]
        assert found.shape == (wanted, wanted)
        np.testing.assert_allclose(found[:3], by_hand, atol=1e-4)

    @pytest.mark.parametrize(("lite", "blocks", "last"), [(0, 16, 320), (2, 21, 352)])
    def test_picture_encoders_are_as_deep_and_wide_as_published(self, lite: int, blocks: int, last: int) -> None:
        import torch
        from stamps_nets import PictureEncoder

        encoder = PictureEncoder(lite).eval()
        assert len(encoder._blocks) == blocks
        assert encoder._conv_head.weight.shape == (1280, last, 1, 1)
        with torch.inference_mode():
            assert encoder(torch.zeros(2, 40, 40, 3, dtype=torch.uint8)).shape == (2, 1280)

    def test_heads_learn_every_modality_and_each_subset_is_a_model_of_its_own(self, tmp_path: Path) -> None:
        import torch
        from stamps_nets import SpeechEncoder
        from stamps_training import export, features_of, run_onnx, train
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(0)

        class Bag(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.words = nn.Embedding(50, 16)

            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                return self.words(ids).mean(1)

        class Grey(nn.Module):
            def forward(self, pictures: torch.Tensor) -> torch.Tensor:
                grey = pictures.float().mean((1, 2, 3))[:, None]
                return ((grey - 25 * torch.arange(10)).abs() < 5).float()

        stamps = made_up(100)
        encoders = {
            "audio": SpeechEncoder(*small_speech(tmp_path)),
            "image": Grey(),
            "text": Bag(),
        }
        for encoder in encoders.values():
            encoder.eval().requires_grad_(False)
        inputs = {
            "audio": stamps.speech,
            "image": data.resized(list(stamps.pictures), 32),
            "text": np.stack([stamps.labels + 3] * 4, 1),
        }
        features = features_of(encoders, inputs)
        assert {name: list(found.shape) for name, found in features.items()} == {
            "audio": [100, 30],
            "image": [100, 10],
            "text": [100, 16],
        }
        head = train(features, torch.tensor(stamps.labels), seed=0, epochs=40)
        head.weights = {"audio": 0.5, "image": 1.0, "text": 0.7}
        for subset in data.SUBSETS:
            target = tmp_path / "models" / f"{'+'.join(subset)}.onnx"
            given = {name: inputs[name][:20] for name in subset}
            export(encoders, head, target, given)
            model = onnx.load(target)
            assert tuple(value.name for value in model.graph.input) == subset
            assert [opset.version for opset in model.opset_import if opset.domain == ""] == [17]
            logits = run_onnx(target, given)
            # Each modality alone tells these classes apart: without modality dropout, one of them would not.
            assert (logits.argmax(1) == stamps.labels[:20]).mean() > 0.8, subset
            single = run_onnx(target, {name: x[:1] for name, x in given.items()})
            np.testing.assert_allclose(single, logits[:1], atol=1e-3)
        assert len(list((tmp_path / "models").iterdir())) == 7
        again = train(features, torch.tensor(stamps.labels), seed=0, epochs=40)
        for name, weights in head.state_dict().items():
            assert torch.equal(weights, again.state_dict()[name])


@pytest.mark.slow
class TestWeights:
    """Of modalities: one that knows nothing counts for little, however sure it is of itself."""

    def made_up_features(self) -> tuple[dict[str, Any], Any]:
        import torch

        torch.manual_seed(0)
        labels = torch.arange(200) % 10
        told = torch.nn.functional.one_hot(labels, 10).float() + 0.3 * torch.randn(200, 10)
        return {"image": told, "audio": torch.randn(200, 400)}, labels

    def test_a_modality_learnt_by_heart_weighs_little(self) -> None:
        import torch
        from stamps_training import fit

        torch.set_num_threads(1)
        features, labels = self.made_up_features()
        head = fit(features, labels, np.arange(200) // 2, seed=0)
        assert head.weights["image"] == 1
        assert 0 < head.weights["audio"] < 0.3
        with torch.inference_mode():
            by_heart = (head({"audio": features["audio"]}).argmax(1) == labels).float().mean()
        assert by_heart > 0.9, "its own training stamps it does know"

    def test_equally_good_modalities_weigh_much_the_same(self) -> None:
        import torch
        from stamps_training import weigh

        torch.manual_seed(1)
        labels = torch.arange(500) % 10
        known = 3 * torch.nn.functional.one_hot(labels, 10).float()
        weights = weigh({name: known + torch.randn(500, 10) for name in "ab"}, labels)
        assert min(weights.values()) > 0.8
        assert max(weights.values()) == 1

    def test_weights_are_of_a_mean_of_logits(self) -> None:
        import torch
        from stamps_nets import Head

        features, _ = self.made_up_features()
        head = Head(features).eval()
        head.weights = {"image": 1.0, "audio": 0.25}
        with torch.inference_mode():
            image, audio = (head({name: features[name]}) for name in ("image", "audio"))
            torch.testing.assert_close(head(features), 0.8 * image + 0.2 * audio, atol=1e-5, rtol=1e-5)

    def test_no_family_is_in_two_folds(self) -> None:
        from stamps_training import FOLDS, _folds

        families = np.random.default_rng(0).integers(0, 40, 300)
        folds = _folds(families, 0)
        assert set(folds.tolist()) == set(range(FOLDS))
        for family in set(families.tolist()):
            assert len(set(folds[families == family].tolist())) == 1


@pytest.fixture(scope="module")
def prepared(script: Callable[[str], ModuleType]) -> Path:
    """The prepared folder; skipped where it is not complete, since it takes 301 MB of packages and minutes."""
    preparing = script("stamps/prepare.py")
    folder = STAMPS / "prepared"
    ledger = preparing.Ledger(folder, preparing.EDITION)
    models = [f"models/{choice.replace('@', '-')}.onnx" for choice in CHOICES]
    if not ledger.holds([*preparing.DATA, *models]):
        pytest.skip("sample_workloads/stamps is not prepared: python sample_workloads/stamps/prepare.py")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestPrepared:
    def test_the_split_is_the_one_of_the_readme(self, prepared: Path) -> None:
        train, test = (data.load(prepared / "data" / f"{part}.npz") for part in ("train", "test"))
        assert (len(train.labels) + len(test.labels), len(test.labels)) == (404, TESTED)
        assert not set(train.names.tolist()) & set(test.names.tolist())
        assert not set(train.captions.tolist()) & set(test.captions.tolist())
        assert not set(train.families.tolist()) & set(test.families.tolist())
        counts = [np.bincount(part.labels, minlength=10) for part in (train, test)]
        assert np.abs(counts[0] - counts[1]).max() <= 3

    def test_preparing_again_changes_nothing(self, prepared: Path, script: Callable[[str], ModuleType]) -> None:
        said: list[str] = []
        before = (prepared / "manifest.json").read_bytes()
        script("stamps/prepare.py").prepare(prepared, say=said.append)
        assert said == []
        assert (prepared / "manifest.json").read_bytes() == before

    def test_speech_embeddings_are_the_published_ones(self, prepared: Path) -> None:
        import torch
        from stamps_nets import HEARD, SpeechEncoder
        from stamps_packages import EMBEDDING, SPECTROGRAM

        files = (prepared / SPECTROGRAM, prepared / EMBEDDING)
        speech = data.load(prepared / "data" / "test.npz").speech[:3]
        with torch.inference_mode():
            found = SpeechEncoder(*files).steps(torch.tensor(speech)).numpy()
        spectrogram, embedding = (onnxruntime.InferenceSession(file) for file in files)
        for samples, steps in zip(speech, found, strict=True):
            frames = spectrogram.run(None, {"input": samples[None].astype(np.float32)})[0].squeeze() / 10 + 2
            windows = np.stack([frames[at : at + HEARD] for at in range(0, len(frames) - HEARD + 1, 8)])
            wanted = embedding.run(None, {"input_1": windows[..., None].astype(np.float32)})[0].reshape(-1, 96)
            np.testing.assert_allclose(steps.T, wanted, atol=1e-3)

    def test_the_smallest_nets_are_as_accurate_as_the_readme_says(self, prepared: Path) -> None:
        from stamps_training import run_onnx

        test = data.load(prepared / "data" / "test.npz")
        examples = [
            dict(zip(("image", "text", "audio"), row, strict=True))
            for row in zip(test.pictures, test.captions.tolist(), test.speech, strict=True)
        ]
        shares = {row[0]: float(row[2]) for row in ROW.findall((STAMPS / "README.md").read_text(encoding="utf-8"))}
        params = {"side": 96, "samples": 20_000, "tokens": 32, "tokenizer": "prepared/pretrained/tokenizer.json"}
        for subset in SUBSETS:
            tensors = stage(STAMPS, *subset.split("+"), params=params).preprocess(examples)
            logits = run_onnx(prepared / "models" / f"s-{subset}.onnx", tensors)
            assert logits.shape == (TESTED, 10)
            # Other versions of Pillow, SciPy and torch may move a stamp or two.
            assert 100 * (logits.argmax(1) == test.labels).mean() == pytest.approx(shares[f"s@{subset}"], abs=3)

    def test_every_choice_is_profiled_and_one_is_planned(
        self,
        prepared: Path,
        tmp_path: Path,
        copied: Callable[[str, Path], Path],
        shortened: Callable[..., None],
        inferplan: Callable[..., str],
    ) -> None:
        root = copied("stamps", tmp_path)
        (root / "prepared").symlink_to(prepared)
        shortened(root / "workload.yaml", ("s",))
        low = ["--set", "classes.album.accuracy.floor=0.2", "--set", "classes.collection.accuracy.floor=0.2"]
        inferplan("profile", "stamps", cwd=tmp_path)
        text = inferplan("solve", "stamps", *low, cwd=tmp_path)
        assert "Certificate: met" in text
        assert "classify" in text
