import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest

from bias_clip.data.image import decode
from bias_clip.evals.quality.zeroshot import (
    TEMPLATES,
    accuracy,
    average_precision,
    class_embeddings,
    make_zeroshot,
)
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(k):
    return np.load(GOLDEN / f"metric_zeroshot_{k}.npz")


@pytest.mark.parametrize("k", [0, 1])
def test_class_embeddings_equal_those_of_three_code_bases(k):
    """CLIP_benchmark, open_clip and big_vision; tolerance of the golden's README."""
    case = golden(k)
    z = class_embeddings(case["template_text_embeddings"])
    np.testing.assert_allclose(z, case["classifier"].T, atol=1e-5)
    np.testing.assert_allclose(z, case["classifier_open_clip"].T, atol=1e-5)
    np.testing.assert_allclose(z, case["class_embeddings_big_vision"], atol=1e-5)


@pytest.mark.parametrize("block_size", [None, 1, 32])
@pytest.mark.parametrize("k", [0, 1])
def test_accuracy_equals_clip_benchmark_whatever_the_blocks(k, block_size):
    case = golden(k)
    zcls = class_embeddings(case["template_text_embeddings"])
    got = accuracy(unit(case["image_embeddings"]), zcls, case["labels"], block_size=block_size)
    expected = [float(case[key]) for key in ("acc1", "acc5", "mean_per_class_recall")]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("k", [0, 1])
def test_average_precision_equals_clip_benchmark(k):
    case = golden(k)
    got = average_precision(case["logits"], case["multilabels"].astype(bool))
    np.testing.assert_allclose(got, case["multilabel_ap_per_class"], atol=1e-6)
    np.testing.assert_allclose(got.mean(), case["multilabel_map"], atol=1e-6)


def test_average_precision_of_a_class_without_images_is_zero():
    assert average_precision(np.ones((3, 1)), np.zeros((3, 1), bool)) == 0


def test_permuting_classes_changes_nothing():
    zimg, zcls = unit(normal(0, 40, 6)), unit(normal(1, 7, 6))
    labels = np.random.default_rng(2).integers(0, 7, 40)
    order = np.random.default_rng(3).permutation(7)
    new = np.empty(7, int)
    new[order] = np.arange(7)
    np.testing.assert_allclose(
        accuracy(zimg, zcls[order], new[labels]), accuracy(zimg, zcls, labels)
    )


def test_repeating_a_template_for_all_classes_changes_nothing():
    prompts = normal(0, 5, 1, 6)
    np.testing.assert_allclose(
        class_embeddings(np.repeat(prompts, 3, axis=1)), class_embeddings(prompts), atol=1e-6
    )


ANIMALS = ("cat", "dog", "emu", "fox", "gnu", "hen")


def one_hot_case(wrong=()):
    """Twelve images, two of each animal; those in `wrong` look like the next animal."""
    labels = np.arange(12) % 6
    source = ListSource(record(i, name=ANIMALS[labels[i]]) for i in range(12))
    shown = np.array([(label + (i in wrong)) % 6 for i, label in enumerate(labels)])
    texts = {a: np.eye(6)[i] for i, a in enumerate(ANIMALS)}
    return source, fixed_encode(np.eye(6)[shown] + 0.01, texts)


def test_one_hot_embeddings_have_the_accuracy_built_in():
    source, encode = one_hot_case(wrong=(0, 1, 7))
    result = make_zeroshot(source, label="name")(encode)
    assert result.metrics["acc1"] == 9 / 12
    assert result.metrics["class_recall"] == pytest.approx(9 / 12)
    assert result.metrics["chance"] == 1 / 6
    assert result.metrics["classes"] == 6
    assert result.metrics["images"] == 12


def test_top5_is_nan_below_five_classes():
    source = ListSource(record(i, name=ANIMALS[i]) for i in range(4))
    encode = fixed_encode(np.eye(4), {a: np.eye(4)[i] for i, a in enumerate(ANIMALS[:4])})
    metrics = make_zeroshot(source, label="name")(encode).metrics
    assert metrics["acc1"] == 1
    assert math.isnan(metrics["acc5"])


