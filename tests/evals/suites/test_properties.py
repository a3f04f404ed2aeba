"""Laws that hold for any data, and the edges at which the official codes give a misleading number."""

import numpy as np
import pytest

from bias_clip.evals.metrics import family_of
from bias_clip.evals.suites.association_tests import association_test, permutation_p
from bias_clip.evals.suites.berg import berg
from bias_clip.evals.suites.clip_benchmark import classify, classify_multilabel, retrieve
from bias_clip.evals.suites.descriptions import SUITE_DESCRIPTIONS
from bias_clip.evals.suites.fairness import fairness
from bias_clip.evals.suites.neutral import neutral_captions, query_bias
from bias_clip.evals.suites.sispi import read_names, sispi
from bias_clip.evals.suites.sobit import sobit
from bias_clip.evals.suites.top_k import bias_at_k, normalized_entropy, ties_at_cut
from bias_clip.evals.suites.visogender import (
    resolution,
    visogender_resolution,
    visogender_retrieval,
)
from bias_clip.evals.suites.worst_group import group_codes, worst_group

RNG = np.random.default_rng(0)
ZIMG, ZTXT = RNG.normal(size=(60, 6)), RNG.normal(size=(7, 6))
CODES = RNG.integers(0, 3, 60)
BOTH = RNG.integers(0, 2, 60)
ORDER = RNG.permutation(60)
RACES = ("a", "b", "c")
META = np.stack([RNG.integers(0, 9, 60), BOTH, CODES, (CODES != 1) * 1], axis=1)
PREDICTED = np.stack(
    [
        RNG.integers(0, 3, 60),
        RNG.integers(0, 2, 60),
        RNG.integers(0, 9, 60),
        RNG.integers(0, 21, 60),
    ],
    axis=1,
)
PEOPLE = [f"{p}_{i}_{g}_{e}.jpg" for p in ("cook", "guard") for g in ("male", "female")
          for e in ("asian", "white", "black") for i in range(5)]  # fmt: skip
PRONOUNS = RNG.normal(size=(60, 3))


def results(order: np.ndarray) -> dict:
    """Every family on the same data, its items in another order."""
    x, y = CODES[order], BOTH[order]
    scores = (ZTXT @ ZIMG.T)[:, order]
    halves = [order[order < 30], order[order >= 30]]
    return {
        "sobit": sobit(ZIMG[order], ZTXT, x, names=RACES, categories=list("aabbccc"), k=10),
        "berg": berg(scores, x, ks=[5, 20]),
        "berg two": berg(scores, y, ks=[5]),
        "neutral": query_bias(scores, y, ks=[5]),
        "captions": neutral_captions(ZIMG[order], ZIMG[::-1][order], ZTXT, y, ks=[1, 5]),
        "sispi": sispi(
            ZIMG[order],
            ZTXT[:2],
            read_names([PEOPLE[i] for i in order]),
            professions=["cook", "guard"],
        ),
        "fairness": fairness(PREDICTED[order], META[order], races=RACES),
        "worst": worst_group(x[:] == y, x, names=RACES, chance=0.5, train_counts=[1, 2, 3]),
        "resolution": visogender_resolution(PRONOUNS[order], y, PRONOUNS[order], y, x % 2),
        "retrieval": visogender_retrieval(
            [ZTXT[0] @ ZIMG[h].T for h in halves], [BOTH[h] for h in halves], ks=[5]
        ),
        "classify": classify(ZIMG[order], ZTXT[:6].reshape(3, 2, 6), x),
        "labels": classify_multilabel(
            ZIMG[order], ZTXT[:6].reshape(3, 2, 6), x[:, None] == np.arange(3)
        ),
        "retrieve": retrieve(ZIMG[order], ZIMG[::-1][order], np.arange(60)),
        "weat": association_test(
            ZIMG[:5][np.argsort(order[:5])], ZIMG[5:10], ZIMG[10:20], ZIMG[20:30]
        ),
    }


PLAIN = results(np.arange(60))


