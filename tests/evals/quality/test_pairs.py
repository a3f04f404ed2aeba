"""Pairs of images and texts: the authors' numbers, and examples counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals import make_evaluator
from bias_clip.evals.concat import join
from bias_clip.evals.quality.pairs import (
    mmvp_correct,
    pair_cosines,
    pair_rows,
    prefers_first,
    sugarcrepe_correct,
    winoground_correct,
)
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record


def golden(case):
    return np.load(Path(__file__).parents[2] / "golden" / f"metric_mmvp_{case}.npz")


def joined(data, stages):
    """Pairs [135, 2, d] of the first stages' raw features, normalised once."""
    return [
        unit(join(list(data[f"{name}_embeddings"][:stages]), form="raw")).reshape(135, 2, -1)
        for name in ("image", "text")
    ]


def percent_by_pattern(right, data):
    return [100 * right[data["pattern_of_pair"] == pattern].mean() for pattern in range(9)]


@pytest.mark.parametrize("case", [0, 1])
def test_mmvp_of_one_model_agrees_with_the_authors(case):
    data = golden(case)
    zimg, ztxt = joined(data, 1)
    np.testing.assert_array_equal(prefers_first(zimg, ztxt), data["single_pred_is_first_image"])
    logits = 100 * pair_cosines(zimg, ztxt).astype(np.float64)
    first = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    np.testing.assert_allclose(first, data["single_prob_first_image"], rtol=1e-3)
    found = percent_by_pattern(mmvp_correct(zimg, ztxt), data)
    np.testing.assert_allclose(found, data["single_pattern_accuracy"])
    np.testing.assert_allclose(found, data["concat_one_stage_pattern_accuracy"])
    np.testing.assert_allclose(np.mean(found), data["single_average"])
    assert not mmvp_correct(zimg, ztxt)[data["tied_pairs"]].any()


@pytest.mark.parametrize("case", [0, 1])
def test_mmvp_of_joined_stages_agrees_with_the_authors(case):
    data = golden(case)
    zimg, ztxt = joined(data, None)
    np.testing.assert_array_equal(prefers_first(zimg, ztxt), data["concat_pred_is_first_image"])
    found = percent_by_pattern(mmvp_correct(zimg, ztxt), data)
    np.testing.assert_allclose(found, data["concat_pattern_accuracy"])
    np.testing.assert_allclose(np.mean(found), data["concat_average"])


@pytest.mark.parametrize("case", [0, 1])
def test_the_mmvp_evaluator_has_the_authors_average(case):
    data = golden(case)
    source = ListSource(record(i % 256, [f"s{i}"]) for i in range(270))
    zimg, ztxt = (z.reshape(270, -1) for z in joined(data, None))
    encode = fixed_encode(zimg, {f"a photo of s{i}": z for i, z in enumerate(ztxt)})
    result = make_evaluator("mmvp", source)(encode)
    np.testing.assert_allclose(100 * result.metrics["average"], data["concat_average"])
    for pattern, wanted in enumerate(data["concat_pattern_accuracy"]):
        np.testing.assert_allclose(100 * result.metrics[f"acc_{pattern}"], wanted)
    mean = data["concat_mean_image_similarity"].mean()
    np.testing.assert_allclose(result.metrics["image_similarity"], mean, rtol=1e-5)
    assert result.metrics["pairs"] == 135


def test_mmvp_averages_patterns_of_any_size_and_reads_first_captions():
    # Three pairs of pattern a, of which one is right, and one right pair of pattern b.
    names, right = ["a", "a", "a", "b"], [True, False, False, True]
    source = ListSource(
        record(2 * p + i, [f"s{p}{i}", f"other {p}{i}"], kind=name)
        for p, name in enumerate(names)
        for i in range(2)
    )
    images = np.stack([np.eye(2)[i if ok else 1 - i] for ok in right for i in range(2)])
    texts = {
        f"a photo of s{p}{i}": np.array([[1, 0], [0.6, 0.8]])[i] for p in range(4) for i in range(2)
    }
    found = make_evaluator("mmvp", source, pattern="kind")(fixed_encode(images, texts)).metrics
    assert found["acc_a"] == pytest.approx(1 / 3)
    assert found["acc_b"] == 1
    assert found["average"] == pytest.approx(2 / 3)
    assert found["image_similarity"] == pytest.approx(0, abs=1e-6)
    assert found["text_similarity"] == pytest.approx(0.6)