def test_classes_of_another_source_are_candidates_too():
    source, _ = one_hot_case()
    part = ListSource(source.records[:2])
    texts = {a: np.eye(6)[i] for i, a in enumerate(ANIMALS)}
    encode = fixed_encode(np.eye(6)[[0, 4]], texts)  # the dog looks like a gnu
    assert make_zeroshot(part, label="name")(encode).metrics["classes"] == 2
    metrics = make_zeroshot(part, label="name", class_source=source)(encode).metrics
    assert metrics["classes"] == 6
    assert metrics["acc1"] == 0.5


def test_integer_labels_index_the_classes():
    labels = np.arange(12) % 6
    source = ListSource(record(i, kind=int(labels[i])) for i in range(12))
    texts = {a: np.eye(6)[i] for i, a in enumerate(ANIMALS)}
    encode = fixed_encode(np.eye(6)[labels], texts)
    assert make_zeroshot(source, label="kind", classes=ANIMALS)(encode).metrics["acc1"] == 1
    with pytest.raises(ValueError, match="give classes"):
        make_zeroshot(source, label="kind")
    with pytest.raises(ValueError, match="expected 0 to 2"):
        make_zeroshot(source, label="kind", classes=ANIMALS[:3])


def test_equal_names_in_a_given_list_are_one_class():
    source = ListSource([record(0, name="crane"), record(1, name="owl")])
    encode = fixed_encode(np.eye(2), {"crane": np.eye(2)[0], "owl": np.eye(2)[1]})
    metrics = make_zeroshot(source, label="name", classes=("crane", "owl", "crane"))(encode).metrics
    assert metrics["acc1"] == 1
    assert metrics["classes"] == 2
    assert metrics["chance"] == 1 / 2
    by_index = ListSource([record(0, kind=2), record(1, kind=1)])  # the second crane, and the owl
    classes = ("crane", "owl", "crane")
    indexed = make_zeroshot(by_index, label="kind", classes=classes)(encode).metrics
    assert (indexed["acc1"], indexed["classes"]) == (1, 2)


def test_names_with_one_prompt_are_one_class_and_chance_says_so():
    names = ("C++", "C#", "C")
    source = ListSource(record(i, name=name) for i, name in enumerate(names))
    encode = fixed_encode(np.eye(3), {"c": np.ones(3)})
    for classes in (names, None):
        metrics = make_zeroshot(source, label="name", classes=classes)(encode).metrics
        assert (metrics["classes"], metrics["chance"], metrics["acc1"]) == (1, 1, 1)
    told_apart = fixed_encode(np.eye(3), {name: np.eye(3)[i] for i, name in enumerate(names)})
    metrics = make_zeroshot(source, label="name", canonical=False)(told_apart).metrics
    assert (metrics["classes"], metrics["acc1"]) == (3, 1)
    twice = ListSource([record(0, name="Dog|dog"), record(1, name="cat")])
    encode = fixed_encode(np.eye(2), {"dog": np.eye(2)[0], "cat": np.eye(2)[1]})
    metrics = make_zeroshot(twice, label="name", separator="|")(encode).metrics
    assert metrics["chance"] == 1 / 2


def test_canonical_prompts_have_no_punctuation_and_equal_names_are_one_class():
    source = ListSource(
        record(i, name=name) for i, name in enumerate(["Keycap: *", "keycap: #", "Old_man."])
    )
    asked = []

    def texts(strings):
        asked.extend(strings)
        return np.eye(len(strings), 3, dtype=np.float32)

    encode = fixed_encode(np.eye(3)[[0, 0, 1]], {})._replace(texts=texts)
    metrics = make_zeroshot(source, label="name")(encode).metrics
    assert asked == ["keycap", "old man"]
    assert metrics["acc1"] == 1
    asked.clear()
    make_zeroshot(source, label="name", canonical=False, templates=("see {}!",))(encode)
    assert asked == ["see Keycap: *!", "see Old_man.!", "see keycap: #!"]