@pytest.mark.parametrize("name", PLAIN)
def test_order_of_items_leaves_the_values(name) -> None:
    moved = results(ORDER)[name].metrics
    assert moved.keys() == PLAIN[name].metrics.keys()
    for key, value in PLAIN[name].metrics.items():
        np.testing.assert_allclose(moved[key], value, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_is_described_and_every_nan_has_a_reason(name) -> None:
    result = PLAIN[name]
    described = SUITE_DESCRIPTIONS[result.details["kind"]].metrics
    for key, value in result.metrics.items():
        assert family_of(key, described) is not None, key
        assert np.isnan(value) == (key in result.details["not_enough"]), key


def test_renamed_groups_leave_the_values() -> None:
    swap = np.array([2, 0, 1])[CODES]
    scores = ZTXT @ ZIMG.T
    assert berg(scores, swap, ks=[5]).metrics == pytest.approx(berg(scores, CODES, ks=[5]).metrics)
    first = sobit(ZIMG, ZTXT, CODES, names=RACES, categories=["a"] * 7, k=10).metrics
    second = sobit(ZIMG, ZTXT, swap, names=("b", "c", "a"), categories=["a"] * 7, k=10).metrics
    assert second == pytest.approx(first)


def test_swapped_genders_turn_the_sign() -> None:
    scores = ZTXT @ ZIMG.T
    np.testing.assert_array_equal(
        bias_at_k(scores, 1 - BOTH, ks=[5, 9]), -bias_at_k(scores, BOTH, ks=[5, 9])
    )
    there = resolution(PRONOUNS, BOTH)
    back = resolution(PRONOUNS[:, [1, 0, 2]], 1 - BOTH)
    assert back.gap == pytest.approx(-there.gap)
    assert back.accuracy == pytest.approx(there.accuracy)


def test_entropy_of_even_and_single_counts() -> None:
    np.testing.assert_allclose(
        normalized_entropy(np.array([[5, 5, 5], [9, 0, 0]])), [1, 0], atol=1e-15
    )
    assert np.isnan(normalized_entropy(np.array([[4]]))).all()
    assert np.isnan(normalized_entropy(np.array([[0, 0]]))).all()


def test_ties_at_the_cut_are_seen_and_go_by_the_index() -> None:
    scores = np.array([[1.0, 0.5, 0.5, 0.0]])
    assert ties_at_cut(scores, k=2).all()
    assert not ties_at_cut(scores, k=3).any()
    assert bias_at_k(scores, np.array([0, 0, 1, 1]), ks=[2])[0, 0] == 1


def test_all_pronouns_equal_is_no_opinion_and_not_his() -> None:
    scores, genders = np.zeros((4, 3)), np.array([0, 1, 0, 1])
    assert resolution(scores, genders).gap == 0
    assert resolution(scores, genders, ties="first").gap == 1
    assert resolution(scores, genders, pronouns=2).accuracy == pytest.approx(0.5)


def test_cut_off_above_the_set_has_a_reason_and_no_number() -> None:
    result = berg(ZTXT @ ZIMG.T, CODES, ks=[61])
    assert np.isnan(result.metrics["maxskew_even_61"])
    assert "60 images" in result.details["not_enough"]["maxskew_even_61"]
    recall = retrieve(ZIMG[:8], ZIMG[:8], np.arange(8), ks=[10])
    assert np.isnan(recall.metrics["t2i_r10"])
    assert "8 candidates" in recall.details["not_enough"]["t2i_r10"]


def test_absent_group_is_counted_and_has_no_minimum() -> None:
    scores = np.linspace(1, 0, 20)[None]
    codes = np.repeat([0, 1], 10)
    result = berg(scores, codes, ks=[5])
    assert result.metrics["absent_5"] == 1
    assert np.isnan(result.metrics["minskew_share_5"])
    assert result.metrics["maxskew_share_5"] == pytest.approx(np.log(2))
    official = berg(scores, codes, ks=[1], official=True).metrics
    assert official["minskew_share_1"] == 0  # bounded: the group that is not shown counts as 1/k


def test_one_group_has_no_skew_unless_official() -> None:
    scores, codes = np.linspace(1, 0, 20)[None], np.zeros(20, int)
    assert np.isnan(berg(scores, codes, ks=[5]).metrics["maxskew_even_5"])
    assert berg(scores, codes, ks=[5], official=True).metrics["maxskew_even_5"] == 0


def test_profession_without_images_is_left_out_of_the_means() -> None:
    people = read_names(PEOPLE)
    texts = ZTXT[:3]
    both = sispi(ZIMG, texts[:2], people, professions=["cook", "guard"]).metrics
    more = sispi(ZIMG, texts, people, professions=["cook", "guard", "pilot"])
    assert more.metrics["ndkl_both"] == both["ndkl_both"]
    assert more.metrics["empty"] == 1
    official = sispi(ZIMG, texts, people, professions=["cook", "guard", "pilot"], official=True)
    assert np.isnan(official.metrics["ndkl_both"])
    assert official.details["not_enough"]["ndkl_both"]


def test_names_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="profession_number_gender_ethnicity"):
        read_names(["doctor_1_female.jpg"])


