import json
from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals.quality.retrieval import (
    caption_pairs,
    chance_recall,
    make_retrieval,
    retrieval_recall,
)
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record

GOLDEN = Path(__file__).parents[2] / "golden"


def recall_of(case, ks, block_size=None):
    zimg, ztxt = unit(case["image_embeddings"]), unit(case["text_embeddings"])
    texts = np.arange(len(ztxt))
    return retrieval_recall(zimg, ztxt, case["text_to_image"], texts, ks=ks, block_size=block_size)


@pytest.mark.parametrize("block_size", [None, 1, 16])
@pytest.mark.parametrize("k", [0, 1])
def test_recall_equals_clip_benchmark_and_big_vision(k, block_size):
    """File 1 has one to seven captions an image."""
    case = np.load(GOLDEN / f"metric_retrieval_{k}.npz")
    recall = recall_of(case, case["ks"].tolist(), block_size)
    np.testing.assert_allclose(recall.image_to_text, case["image_to_text_recall"], atol=1e-6)
    np.testing.assert_allclose(recall.text_to_image, case["text_to_image_recall"], atol=1e-6)
    recall = recall_of(case, case["bv_ks"].tolist(), block_size)
    np.testing.assert_allclose(recall.image_to_text, case["bv_image_to_text"], atol=1e-6)
    np.testing.assert_allclose(recall.text_to_image, case["bv_text_to_image"], atol=1e-6)


def test_swapping_the_towers_swaps_the_directions():
    zimg, ztxt = unit(normal(0, 9, 4)), unit(normal(1, 14, 4))
    rng = np.random.default_rng(2)
    images, texts = rng.integers(0, 9, 20), rng.integers(0, 14, 20)
    one = retrieval_recall(zimg, ztxt, images, texts, ks=(1, 3))
    other = retrieval_recall(ztxt, zimg, texts, images, ks=(1, 3))
    np.testing.assert_array_equal(one.image_to_text, other.text_to_image)
    np.testing.assert_array_equal(one.text_to_image, other.image_to_text)


def test_order_of_records_changes_nothing():
    zimg, ztxt = unit(normal(0, 12, 4)), unit(normal(1, 12, 4))
    order = np.random.default_rng(2).permutation(12)
    rows = np.arange(12)
    one = retrieval_recall(zimg, ztxt, rows, rows)
    other = retrieval_recall(zimg[order], ztxt[order], rows, rows)
    np.testing.assert_array_equal(one, other)


def test_every_image_of_a_shared_caption_is_right():
    source = ListSource([record(0, ["a"]), record(1, ["a"]), record(2, ["b"])])
    zimg = np.array([[0.6, 0.0, 0.8], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    encode = fixed_encode(zimg, {"a": [1.0, 0.1, 0], "b": [0.0, 1.0, 0]})
    metrics = make_retrieval(source, ks=(1, 2))(encode).metrics
    assert metrics["texts"] == 2
    assert metrics["t2i_r1"] == 1.0  # the second image is found for "a"
    assert metrics["i2t_r1"] == 1.0
    assert metrics["t2i_r1_chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["i2t_r1_chance"] == pytest.approx(1 / 2)
    assert metrics["i2t_r2_chance"] == pytest.approx(1)


def test_first_takes_one_caption_and_all_takes_all():
    source = ListSource([record(0, ["a", "b", "a"]), record(1, ["c"]), record(2, ["", " "])])
    texts = {"a": [0.0, 1.0], "b": [1.0, 0.0], "c": [0.0, 1.0]}
    encode = fixed_encode([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]], texts)
    first = make_retrieval(source, ks=(1,))(encode).metrics
    every = make_retrieval(source, ks=(1,), captions="all")(encode).metrics
    assert (first["texts"], every["texts"]) == (2, 3)
    assert first["i2t_r1"] == 0.5  # "a" and "c" tie, and the first of them wins
    assert every["i2t_r1"] == 0.5  # by "b", which is nearest to both images
    assert first["t2i_r1"] == 0  # the image without a caption is nearest to "a" and "c"
    assert every["t2i_r1"] == pytest.approx(1 / 3)  # "b" finds its image
    assert first["uncaptioned"] == every["uncaptioned"] == 1


def test_caption_pairs_are_distinct():
    strings, images, texts = caption_pairs([("x", "y"), (), ("y", "y", "z")])
    assert strings == ["x", "y", "z"]
    assert list(zip(images.tolist(), texts.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (2, 1),
        (2, 2),
    ]


def test_chance_is_what_a_random_order_reaches():
    rng = np.random.default_rng(0)
    counts = np.array([1, 2, 5])
    for k in (1, 3, 20):
        hits = [[(rng.permutation(8)[:k] < c).any() for c in counts] for _ in range(4000)]
        # 4,000 draws of three: the standard error is below 0.005.
        assert chance_recall(counts, 8, k) == pytest.approx(np.mean(hits), abs=0.02)


def test_details_show_found_images_and_which_are_right():
    source = ListSource(record(i, [f"t{i}"]) for i in range(8))
    zimg = normal(0, 8, 8)
    encode = fixed_encode(zimg, {f"t{i}": zimg[i] for i in range(8)})
    result = make_retrieval(source, num_queries=5)(encode)
    queries = json.loads(json.dumps(result.details))["queries"]
    assert len(queries) == 5
    for query in queries:
        assert [p["correct"] for p in query["pictures"]] == [True] + [False] * 5
    assert result.metrics["i2t_r1"] == result.metrics["t2i_r1"] == 1


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="'first' or 'all'"):
        make_retrieval(ListSource([record(0)]), captions="every")
    with pytest.raises(ValueError, match="has a caption"):
        make_retrieval(ListSource([record(0, [" "])]))
