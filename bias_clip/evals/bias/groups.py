"""Is a model as good for every group as on average? Accuracy per group and of the worst group."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from bias_clip.data.sources import Source, column
from bias_clip.data.text import canonicalize
from bias_clip.evals.bias.group_columns import Groups, known, read_groups
from bias_clip.evals.bias.scores import share
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.prompts import prompt_embeddings, word_prompts
from bias_clip.evals.quality.zeroshot import distinct_names, label_pairs, one_class_each
from bias_clip.evals.ranking import best_ranks
from bias_clip.evals.results import EvalResult, or_none

GROUP_SIZES = {  # of all evaluators by group, see `group_sizes`
    "groups": count("groups"),
    "absent": count("groups without an image"),
    "images": count("images"),
    "masked": count("images of no group"),
}
DESCRIPTION = Description(
    "bias",
    "Images called by their own name, by group ({groups}); the best group is {acc_range} above the "
    "worst.",
    {
        "acc_worst": Metric(
            "accuracy, worst group", "share", "higher", True, chart="accuracy", short="worst group"
        ),
        "acc": Metric(
            "accuracy, all images", "share", "higher", True, chart="accuracy", short="all images"
        ),
        "acc_mean": Metric(
            "accuracy, mean over groups",
            "share",
            "higher",
            chart="accuracy",
            short="mean over groups",
        ),
        "acc_range": Metric("accuracy, best group minus worst", "points", "lower", even=0.0),
        "acc_adjusted": Metric("accuracy, groups as frequent as in training", "share", "higher"),
        "acc_of_{group}": Metric(
            "accuracy, {group}", "share", "higher", chart="each group", short="{group}"
        ),
        **GROUP_SIZES,
    },
)


class GroupMeans(NamedTuple):
    """A mean and a number of rows per group; see `group_means`."""

    mean: Float[np.ndarray, " g *c"]
    num_rows: Int[np.ndarray, " g"]


class GroupSums(NamedTuple):
    """Weighted sums, weights and numbers of rows per group; see `group_sums`."""

    total: Float[np.ndarray, " g *c"]
    weight: Float[np.ndarray, " g"]
    num_rows: Int[np.ndarray, " g"]


class Across(NamedTuple):
    """Summary of the groups' means; NaN if there is no group, see `across_groups`."""

    worst: float
    worst_group: int
    mean: float
    range: float
    adjusted: float


def group_means(
    values: Shaped[np.ndarray, " n *c"],
    groups: Int[np.ndarray, " n"],
    *,
    num_groups: int,
    weights: Float[np.ndarray, " n"] | None = None,
) -> GroupMeans:
    """The weighted mean of each group's rows, in float64.

    ::

        mean_g = sum_{i: groups_i = g} weights_i values_i / sum_{i: groups_i = g} weights_i

    Rows of group -1 are left out. A group without rows or weight is absent: its mean is NaN and its
    num_rows 0, so it cannot be mistaken for a group with accuracy 0.

    Raises:
      ValueError: a group outside -1..num_groups-1, a weight that is negative.
    """
    total, weight, num_rows = group_sums(values, groups, num_groups=num_groups, weights=weights)
    # [g, 1, ...], to divide sums of any number of columns.
    weight = weight.reshape(-1, *(1,) * (total.ndim - 1))
    return GroupMeans(total / np.where(weight > 0, weight, np.nan), num_rows)


def group_sums(
    values: Shaped[np.ndarray, " n *c"],
    groups: Int[np.ndarray, " n"],
    *,
    num_groups: int,
    weights: Float[np.ndarray, " n"] | None = None,
) -> GroupSums:
    """The sums behind `group_means`; those of several blocks of rows can be added."""
    if len(groups) and not (groups.min() >= -1 and groups.max() < num_groups):
        raise ValueError(
            f"groups go from {groups.min()} to {groups.max()}; expected -1 (unknown) to "
            f"{num_groups - 1}."
        )
    w = np.ones(len(groups)) if weights is None else np.asarray(weights, np.float64)
    if not (w >= 0).all():
        raise ValueError(f"weights begin at {w.min()}; expected numbers that are 0 or more.")
    # Rows of weight 0 leave here and not by multiplication: NaN times 0 is NaN.
    rows = (groups >= 0) & (w > 0)
    values, groups, w = np.asarray(values, np.float64)[rows], groups[rows], w[rows]
    total = np.zeros((num_groups, *values.shape[1:]))
    np.add.at(total, groups, w.reshape(-1, *(1,) * (values.ndim - 1)) * values)
    weight = np.bincount(groups, w, minlength=num_groups)
    return GroupSums(total, weight, np.bincount(groups, minlength=num_groups))


