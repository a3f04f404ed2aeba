"""Who is among the first K images found? Counts, entropy and Bias@K."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from bias_clip.evals.ranking import top_of_scores

OTHERS = ("left_out", "second")
WEIGHTS = ("equal", "discounted")


def shown_counts(
    scores: Float[np.ndarray, "q n"], codes: Int[np.ndarray, " n"], *, num_names: int, k: int
) -> Int[np.ndarray, "q g"]:
    """How often each name is among the k images of the highest score, of all if there are fewer.

    Images of equal score come by rising index. Code -1 is in no name, but takes its place.
    """
    shown = codes[top_of_scores(scores, k)]
    return np.stack([(shown == g).sum(axis=1) for g in range(num_names)], axis=1)


def ties_at_cut(scores: Float[np.ndarray, "q n"], *, k: int) -> Bool[np.ndarray, " q"]:
    """Whether the k-th image has the score of the next: then the order of the table decided."""
    if k >= scores.shape[1]:
        return np.zeros(len(scores), bool)
    ranked = -np.sort(-scores, axis=1)
    return ranked[:, k - 1] == ranked[:, k]


def normalized_entropy(counts: Float[np.ndarray, "*q g"]) -> Float[np.ndarray, " *q"]:
    """Entropy of the shares, divided by the logarithm of the number of names.

    ::

        p_g = counts_g / sum counts;   entropy = -sum_{g: p_g > 0} p_g ln p_g / ln(number of names)

    1 if all names are shown equally often, 0 if only one is. Names that are not shown count in the
    divisor. NaN for one name, of which there is nothing to compare, and where nothing was counted.
    """
    number = counts.shape[-1]
    total = counts.sum(axis=-1, keepdims=True)
    p = counts / np.where(total > 0, total, np.nan)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    entropy = np.where(total[..., 0] > 0, -terms.sum(axis=-1), np.nan)
    # + 0.0 turns the minus zero of a single group into zero.
    return entropy / np.log(number) + 0.0 if number > 1 else np.full(entropy.shape, np.nan)


def bias_at_k(
    scores: Float[np.ndarray, "q n"],
    groups: Int[np.ndarray, " n"],
    *,
    ks: Sequence[int],
    others: str = "left_out",
    weights: str = "equal",
) -> Float[np.ndarray, "q k"]:
    """Bias@K of each query: (first - second) / (first + second) among the K images found first.

    ::

        first, second = images of group 0, of group 1, among the first K                    "equal"
        first - second = sum_i +-1 / log2(max(i, 2)) over their ranks i = 1, 2, ...    "discounted"

    where "discounted" still divides by the number of images, as the code of Kong et al. does.
    From -1 (only group 1 is shown) to 1 (only group 0); NaN where neither is shown. Images of equal
    score come by rising index; where K is above their number, all count.

    Args:
      scores: of each image for each query.
      groups: 0, 1, or -1 for an image of neither.
      ks: cut-offs, at least 1.
      others: "left_out" leaves images of neither group out; "second" counts them as group 1, as one
        of the two codes of Kong et al. does.
      weights: of the ranks.

    Raises:
      ValueError: a cut-off below 1, another `others` or `weights`.

    Reference: Wang, Liu, Wang: Are Gender-Neutral Queries Really Gender-Neutral? Mitigating Gender
    Bias in Image Search, 2021, equation 1.
    """
    if others not in OTHERS or weights not in WEIGHTS:
        raise ValueError(f"{others=}, {weights=}; expected {list(OTHERS)} and {list(WEIGHTS)}.")
    if not len(ks) or min(ks) < 1:
        raise ValueError(f"ks are {list(ks)}; expected cut-offs of 1 or more.")
    shown = groups[top_of_scores(scores, max(ks))]
    if others == "second":
        shown = np.where(shown == 0, 0, 1)
    ranks = np.arange(1, shown.shape[1] + 1)
    # max(i, 2): log2(1) is 0, so that the first rank counts as the second does.
    w = np.ones(len(ranks)) if weights == "equal" else 1 / np.log2(np.maximum(ranks, 2))
    # +1 for group 0, -1 for group 1, 0 for neither; its absolute value counts the people.
    sign = np.where(shown == 0, 1, np.where(shown == 1, -1, 0))
    # Cumulative sums are made once; each cut-off reads its column.
    columns = np.minimum(np.asarray(ks), len(ranks)) - 1
    difference = np.cumsum(w * sign, axis=1)[:, columns]
    number = np.cumsum(np.abs(sign), axis=1)[:, columns]
    return difference / np.where(number > 0, number, np.nan)
