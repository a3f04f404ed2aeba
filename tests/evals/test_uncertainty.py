"""Intervals cover, shrink as they should and never stand where there is too little."""

import itertools

import numpy as np
import pytest

from bias_clip.evals.uncertainty import bootstrap, grouped_sums, holm, mcnemar, paired_bootstrap

N = 400


def mean(totals: np.ndarray) -> np.ndarray:
    return totals[:, 0] / totals[:, 1]


def gap(totals: np.ndarray) -> np.ndarray:
    return totals[:, 2] / totals[:, 3] - totals[:, 0] / totals[:, 1]


def sums(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


def gap_sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    columns = [c for g in (0, 1) for c in (values * (groups == g), groups == g)]
    return np.stack(columns, axis=1).astype(float)


@pytest.mark.parametrize("values", ["kinds", "few", "many"])
def test_interval_is_that_of_the_normal_law(values) -> None:
    rng = np.random.default_rng(1)
    x = (
        rng.random(N) < 0.3
        if values == "kinds"
        else rng.normal(size=N if values == "few" else 2000)
    )
    got = bootstrap(sums(x.astype(float)), mean, num=2000)
    half = 1.96 * x.std() / np.sqrt(len(x))
    assert got.value == pytest.approx(x.mean())
    assert got.num_items == len(x)
    assert got.note == ""
    np.testing.assert_allclose(
        [got.low, got.high], [x.mean() - half, x.mean() + half], atol=0.12 * half
    )


def test_order_leaves_and_four_copies_halve_the_interval() -> None:
    rng = np.random.default_rng(2)
    x = sums((rng.random(N) < 0.4).astype(float))
    one = bootstrap(x, mean, num=4000)
    assert bootstrap(x[rng.permutation(N)], mean, num=4000) == one
    four = bootstrap(np.tile(x, (4, 1)), mean, num=4000)
    assert four.value == one.value
    assert (one.high - one.low) / (four.high - four.low) == pytest.approx(2, rel=0.08)


def test_copies_of_one_person_are_one_item() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=100)
    copies = sums(np.repeat(x, 9))
    clustered = bootstrap(copies, mean, clusters=np.repeat(np.arange(100), 9), num=2000)
    plain = bootstrap(sums(x), mean, num=2000)
    assert clustered.num_items == 100
    assert clustered.high - clustered.low == pytest.approx(plain.high - plain.low, rel=0.1)
    wrong = bootstrap(copies, mean, num=2000)
    assert wrong.high - wrong.low < 0.5 * (plain.high - plain.low)


def test_persons_with_more_images_weigh_more() -> None:
    persons = np.array([0, 0, 0, 1, 2, 2, 3, 3])
    hits = np.array([1, 0, 1, 0, 1, 1, 0, 1.0])
    assert bootstrap(sums(hits), mean, clusters=persons, num=50).value == pytest.approx(hits.mean())


def test_grouped_sums_give_the_means_and_the_worst() -> None:
    rng = np.random.default_rng(8)
    groups, hits = rng.integers(-1, 3, N), rng.random(N) < 0.5
    table = grouped_sums(hits, groups, num_groups=3)
    means = [hits[groups == g].mean() for g in range(3)]
    np.testing.assert_allclose(table[:, :3].sum(axis=0) / table[:, 3:].sum(axis=0), means)
    worst = bootstrap(table, lambda t: np.nanmin(t[:, :3] / t[:, 3:], axis=1), num=500)
    assert worst.value == pytest.approx(min(means))
    assert worst.low < worst.value
    with pytest.raises(ValueError, match="expected -1 to 1"):
        grouped_sums(hits, groups, num_groups=2)


def test_templates_add_their_own_variance() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal(size=(N, 1)) * 0.1 + rng.normal(size=(1, 12))
    stacked = np.stack([table, np.ones_like(table)], axis=2)
    width = {}
    for over in ("items", "templates", "both"):
        got = bootstrap(stacked, mean, over=over, num=2000)
        width[over] = got.high - got.low
    assert width["items"] < 0.2 * width["templates"]
    expected = 2 * 1.96 * table.mean(axis=0).std() / np.sqrt(12)
    assert width["templates"] == pytest.approx(expected, rel=0.15)
    assert width["both"] == pytest.approx(width["templates"], rel=0.1)


def test_too_little_has_a_note_and_no_number() -> None:
    alone = bootstrap(sums(np.ones(1)), mean)
    assert np.isnan([alone.value, alone.low, alone.high]).all()
    assert alone.note.startswith("not enough items")
    few = bootstrap(sums(np.ones(9)), mean, min_items=10)
    assert np.isnan(few.value)
    assert "10 are needed" in few.note
    absent = bootstrap(gap_sums(np.ones(50), np.zeros(50, int)), gap, num=100)
    assert np.isnan(absent.value)
    assert absent.note.startswith("not enough items")
    one = bootstrap(gap_sums(np.ones(50), (np.arange(50) == 0) * 1), gap, num=500)
    assert one.value == 0
    assert np.isnan(one.low)
    assert "resamples lack a group" in one.note
    single = bootstrap(np.ones((9, 1, 2)), mean, over="both")
    assert np.isnan(single.value)
    assert "1 templates" in single.note


def test_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(5)
    first = rng.normal(size=N)
    second = first + 0.1 + 0.05 * rng.normal(size=N)
    got = paired_bootstrap(sums(first), sums(second), mean, num=1000)
    assert got.estimate.value == pytest.approx((second - first).mean())
    assert got.estimate.low > 0
    assert got.p <= 2 / 1001
    own = bootstrap(sums(first), mean, num=1000)
    assert got.estimate.high - got.estimate.low < 0.2 * (own.high - own.low)
    same = paired_bootstrap(sums(first), sums(first), mean, num=200)
    assert same.p == 1
    assert same.estimate.value == 0


def test_mcnemar_is_the_binomial_sum() -> None:
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 0], bool)
    outcomes = [sum(o) for o in itertools.product((0, 1), repeat=6)]
    p = np.mean([min(o, 6 - o) <= 1 for o in outcomes])
    assert mcnemar(first, second) == pytest.approx(p)
    assert mcnemar(second, first) == pytest.approx(p)
    assert mcnemar(first, first) == 1


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    assert len(holm([])) == 0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="over="):
        bootstrap(np.ones((3, 2)), mean, over="images")
    with pytest.raises(ValueError, match="finite"):
        bootstrap(np.full((3, 2), np.nan), mean)
    with pytest.raises(ValueError, match="clusters"):
        bootstrap(np.ones((3, 2)), mean, clusters=np.arange(2))
    with pytest.raises(ValueError, match="same items"):
        paired_bootstrap(np.ones((3, 2)), np.ones((4, 2)), mean)
    with pytest.raises(ValueError, match="same items"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


@pytest.mark.slow
def test_unbiased_models_lie_within_their_interval() -> None:
    """300 models without a gap: the interval of the gap holds 0 in about 95 of a hundred."""
    rng = np.random.default_rng(6)
    inside = 0
    for i in range(300):
        groups = np.repeat([0, 1], [250, 150])
        hits = rng.random(400) < 0.7
        got = bootstrap(gap_sums(hits, groups), gap, num=1000, seed=i)
        inside += got.low <= 0 <= got.high
    assert 0.91 <= inside / 300 <= 0.985  # 95 % within three deviations of the binomial
