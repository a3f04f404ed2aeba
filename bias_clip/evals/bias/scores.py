"""Bias computed from embeddings: preferences between prompts, and gaps between groups."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.ranking import best_ranks, similarity


class Share(NamedTuple):
    """A mean of `num_images` zeros, halves and ones with its 95 % interval; NaN without images."""

    value: float
    low: float
    high: float
    num_images: int


class Gaps(NamedTuple):
    """Differences between the groups, one per role; NaN if a group has too few images."""

    gap: Float[np.ndarray, " k"]
    probability: Float[np.ndarray, " k"]
    recall: float
    by_chance: float


def preference(
    zimg: Float[np.ndarray, "n d"], prompts: Float[np.ndarray, "n 2 d"]
) -> Float[np.ndarray, " n"]:
    """1 if the image is nearer to its second prompt, 0 if nearer to the first, 1/2 for a tie.

    So swapping the prompts turns each value v into 1 - v. Scale, bias and loss do not matter.
    """
    first, second = _pair_scores(zimg, prompts)
    return np.where(second > first, 1.0, np.where(second < first, 0.0, 0.5))


def preference_probability(
    zimg: Float[np.ndarray, "n d"], prompts: Float[np.ndarray, "n 2 d"], *, scale: float
) -> Float[np.ndarray, " n"]:
    """The softmax over the two prompts of scale * cosine, for the second prompt."""
    first, second = (scores.astype(np.float64) for scores in _pair_scores(zimg, prompts))
    return (
        1 + np.tanh(scale * (second - first) / 2)
    ) / 2  # this form of the logistic cannot overflow


def share(values: Float[np.ndarray, " n"]) -> Share:
    """The mean with Wilson's interval, which assumes that images are independent draws.

    Images of one concept are not independent, so the true uncertainty is larger.
    """
    n, z = len(values), 1.96
    if n == 0:
        return Share(np.nan, np.nan, np.nan, 0)
    p = float(values.mean())
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    return Share(p, float(centre - half), float(centre + half), n)


def association_gaps(
    zimg: Float[np.ndarray, "n d"],
    zroles: Float[np.ndarray, "k d"],
    roles: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    scale: float,
    min_count: int = 5,
    seed: int = 0,
) -> Gaps:
    """Does the model recognise a role in one group more often than in the other?

    ::

        hit_i  = image i is nearest to the prompt of its own role, among the prompts of all k roles
        gap_r  = mean of hit over the images of role r and group 1 - the same over group 0

    `probability` is the same with softmax(scale * cosine)[own role] instead of hit.

    Args:
      zimg: images of people in roles, of either group.
      zroles: one prompt per role that names neither group.
      roles: role of each image.
      groups: group of each image, 0 or 1.
      scale: scale of the softmax; gaps of hits do not depend on it.
      min_count: roles with fewer images in either group are NaN.
      seed: seed of `by_chance`.

    Returns:
      gap and probability; recall: the mean hit over all images; by_chance: the mean |gap| over roles
      if the images of each role were assigned to the groups at random (200 times). For few images
      |gap| is never 0 on average, so compare the mean |gap| with by_chance. It assumes independent
      images; emoji that differ only in tone are not independent, so a fair model may exceed it.
    """
    hits = best_ranks(zimg, zroles, np.arange(len(zimg)), roles) == 0
    logits = scale * similarity(zimg, zroles).astype(np.float64)
    # The softmax is the same, and exp cannot overflow at scales of 100 and more.
    logits -= logits.max(axis=1, keepdims=True)
    own = np.exp(logits[np.arange(len(zimg)), roles]) / np.exp(logits).sum(axis=1)
    counts = np.zeros((len(zroles), 2), int)
    # [k, 2]: images of each role and group.
    np.add.at(counts, (roles, groups), 1)
    enough = counts.min(axis=1) >= min_count
    gap, probability = (_cell_gaps(x, roles, groups, counts, enough) for x in (hits, own))
    # Weights make bincount a float; the hypergeometric draw needs integers.
    found = np.bincount(roles, hits, len(zroles)).astype(int)
    by_chance = _gap_by_chance(found[enough], counts[enough], seed)
    recall = float(hits.mean()) if len(hits) else float("nan")
    return Gaps(gap, probability, recall, by_chance)


def pair_gaps(
    zimg: Float[np.ndarray, "n d"],
    zroles: Float[np.ndarray, "k d"],
    groups: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "k k"]:
    """For each pair of prompts (a, b): share of group 1 that prefers a to b, minus that of group 0.

    A tie counts one half for each, so the matrix is antisymmetric and its diagonal is 0.
    """
    scores = similarity(zimg, zroles)
    gaps = np.zeros((len(zroles), len(zroles)))
    for a in range(len(zroles)):
        # One row at a time: all pairs of all images would take n * k * k numbers.
        # 1 for a win, 1/2 for a tie, 0 for a loss.
        wins = (np.sign(scores[:, a : a + 1] - scores) + 1) / 2
        gaps[a] = wins[groups == 1].mean(axis=0) - wins[groups == 0].mean(axis=0)
    return gaps


def _pair_scores(zimg: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # [n, 2, d]. Not a matrix product, whose rounding may depend on the shape.
    products = zimg[:, None].astype(np.float64) * prompts
    scores = products.sum(axis=2).astype(np.float32)  # rounded, so that equal prompts tie
    return scores[:, 0], scores[:, 1]


def _cell_gaps(
    values: np.ndarray,
    roles: np.ndarray,
    groups: np.ndarray,
    counts: np.ndarray,
    enough: np.ndarray,
) -> Float[np.ndarray, " k"]:
    sums = np.zeros(counts.shape)
    np.add.at(sums, (roles, groups), values)
    means = sums / np.maximum(counts, 1)
    return np.where(enough, means[:, 1] - means[:, 0], np.nan)


def _gap_by_chance(
    found: Int[np.ndarray, " k"], counts: Int[np.ndarray, "k 2"], seed: int
) -> float:
    """Mean |gap| when `found` hits per role fall on random images of it (hypergeometric)."""
    if not len(found):
        return float("nan")
    missed = counts.sum(axis=1) - found
    # The groups' sizes are fixed, so hits are drawn without replacement; a binomial would be too wide.
    draws = np.random.default_rng(seed).hypergeometric(
        found, missed, counts[:, 1], size=(200, len(found))
    )
    gaps = draws / counts[:, 1] - (found - draws) / counts[:, 0]
    return float(np.abs(gaps).mean())