def test_worst_of_a_harmful_rate_is_the_highest() -> None:
    plain = fairness(PREDICTED, META, races=RACES).metrics
    official = fairness(PREDICTED, META, races=RACES, official=True).metrics
    rates = [plain[f"crime_of_{race}"] for race in RACES]
    assert plain["crime_worst"] == max(rates)
    assert official["crime_worst"] == min(rates)
    missing = fairness(PREDICTED, META, races=(*RACES, "d"))
    assert np.isnan(missing.metrics["crime_of_d"])
    assert "crime_of_d" in missing.details["not_enough"]


def test_class_without_images_is_left_out_of_map() -> None:
    labels = CODES[:, None] == np.arange(3)
    prompts = ZTXT[:6].reshape(3, 2, 6)
    labels[:, 0] = False
    plain = classify_multilabel(ZIMG, prompts, labels)
    official = classify_multilabel(ZIMG, prompts, labels, official=True)
    assert plain.details["empty"] == 1
    assert official.metrics["map"] == pytest.approx(plain.metrics["map"] * 2 / 3)


def test_query_without_people_is_counted_not_averaged() -> None:
    scores = np.array([[1.0, 0.9, 0, 0], [0, 0, 1.0, 0.9]])
    result = query_bias(scores, np.array([0, 0, -1, -1]), ks=[2])
    assert result.metrics["bias_2"] == 1
    assert result.metrics["without_2"] == 1


def test_fractional_codes_and_codes_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="codes 0, 1, 2"):
        group_codes(np.array([0.0, 1.5]))
    with pytest.raises(ValueError, match="unknown"):
        sobit(ZIMG, ZTXT, CODES + 1, names=RACES, categories=["a"] * 7)


def test_too_few_images_of_a_group_have_no_number() -> None:
    hits, groups = np.ones(10, bool), np.array([0] * 9 + [1])
    result = worst_group(hits, groups, names=("x", "y", "z"), chance=0.5, min_count=5)
    assert np.isnan(result.metrics["acc_of_y"])
    assert result.details["not_enough"]["acc_of_y"] == "not enough items: 1 images"
    assert result.details["worst"] == "x"
    assert result.metrics["absent"] == 1


def test_exact_and_sampled_p_agree() -> None:
    sx, sy = RNG.normal(0.5, 1, 7), RNG.normal(size=7)
    exact = permutation_p(sx, sy)
    sampled = permutation_p(sx, sy, max_splits=3000)
    assert exact.exact
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=0.03)


def test_embeddings_with_nan_or_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="not all finite"):
        classify(np.full((3, 6), np.nan), ZTXT[:2, None], np.zeros(3, int))
    with pytest.raises(ValueError, match="one width"):
        retrieve(ZIMG, ZTXT[:, :4], np.zeros(7, int))


def test_two_copies_of_the_data_leave_rates_entropy_and_recall() -> None:
    twice = np.concatenate([np.arange(60)] * 2)
    one = fairness(PREDICTED, META, races=RACES).metrics
    two = fairness(PREDICTED[twice], META[twice], races=RACES).metrics
    for key, value in one.items():
        factor = 2 if key.startswith("images") else 1
        np.testing.assert_allclose(two[key], factor * value, err_msg=key)
    args = {"names": RACES, "categories": ["a"] * 7}
    first = sobit(ZIMG, ZTXT, CODES, k=10, **args).metrics
    second = sobit(ZIMG[twice], ZTXT, CODES[twice], k=20, **args).metrics
    assert second["entropy"] == pytest.approx(first["entropy"])
    prompts = ZTXT[:6].reshape(3, 2, 6)
    assert classify(ZIMG[twice], prompts, CODES[twice]).metrics["acc1"] == pytest.approx(
        classify(ZIMG, prompts, CODES).metrics["acc1"]
    )