def test_several_labels_per_image():
    """Scores are chosen so that ranks and precisions can be counted by hand."""
    tags = ["a|b", "b", "", "c"]
    source = ListSource(record(i, tags=tag) for i, tag in enumerate(tags))
    zimg = np.array([[0.9, 0.3, 0.1], [0.8, 0.6, 0.2], [0.1, 0.9, 0.3], [0.2, 0.2, 0.9]])
    encode = fixed_encode(zimg, {t: np.eye(3)[i] for i, t in enumerate("abc")})
    metrics = make_zeroshot(source, label="tags", separator="|")(encode).metrics
    assert metrics["acc1"] == pytest.approx(2 / 3)  # the first by "a", the last; never the third
    assert metrics["images"] == 3
    assert metrics["chance"] == pytest.approx(4 / 3 / 3)
    # a: first; b: second and third behind the image without labels; c: first.
    assert metrics["map"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + 1) / 3)
    blocked = make_zeroshot(source, label="tags", separator="|", block_size=1)(encode).metrics
    assert blocked["map"] == pytest.approx(metrics["map"])


def test_details_are_what_the_report_draws():
    source, encode = one_hot_case(wrong=(0,))
    result = make_zeroshot(source, label="name", num_examples=5, seed=1)(encode)
    details = json.loads(json.dumps(result.details))
    assert details["kind"] == "zeroshot"
    assert len(details["examples"]) == 5
    for example in make_zeroshot(source, label="name")(encode).details["examples"]:
        texts = [entry["text"] for entry in example["top"]]
        assert len(texts) == 5
        assert example["correct"] == (texts[0] == example["truth"])
    pixels = decode(base64.b64decode(details["examples"][0]["png"]))
    assert pixels.shape == (64, 64, 3)
    assert (pixels[-1, -1] == 255).all()  # transparent is white


def test_the_same_seed_shows_the_same_images():
    source, encode = one_hot_case()
    shown = [
        make_zeroshot(source, label="name", num_examples=4, seed=s)(encode).details
        for s in (0, 0, 5)
    ]
    assert shown[0] == shown[1]
    assert shown[0] != shown[2]


def test_wrong_arguments_are_refused():
    source, _ = one_hot_case()
    with pytest.raises(ValueError, match="'drawing', 'photo', 'plain'"):
        make_zeroshot(source, label="name", templates="drawings")
    with pytest.raises(ValueError, match="each with one"):
        make_zeroshot(source, label="name", templates=("a photo",))
    with pytest.raises(ValueError, match="2 labels are not among the 4 classes"):
        make_zeroshot(source, label="name", classes=ANIMALS[:4])
    with pytest.raises(ValueError, match="one of them"):
        make_zeroshot(source, label="name", classes=ANIMALS, class_source=source)
    with pytest.raises(ValueError, match="nme"):
        make_zeroshot(source, label="nme")
    assert all(t.count("{}") == 1 for templates in TEMPLATES.values() for t in templates)


@pytest.mark.parametrize("gap", ["", None])
def test_images_without_a_label_count_nowhere(gap):
    source, encode = one_hot_case()
    z = encode.images(source)
    texts = {a: np.eye(6)[i] for i, a in enumerate(ANIMALS)}
    names = [r["name"] for r in source.records]
    labels = [gap if i % 4 == 1 else name for i, name in enumerate(names)]
    rows = [i for i in range(len(names)) if i % 4 != 1]
    gapped = ListSource(record(i, name=name) for i, name in enumerate(labels))
    removed = ListSource(source.records[i] for i in rows)
    found = make_zeroshot(gapped, label="name")(fixed_encode(z, texts)).metrics
    assert found == make_zeroshot(removed, label="name")(fixed_encode(z[rows], texts)).metrics
