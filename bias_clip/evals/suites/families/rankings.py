"""Resampled rankings: counts, skews and NDKL of the first K images, drawn ones standing several times."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.ranking import top_of_scores

BUDGET = 4e8  # places of rankings that are looked at: about ten seconds


class Taken(NamedTuple):
    """The first k places of one ranking in each resample; see `take_first`."""

    images: Int[np.ndarray, " m"]
    times: Int[np.ndarray, "r m"]


def affordable(num: int, *, queries: int, k: int, least: int = 200) -> int:
    """As many resamples as the budget of places allows, between `least` and `num`."""
    return min(num, max(least, int(BUDGET / max(queries * k, 1))))


def take_first(scores: Float[np.ndarray, " n"], times: Int[np.ndarray, "r n"], *, k: int) -> Taken:
    """The images among the first k of each resample, best first, and how often each stands there.

    ::

        take_i = clip(k - sum_{j before i} times_j, 0, times_i)
    """
    order = top_of_scores(scores[None], len(scores))[0]
    reach = min(2 * k + 50, len(scores))  # ranks that nearly every resample needs to fill k
    if times[:, order[:reach]].sum(axis=1).min(initial=k) < k:
        reach = len(scores)
    drawn = times[:, order[:reach]]
    return Taken(order[:reach], np.clip(k - (np.cumsum(drawn, axis=1) - drawn), 0, drawn))


def first_counts(
    taken: Taken, codes: Int[np.ndarray, " n"], *, num_names: int
) -> Float[np.ndarray, "r g"]:
    """How often each name is among the first k of each resample; code -1 is in no name."""
    own = (codes[taken.images, None] == np.arange(num_names)).astype(np.float64)
    return taken.times @ own


def first_codes(taken: Taken, codes: Int[np.ndarray, " n"], *, k: int) -> Int[np.ndarray, "r k"]:
    """The code at each of the first k places of each resample.

    Every resample must fill k places, as it does where k is at most the number of images.
    """
    r, m = taken.times.shape
    # Image i of resample r as often as it is taken; each resample has k places, hence [r, k].
    places = np.repeat(np.tile(np.arange(m), r), taken.times.ravel()).reshape(r, k)
    return codes[taken.images][places]


def ndkl_of_codes(
    codes: Int[np.ndarray, "r k"], targets: Float[np.ndarray, "r g"]
) -> Float[np.ndarray, " r"]:
    """NDKL of each row of codes against its targets; see `ranking_skews`.

    ::

        KL_i = sum_g (c_g / i) (ln (c_g / i) - ln q_g),   c_g the count of g among the first i
    """
    r, k = codes.shape
    i = np.arange(1, k + 1)
    counts_log = np.concatenate([[0.0], i * np.log(i)])  # c ln c, looked up: c is a whole number
    # sum_g (c_g / i) ln (c_g / i) = (sum_g c_g ln c_g) / i - ln i, since the counts sum to i.
    kl = np.tile(-np.log(i), (r, 1))
    with np.errstate(divide="ignore"):
        log_q = np.where(targets > 0, np.log(np.where(targets > 0, targets, 1)), 0.0)
    for g in range(targets.shape[1]):
        seen = np.cumsum(codes == g, axis=1)
        kl += (counts_log[seen] - seen * log_q[:, g : g + 1]) / i
    discount = 1 / np.log2(i + 1)
    return kl @ discount / discount.sum()


def skew_extremes(
    counts: Float[np.ndarray, "*r g"], targets: Float[np.ndarray, "*r g"]
) -> tuple[Float[np.ndarray, " *r"], Float[np.ndarray, " *r"]]:
    """Max and min over groups of ln(share among the first k / target); a group without one is NaN.

    The minimum does not exist where a group is not among the first k.
    """
    total = counts.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.log(counts / total) - np.log(targets)
    skew = np.where(targets > 0, skew, np.nan)
    there = np.isfinite(skew)
    high = np.where(there, skew, -np.inf).max(axis=-1)
    low = np.where(np.isneginf(skew).any(axis=-1), np.nan, np.where(there, skew, np.inf).min(-1))
    return np.where(np.isfinite(high), high, np.nan), low