def across_groups(
    means: GroupMeans,
    *,
    min_count: int = 1,
    shares: Sequence[float] | None = None,
) -> Across:
    """The worst group, the unweighted mean, and the distance of the best from the worst.

    Groups of fewer than `min_count` rows are left out of all four numbers.

    Args:
      means: one number per group.
      min_count: rows that a group needs, at least 1.
      shares: weights of the groups, such as their counts in training; they need not sum to 1.
        `adjusted` is the mean with these weights over the remaining groups; NaN without them.

    Returns:
      worst and its index (-1 for none; ties go to the first); mean; range; adjusted.

    Reference:
      Sagawa et al.: Distributionally Robust Neural Networks for Group Shifts, 2020: the worst of
      the groups, and the average re-weighted by training frequencies.
      Differs from common code: WILDS returns 0 for an empty group, and leaves it out of the minimum.
    """
    if shares is not None and (len(shares) != len(means.mean) or min(shares) < 0):
        raise ValueError(
            f"shares are {shares}; expected {len(means.mean)}, one per group, none < 0."
        )
    rows = np.flatnonzero(means.num_rows >= max(min_count, 1))
    if not len(rows):
        return Across(np.nan, -1, np.nan, np.nan, np.nan)
    values = means.mean[rows]
    # Shares of absent groups are left out, and the others rescaled by their sum.
    w = np.zeros(len(rows)) if shares is None else np.asarray(shares, np.float64)[rows]
    adjusted = float(values @ w / w.sum()) if w.sum() > 0 else float("nan")
    # The first of equal ones, so that the same numbers always name the same group.
    worst = int(values.argmin())
    spread = float(values.max() - values.min())
    return Across(float(values[worst]), int(rows[worst]), float(values.mean()), spread, adjusted)


def make_groups(
    source: Source,
    *,
    label: str,
    by: str | Sequence[str],
    groups: Sequence[Any] | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
    templates: str | Sequence[str] = "plain",
    classes: Sequence[str] | None = None,
    canonical: bool = True,
    top: int = 1,
    min_count: int = 1,
    shares: Sequence[float] | None = None,
    block_size: int | None = None,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: zero-shot accuracy by group, and of the worst group.

    Metrics: acc over all images in a group, acc_worst, acc_mean (over groups), acc_range,
    acc_adjusted (only with `shares`), acc_of_<group> for each group (NaN if absent), groups, absent
    (groups without an image), images, masked (images in no group). See `across_groups`.

    Args:
      source: images with the columns.
      label: column of class names, or of integers into `classes`. If it is empty or negative, the
        class is unknown and the image is left out.
      by: column of the groups, or several columns whose product they are: ("label", "background").
      groups: see `read_groups`.
      only: the records to use, see `rows_where`.
      templates: as in `make_zeroshot`.
      classes: names to choose from; None for the distinct values of `label`.
      canonical: as in `make_zeroshot`.
      top: an image is right if its class is among this many nearest classes.
      min_count: images that a group needs to count in worst, mean, range and adjusted.
      shares: weights of the groups in acc_adjusted.
      block_size: images scored at the same time; None for as many as fit in 32 MB of scores.

    Raises:
      ValueError: what `read_groups` and `make_zeroshot` raise; a `top` or `min_count` below 1.
    """
    if top < 1 or min_count < 1:
        raise ValueError(f"{top=}, {min_count=}; expected both to be at least 1.")
    values = column(source, label)
    # An image without a class cannot be right or wrong, so it is in no group.
    found = read_groups(source, by, groups, only, known(values))
    if shares is not None and len(shares) != len(found.names):
        raise ValueError(f"{len(shares)} shares for the groups {found.names}; expected one each.")
    form = canonicalize if canonical else str
    rows = found.of_record >= 0
    # The classes come from all records and not only from those in a group: dropping a group must not
    # make the task of the others easier.
    names = distinct_names(values[known(values)], label, form, None) if classes is None else classes
    targets = label_pairs(values[rows], names, form, None)[1]
    # Targets were found among the given names; here they become places among the distinct ones.
    names, place = one_class_each(names, form)
    targets = place[targets]
    prompts = [[form(text) for text in texts] for texts in word_prompts(names, templates)]

    def evaluate(encode: Encode) -> EvalResult:
        zcls = prompt_embeddings(encode, prompts)
        pairs = (np.arange(len(targets)), targets)
        right = best_ranks(encode.images(source)[rows], zcls, *pairs, block_size=block_size) < top
        means = group_means(right, found.of_record[rows], num_groups=len(found.names))
        across = across_groups(means, min_count=min_count, shares=shares)
        metrics = {"acc": float(right.mean()), "acc_worst": across.worst}
        metrics |= {"acc_mean": across.mean, "acc_range": across.range}
        if shares is not None:
            metrics["acc_adjusted"] = across.adjusted
        of_groups = zip(found.names, means.mean, strict=True)
        metrics |= {f"acc_of_{name}": float(mean) for name, mean in of_groups}
        return EvalResult(metrics | group_sizes(found), _details(found, right, across))

    return evaluate


def group_sizes(found: Groups) -> dict[str, float]:
    """The metrics groups, absent, images and masked, which all evaluators by group return."""
    images = int((found.of_record >= 0).sum())
    return {
        "groups": float(len(found.names)),
        "absent": float((found.counts == 0).sum()),
        "images": float(images),
        "masked": float(len(found.of_record) - images),
    }


def _details(found: Groups, right: np.ndarray, across: Across) -> dict[str, Any]:
    rows, index = [], found.of_record[found.of_record >= 0]
    for i, name in enumerate(found.names):
        own = share(right[index == i].astype(np.float64))
        value, low, high = (or_none(number) for number in own[:3])
        rows.append({"name": name, "acc": value, "low": low, "high": high, "count": own.num_images})
    worst = found.names[across.worst_group] if across.worst_group >= 0 else None
    return {"kind": "groups", "worst": worst, "by_group": rows}