# Cosines are scores[i, j] of image i and text j: images are the rows, texts the axes.
SCORES = {  # text, image, group right?
    "both": ([[0.9, 0.1], [0.2, 0.8]], (True, True)),
    "text_only": ([[0.9, 0.8], [0.3, 0.4]], (True, False)),  # text 1 prefers image 0
    "image_only": ([[0.6, 0.7], [0.1, 0.9]], (False, True)),  # image 0 prefers text 1
    "none": ([[0.1, 0.9], [0.8, 0.2]], (False, False)),
    "tied_texts": ([[0.5, 0.5], [0.2, 0.9]], (False, True)),
    "tied_pictures": ([[0.5, 0.2], [0.5, 0.9]], (True, False)),
    "all_equal": ([[0.5, 0.5], [0.5, 0.5]], (False, False)),
}


@pytest.mark.parametrize("name", sorted(SCORES))
def test_winoground_by_hand_and_ties_are_wrong(name):
    scores, (text, image) = SCORES[name]
    zimg, ztxt = np.asarray([scores], np.float32), np.eye(2, dtype=np.float32)[None]
    found = winoground_correct(zimg, ztxt)
    assert (found.text[0], found.image[0], found.group[0]) == (text, image, text and image)


def test_winoground_metrics_are_the_shares_of_right_examples():
    names = sorted(SCORES)
    source = ListSource(
        record(2 * p + i, [f"{name} {i}"], example=name)
        for p, name in enumerate(names)
        for i in range(2)
    )
    own = {  # unit vectors whose products with the texts are those scores
        f"{name} {i}": np.eye(14)[2 * p + i] for p, name in enumerate(names) for i in range(2)
    }
    zimg = np.zeros((14, 15))
    for p, name in enumerate(names):
        zimg[2 * p : 2 * p + 2, 2 * p : 2 * p + 2] = SCORES[name][0]
    zimg[:, 14] = np.sqrt(2 - (zimg[:, :14] ** 2).sum(axis=1))
    encode = fixed_encode(zimg, {text: np.append(z, 0) for text, z in own.items()})
    metrics = make_evaluator("winoground", source, pair="example")(encode).metrics
    assert metrics["text_acc"] == pytest.approx(3 / 7)
    assert metrics["image_acc"] == pytest.approx(3 / 7)
    assert metrics["acc"] == pytest.approx(1 / 7)


def test_chance_is_what_embeddings_of_noise_reach():
    zimg, ztxt = (unit(normal(seed, 40_000, 2, 64)) for seed in (0, 1))
    found = winoground_correct(zimg, ztxt)
    shares = [*map(np.mean, found), mmvp_correct(zimg, ztxt).mean()]
    np.testing.assert_allclose(shares, [1 / 4, 1 / 4, 1 / 6, 1 / 4], atol=0.01)
    assert sugarcrepe_correct(zimg[:, 0], ztxt).mean() == pytest.approx(0.5, abs=0.01)


def test_order_within_a_pair_matters_only_where_mmvp_is_tied():
    zimg, ztxt = (unit(normal(seed, 50, 2, 3)) for seed in (0, 1))
    np.testing.assert_array_equal(
        mmvp_correct(zimg, ztxt), mmvp_correct(zimg[:, ::-1], ztxt[:, ::-1])
    )
    np.testing.assert_array_equal(mmvp_correct(zimg, ztxt), winoground_correct(zimg, ztxt).image)
    zimg[:, 1] = zimg[:, 0]
    assert not mmvp_correct(zimg, ztxt).any()


