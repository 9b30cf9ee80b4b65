"""The OCR workload: its decoding, matching and scores against small cases and brute force."""

from __future__ import annotations

import itertools
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from inferplan.spec.stagecode import Context, ModelInfo, pipeline_adapter, stage_adapter

OCR = Path(__file__).resolve().parents[2] / "sample_workloads" / "ocr"
if str(OCR) not in sys.path:
    sys.path.insert(0, str(OCR))

import ocr_boxes as boxes  # noqa: E402
import ocr_data as data  # noqa: E402
import ocr_tensors as tensors  # noqa: E402
import ocr_text as text  # noqa: E402

README = (OCR / "README.md").read_text(encoding="utf-8")


def stage(name: str, metadata: dict[str, str] | None = None, **params: object):
    model = ModelInfo((), (), metadata or {})
    return stage_adapter(f"stages:{name}", Context(root=OCR, params=params, stage=name.lower(), model=model))


pipeline = cache(lambda: pipeline_adapter("stages:Ocr", Context(root=OCR)))

corners = st.tuples(*[st.integers(0, 12)] * 4)
some_box = corners.map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1))


def pixels(box: boxes.Box) -> set[tuple[int, int]]:
    return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))


class TestBoxes:
    @given(some_box, some_box)
    def test_iou_is_shared_over_covered_pixels(self, one: boxes.Box, other: boxes.Box) -> None:
        a, b = pixels(one), pixels(other)
        assert boxes.iou(one, other) == pytest.approx(len(a & b) / len(a | b))

    @given(st.lists(some_box, max_size=4), st.lists(some_box, max_size=4), st.sampled_from([0.3, 0.5, 0.8]))
    def test_match_pairs_each_box_once_and_leaves_no_pair_out(self, found, true, at_least) -> None:
        pairs = boxes.match(found, true, at_least)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        assert all(boxes.iou(found[i], true[j]) >= at_least for i, j in pairs)
        free = itertools.product(
            set(range(len(found))) - {i for i, _ in pairs}, set(range(len(true))) - {j for _, j in pairs}
        )
        assert all(boxes.iou(found[i], true[j]) < at_least for i, j in free)

    @given(st.lists(some_box, max_size=4), st.lists(some_box, max_size=4))
    def test_match_is_largest_where_boxes_do_not_overlap_one_another(self, found, true) -> None:
        for group in (found, true):
            assume(all(boxes.iou(a, b) == 0 for a, b in itertools.combinations(group, 2)))
        short, long = sorted((found, true), key=len)
        best = max(
            sum(boxes.iou(a, b) >= 0.5 for a, b in zip(short, chosen, strict=True))
            for chosen in itertools.permutations(long, len(short))
        )
        assert len(boxes.match(found, true, 0.5)) == best

    def test_match_takes_the_better_overlap_first(self) -> None:
        true = [(0, 0, 10, 10), (0, 12, 10, 22)]
        found = [(0, 2, 10, 11), (0, 0, 10, 10)]
        assert boxes.match(found, true, 0.3) == [(1, 0)]

    def test_map_of_two_lines_and_a_speck(self) -> None:
        probability = np.zeros((40, 80))
        probability[5:10, 10:50] = 0.9
        probability[25:30, 20:70] = 0.8
        probability[35:37, 3:5] = 0.95
        found = boxes.boxes_of_map(probability, 160, 80)
        # A core of 40x5 grows by 200 * 1.6 / 90 = 3.56 map pixels; pages are twice the map here.
        assert found == [(13, 3, 107, 27), (33, 43, 147, 67)]

    def test_map_ignores_faint_regions_and_stays_on_the_page(self) -> None:
        probability = np.zeros((20, 40))
        probability[0:6, 0:40] = 0.9
        probability[12:18, 5:30] = 0.4
        ((left, top, right, bottom),) = boxes.boxes_of_map(probability, 40, 20)
        assert (left, top, right) == (0, 0, 40)
        assert 6 < bottom < 12
        assert boxes.boxes_of_map(np.zeros((20, 40)), 40, 20) == []

    @given(st.permutations(range(12)))
    def test_reading_order_of_a_shuffled_grid(self, order: list[int]) -> None:
        grid = [(x, y + x // 40, x + 30, y + 20) for y in (0, 30, 60, 90) for x in (0, 40, 80)]
        shuffled = [grid[i] for i in order]
        assert [shuffled[i] for i in boxes.reading_order(shuffled)] == grid

    @given(st.lists(some_box, max_size=6))
    def test_reading_order_keeps_every_box(self, some: list[boxes.Box]) -> None:
        assert sorted(boxes.reading_order(some)) == list(range(len(some)))


def brute_force_distance(one: str, other: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        replaced = distance(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(one), len(other))


CHARSET = ["blank", "a", "b", "c", " "]
few_letters = st.text("ab c", max_size=8)


def one_hot(path: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[path]


class TestText:
    @given(few_letters, few_letters)
    def test_edit_distance(self, one: str, other: str) -> None:
        assert text.edit_distance(one, other) == brute_force_distance(one, other)

    @pytest.mark.parametrize(
        ("one", "other", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2)]
    )
    def test_known_distances(self, one: str, other: str, distance: int) -> None:
        assert text.edit_distance(one, other) == distance

    @given(few_letters, st.data())
    def test_ctc_decodes_what_any_alignment_spells(self, line: str, data: st.DataObject) -> None:
        counts = st.integers(0, 2)
        path = [0] * data.draw(counts)
        for before, letter in itertools.pairwise(["", *line]):
            blanks = data.draw(counts)
            path += [0] * (max(blanks, 1) if before == letter else blanks)
            path += [CHARSET.index(letter)] * (1 + data.draw(counts))
        path = (path + [0] * 80)[:80]
        assert text.decode_ctc(one_hot(path, len(CHARSET))[None], CHARSET) == [line]

    def test_ctc_merges_repeats_but_not_across_a_blank_and_skips_padding_classes(self) -> None:
        batch = np.stack([one_hot([1, 1, 0, 1, 2], 7), one_hot([6, 5, 3, 3, 4], 7), one_hot([0] * 5, 7)])
        assert text.decode_ctc(batch, CHARSET) == ["aab", "c ", ""]
        assert text.decode_ctc(np.zeros((0, 5, 7)), CHARSET) == []

    def test_dictionary_in_metadata_ends_lines_at_newlines_only(self) -> None:
        strange = ["\x0b", "\x85", "\u2028", "x"]
        assert text.charset_of_metadata({"character": "\n".join(strange)}) == ["blank", *strange, " "]
        with pytest.raises(ValueError, match="dictionary"):
            text.charset_of_metadata({})

    def test_dictionary_in_a_file_is_whole_already(self, tmp_path: Path) -> None:
        path = tmp_path / "dictionary.txt"
        path.write_bytes("blank\n\u3000\nx\n \n".encode())
        assert text.charset_of_file(path) == ["blank", "\u3000", "x", " "]

    @pytest.mark.parametrize(
        ("read", "true", "right"),
        [
            ("Sold to", "Sold to", (6, 6)),
            ("Soldto", "Sold to", (6, 6)),
            ("S0ld", "Sold to", (3, 6)),
            ("", "ab", (0, 2)),
        ],
    )
    def test_right_characters(self, read: str, true: str, right: tuple[int, int]) -> None:
        assert text.right_characters(read, true) == right

    def test_gibberish_is_not_worse_than_nothing(self) -> None:
        assert text.right_characters("zzzzzzzzzz", "ab") == (0, 2)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestTensors:
    def test_normalization_and_channel_order(self) -> None:
        red = np.zeros((48, 320, 3), np.uint8)
        red[..., 0] = 255
        line = tensors.line_tensor([red], 320)
        assert np.allclose(line[0, :, 0, 0], [-1, -1, 1])  # blue, green, red
        rgb = tensors.stretched_tensor([red], 160, 80, tensors.IMAGENET_RGB)
        assert np.allclose(rgb[0, :, 0, 0], [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], atol=1e-5)

    @pytest.mark.parametrize(("width", "expected"), [(320, 512), (240, 384), (160, 256)])
    def test_lines_are_padded_to_the_widest_of_their_batch(self, width: int, expected: int) -> None:
        short, long = picture(100, 48), picture(500, 48)
        batch = tensors.line_tensor([short, long], width)
        assert batch.shape == (2, 3, 48, expected)
        used = tensors.line_width(short, width)
        assert used == 100 * width // 320
        assert not batch[0, :, :, used:].any()
        assert np.array_equal(batch[0, :, :, :used], tensors.line_tensor([short], width)[0, :, :, :used])

    def test_short_lines_get_the_full_width(self) -> None:
        assert tensors.line_tensor([picture(30, 20)], 240).shape == (1, 3, 48, 240)

    def test_detector_sees_multiples_of_32_of_about_the_asked_side(self) -> None:
        assert tensors.detector_size(640, 480, 320) == (416, 320)
        assert tensors.detector_size(480, 640, 480) == (480, 640)
        assert tensors.detector_size(2000, 10, 32) == (6400, 32)

    def test_pages_of_different_sizes_share_a_batch(self) -> None:
        wide, tall = picture(640, 480), picture(480, 640, seed=1)
        batch = tensors.detector_tensor([wide, tall], 320)
        assert batch.shape == (2, 3, 416, 416)
        assert np.array_equal(batch[0, :, :320], tensors.detector_tensor([wide], 320)[0])
        assert np.array_equal(batch[1, :, :, :320], tensors.detector_tensor([tall], 320)[0])


class TestReadme:
    def test_its_table_has_the_combinations_that_may_be_planned(self) -> None:
        workload = yaml.safe_load((OCR / "workload.yaml").read_text(encoding="utf-8"))
        listed = [(c["detect"], c["orient"], c["read"]) for c in workload["accuracy"]["combinations"]]
        rows = re.findall(r"^\| (\S+) \| (\S+) \| (\S+) \| [\d.]+ \| [\d.]+ to", README, re.MULTILINE)
        assert sorted(rows) == sorted(listed)

    @pytest.mark.parametrize("name", ["detect", "orient", "read"])
    def test_it_has_every_variant(self, name: str) -> None:
        workload = yaml.safe_load((OCR / "workload.yaml").read_text(encoding="utf-8"))
        table = README.partition(f"\n{name}, n = ")[2].partition("\n\n")[2].partition("\n\n")[0]
        variants = re.findall(r"^\| (\S+) \| [\d.]+ \|", table, re.MULTILINE)
        assert sorted(variants) == sorted(workload["pipeline"]["stages"][name]["variants"])


class TestStages:
    def test_detect_scales_each_page_by_its_own_size(self) -> None:
        pages = [picture(640, 480), picture(480, 640)]
        detect = stage("Detect", side=320)
        maps = np.zeros((2, 1, 416, 416), np.float32)
        maps[:, 0, 100:110, 50:250] = 0.9
        maps[0, 0, 330:340, 50:250] = 0.9  # below the first page's end: padding
        first, second = detect.postprocess(pages, {"map": maps})
        assert len(first) == len(second) == 1
        assert first[0][0] == round((50 - 200 * 10 * 1.6 / 420) * 640 / 416)
        assert second[0][0] == round((50 - 200 * 10 * 1.6 / 420) * 480 / 320)

    def test_detect_sends_each_line_cut_out(self) -> None:
        page = picture(64, 48)
        (crop,) = stage("Detect").route(page, [(3, 5, 20, 11)])
        assert crop["box"] == (3, 5, 20, 11)
        assert np.array_equal(crop["image"], page[5:11, 3:20])

    def test_detect_f1_is_a_ratio_of_sums(self) -> None:
        line, other = (0, 0, 100, 10), (0, 50, 100, 60)
        scores = stage("Detect").score([[line], [], []], [[line, other], [other], []])
        assert scores["f1"].value == pytest.approx(2 * 1 / (1 + 2 + 0 + 1))  # hits twice over boxes of both kinds
        assert scores["f1"].weights.tolist() == [3, 1, 0]

    def test_orient_turns_what_stands_upside_down(self) -> None:
        orient = stage("Orient", net="v2")
        crop = {"box": (0, 0, 4, 2), "image": picture(4, 2)}
        assert orient.postprocess([crop, crop], {"p": np.array([[0.9, 0.1], [0.2, 0.8]])}) == [False, True]
        (turned,) = orient.route(crop, True)
        assert np.array_equal(turned["image"][0, 0], crop["image"][-1, -1])
        assert orient.route(crop, False)[0]["image"] is crop["image"]
        assert orient.passthrough([crop]) == [False]
        assert orient.score([True, False], [True, True])["accuracy"].value == 0.5

    def test_orient_knows_its_nets(self) -> None:
        with pytest.raises(ValueError, match="v2 or lcnet"):
            stage("Orient", net="v3")

    def test_read_keeps_the_box_with_the_text(self) -> None:
        read = stage("Read", {"character": "a\nb"}, width=160)
        crop = {"box": (1, 2, 30, 12), "image": picture(29, 10)}
        assert read.preprocess([crop])["x"].shape == (1, 3, 48, 160)
        assert read.postprocess([crop], {"p": one_hot([1, 2, 0, 3], 4)[None]}) == [((1, 2, 30, 12), "ab ")]

    def test_read_scores(self) -> None:
        box = (0, 0, 1, 1)
        scores = stage("Read").score([(box, "abc"), (box, "x")], ["a bc", "abcde fgh"])
        assert scores["line_exact"].value == 0.5
        assert scores["line_exact"].is_proportion
        assert scores["char_accuracy"].value == pytest.approx(3 / 11)

    def test_answer_is_in_reading_order(self) -> None:
        lines = [((0, 50, 9, 60), "last"), ((40, 1, 50, 11), "second"), ((0, 0, 30, 10), "first")]
        answer = pipeline().join(None, {"read": lines})
        assert [line for _, line in answer] == ["first", "second", "last"]
        assert pipeline().join(None, {}) == []
        assert pipeline().encode([answer, []])["text"].tolist() == [["first\nsecond\nlast"], [""]]

    def test_pipeline_score_counts_lines_that_were_not_found(self) -> None:
        truth = [((0, 0, 100, 10), "first one"), ((0, 50, 100, 60), "two")]
        answer = [((1, 0, 98, 11), "firstone"), ((200, 0, 300, 10), "nothing there")]
        scores = pipeline().score([answer, []], [truth, truth[1:]])
        assert scores["line_exact"].value == pytest.approx(1 / 3)
        assert scores["char_accuracy"].value == pytest.approx(8 / (8 + 3 + 3))

    def test_served_pages_are_checked(self) -> None:
        batch = np.stack([picture(8, 6), picture(8, 6, seed=1)])
        assert [page.shape for page in pipeline().decode({"page": batch})] == [(6, 8, 3)] * 2
        with pytest.raises(ValueError, match=r"uint8 \[n, h, w, 3\]"):
            pipeline().decode({"page": batch.astype(np.float32)})

    def test_without_pages_the_message_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"run `python .*prepare\.py`"):
            data.load_pages(tmp_path)
