"""Intervals of the first K are those of data in which images really stand several times."""

import numpy as np
import pytest

from bias_clip.evals.suites.top_k import normalized_entropy, shown_counts
from bias_clip.evals.suites.top_k_interval import resample_counts, top_k_bootstrap, weighted_counts

RNG = np.random.default_rng(0)


def mean_entropy(counts: np.ndarray) -> np.ndarray:
    return normalized_entropy(counts).mean(axis=1)


def test_weights_are_copies_of_images() -> None:
    scores, codes = RNG.normal(size=(3, 200)), RNG.integers(-1, 3, 200)
    times = resample_counts(RNG, 200, 5)
    times[0] = 0
    times[0, :20] = 10  # the first ranks are not enough here
    got = weighted_counts(scores, codes, times, num_names=3, k=15)
    for row, counts in zip(times, got, strict=True):
        index = np.repeat(np.arange(200), row)
        expected = shown_counts(scores[:, index], codes[index], num_names=3, k=15)
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("n", [500, 1500])
def test_resamples_have_the_size_of_the_data(n) -> None:
    times = resample_counts(np.random.default_rng(1), n, 40)
    assert (times.sum(axis=1) == n).all()
    assert times.var() == pytest.approx(1, rel=0.05)


def test_share_of_a_random_ranking_has_the_interval_of_the_binomial() -> None:
    rng = np.random.default_rng(2)
    scores, codes = rng.normal(size=(1, 5000)), (rng.random(5000) < 0.5).astype(int)
    got = top_k_bootstrap(scores, codes, lambda c: c[:, 0, 1] / 200, num_names=2, k=200)
    half = 1.96 * np.sqrt(0.25 / 200)
    assert (got.high - got.low) / 2 == pytest.approx(half, rel=0.1)
    assert got.low < got.value < got.high


def test_value_is_that_of_all_images_and_few_images_have_a_note() -> None:
    scores, codes = RNG.normal(size=(4, 90)), RNG.integers(0, 3, 90)
    got = top_k_bootstrap(scores, codes, mean_entropy, num_names=3, k=20, num=100)
    expected = normalized_entropy(shown_counts(scores, codes, num_names=3, k=20)).mean()
    assert got.value == pytest.approx(expected)
    few = top_k_bootstrap(scores, codes, mean_entropy, num_names=3, k=60)
    assert np.isnan(few.value)
    assert few.note.startswith("not enough items: 90 images")


@pytest.mark.slow
def test_unbiased_rankings_lie_within_their_interval() -> None:
    """Four even groups in random order: the interval holds the expected entropy in about 95 of 100."""
    rng, inside = np.random.default_rng(3), 0
    expected = normalized_entropy(rng.multinomial(100, [0.25] * 4, size=20_000)).mean()
    for i in range(200):
        scores, codes = rng.normal(size=(1, 800)), rng.integers(0, 4, 800)
        got = top_k_bootstrap(scores, codes, mean_entropy, num_names=4, k=100, num=300, seed=i)
        inside += got.low <= expected <= got.high
    assert 0.90 <= inside / 200 <= 0.995