def test_sugarcrepe_by_hand():
    source = ListSource(
        record(i, [f"true {i}", f"false {i}"], kind=("add", "swap")[i > 2]) for i in range(5)
    )
    texts = {}
    for i, (right, wrong) in enumerate(
        [(0.9, 0.1), (0.4, 0.6), (0.5, 0.5), (0.7, 0.2), (0.3, 0.1)]
    ):
        for word, cosine in (("true", right), ("false", wrong)):
            texts[f"{word} {i}"] = [cosine, np.sqrt(1 - cosine**2)]
    encode = fixed_encode(np.tile([1.0, 0.0], (5, 1)), texts)
    metrics = make_evaluator("sugarcrepe", source, by="kind")(encode).metrics
    assert metrics["acc_add"] == pytest.approx(1 / 3)  # the tie is wrong
    assert metrics["acc_swap"] == 1
    assert metrics["acc"] == pytest.approx(3 / 5)
    assert metrics["average"] == pytest.approx(2 / 3)
    plain = make_evaluator("sugarcrepe", source)(encode).metrics
    assert plain["average"] == plain["acc"] == pytest.approx(3 / 5)


def test_pairs_are_found_by_a_column_in_the_order_of_records():
    source = ListSource(record(i, pair=name) for i, name in enumerate(["b", "a", "b", "a"]))
    np.testing.assert_array_equal(pair_rows(source, "pair"), [[0, 2], [1, 3]])
    np.testing.assert_array_equal(pair_rows(source, None), [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mmvp", dict(pair="odd"), r"odd='x' has 3 records; expected two"),
        ("mmvp", {}, "3 pairs are not patterns of 15; give a column"),
        ("mmvp", dict(pattern="odd"), r"records \[2, 3\] are a pair of odd \['x', 'y'\]"),
        ("mmvp", dict(pattern="odd", template="photo"), "a place for it"),
        ("sugarcrepe", {}, "record 0 has captions .*expected a true one and a false one"),
        ("winoground", dict(pair="none"), "no attribute 'none'"),
    ],
)
def test_sets_that_are_no_pairs_are_refused(name, arguments, message):
    source = ListSource(record(i, odd="xxxyyy"[i]) for i in range(6))
    with pytest.raises((ValueError, KeyError), match=message):
        make_evaluator(name, source, **arguments)


def test_records_without_a_caption_are_named():
    source = ListSource(record(i, ["a"] if i != 1 else [" "]) for i in range(4))
    with pytest.raises(ValueError, match=r"records \[1\] have no caption"):
        make_evaluator("winoground", source)


def test_each_factor_is_read_by_a_probe_of_its_own():
    """Colour lies in the embeddings, shape does not."""
    colour, shape = (np.random.default_rng(seed).integers(0, 4, 400) for seed in (0, 1))
    z = np.eye(4)[colour] + 0.1 * normal(2, 400, 4)
    train, test = (
        ListSource(record(i % 256, colour=int(colour[i]), shape=int(shape[i])) for i in rows)
        for rows in (range(300), range(300, 400))
    )
    encode = fixed_encode({id(train): z[:300], id(test): z[300:]}, {})
    factors = make_evaluator("factors", test, train_source=train, factors=("colour", "shape"))
    found = factors(encode).metrics
    assert found["acc1_colour"] > 0.95
    assert found["acc1_shape"] < 0.4
    assert found["acc1"] == pytest.approx((found["acc1_colour"] + found["acc1_shape"]) / 2)
    assert found["acc1_min"] == found["acc1_shape"]
    alone = make_evaluator("probe", test, train_source=train, label="colour")(encode).metrics
    assert (found["acc1_colour"], found["chance_colour"]) == (alone["acc1"], alone["chance"])
    with pytest.raises(ValueError, match="none twice"):
        make_evaluator("factors", test, train_source=train, factors=("shape", "shape"))
    with pytest.raises(ValueError, match="'min', and acc1_min is the accuracy of the worst"):
        make_evaluator("factors", test, train_source=train, factors=("shape", "min"))
