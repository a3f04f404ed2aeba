"""How sure is a number of the first K images? The ranking is resampled, not only its end."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.ranking import top_of_scores
from bias_clip.evals.suites.top_k import shown_counts
from bias_clip.evals.uncertainty import Estimate, percentile_estimate

Value = Callable[[Float[np.ndarray, "r q g"]], Float[np.ndarray, " r"]]


def top_k_bootstrap(
    scores: Float[np.ndarray, "q n"],
    codes: Int[np.ndarray, " n"],
    value: Value,
    *,
    num_names: int,
    k: int,
    num: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The value of who is among the first k, with its percentile interval over resampled images.

    Images of a resample are the same for every query. An image that is drawn twice stands twice in
    the ranking, so counts are less even than those of the data and an entropy is lower: by the
    mean of that shift, the resamples are moved back to the value. The interval is of the number as
    it is defined for this k, whose expectation is below that of the population for an entropy.

    Args:
      scores: of each image for each query.
      codes: of the images, -1 for unknown.
      value: counts of each resample, query and name to a number, such as the mean entropy.
      num_names: of the codes.
      k: images found that count.
      num: resamples.
      seed: of the draws.
      level: of the interval.

    Returns:
      The estimate; a note in place of a number where there are fewer than 2 k images: then the
      first k are most of the set, whose interval says nothing of a larger one.
    """
    n = len(codes)
    if n < 2 * k:
        note = f"not enough items: {n} images for a cut-off of {k}, at least {2 * k} are needed"
        return Estimate(np.nan, np.nan, np.nan, n, note)
    whole = shown_counts(scores, codes, num_names=num_names, k=k)[None].astype(np.float64)
    rng = np.random.default_rng(seed)
    times = resample_counts(rng, n, num)
    counts = weighted_counts(scores, codes, times, num_names=num_names, k=k)
    center, drawn = float(value(whole)[0]), value(counts)
    some = drawn[np.isfinite(drawn)]
    shift = center - some.mean() if len(some) else 0.0
    return percentile_estimate(center, drawn + shift, n, level)


def resample_counts(rng: np.random.Generator, n: int, num: int) -> Int[np.ndarray, "r n"]:
    """How often each of n images is drawn in each resample; whole numbers."""
    return rng.multinomial(n, np.full(n, 1 / n), size=num) if n < 1000 else _drawn(rng, n, num)


def weighted_counts(
    scores: Float[np.ndarray, "q n"],
    codes: Int[np.ndarray, " n"],
    times: Int[np.ndarray, "r n"],
    *,
    num_names: int,
    k: int,
) -> Float[np.ndarray, "r q g"]:
    """`shown_counts` of data in which image i stands times_i times, for each resample.

    ::

        take_i = clip(k - sum_{j before i} times_j, 0, times_i)
    """
    own = (codes[:, None] == np.arange(num_names)).astype(np.float64)
    found = np.zeros((len(times), len(scores), num_names))
    for q, row in enumerate(scores):
        reach = min(2 * k + 50, len(codes))  # ranks that nearly every resample needs to fill k
        order = top_of_scores(row[None], len(codes))[0]
        # Some resample has not filled k: then all ranks are looked at.
        if times[:, order[:reach]].sum(axis=1).min() < k:
            reach = len(codes)
        # Images in the order of the ranking, [resamples, ranks].
        drawn = times[:, order[:reach]]
        take = np.clip(k - (np.cumsum(drawn, axis=1) - drawn), 0, drawn)
        found[:, q] = take @ own[order[:reach]]
    return found


def _drawn(rng: np.random.Generator, n: int, num: int) -> Int[np.ndarray, "r n"]:
    """The multinomial by counting n drawn indices, faster than n binomials."""
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(num)])
