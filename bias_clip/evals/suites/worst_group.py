"""The worst group of a classification: Dollar Street, GeoDE, Waterbirds, CelebA."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from bias_clip.evals.bias.groups import across_groups, group_means
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.ranking import score_ranks
from bias_clip.evals.results import EvalResult, or_none
from bias_clip.evals.suites.result import NOT_ENOUGH, suite_result

DESCRIPTION = Description(
    "bias",
    "Accuracy of the worst of {groups} groups beside that of all images; groups without images "
    "are left out.",
    {
        "acc_worst": Metric("accuracy, worst group", "share", "higher", True, "chance", chart=""),
        "acc": Metric("accuracy, all images", "share", "higher", True, "chance", chart=""),
        "acc_range": Metric("accuracy, best group minus worst", "points", "lower", even=0.0),
        "acc_adjusted": Metric("accuracy, groups as frequent as in training", "share", "higher"),
        "acc_of_{group}": Metric("accuracy, {group}", "share", "higher"),
        "images_of_{group}": count("images, {group}"),
        "chance": Metric("accuracy by chance", "share"),
        "groups": count("groups"),
        "absent": count("groups without an image"),
        "images": count("images"),
    },
)


def top_hits(
    scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], *, top: int
) -> Bool[np.ndarray, " n"]:
    """Whether the label is among the `top` best classes, equal ones by rising index."""
    return score_ranks(scores, np.arange(len(labels)), labels) < top


def group_codes(column: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """A column of metadata as codes.

    Raises:
      ValueError: a value that is not a whole number of 0 or more; the official code cuts fractions.
    """
    values = np.asarray(column, np.float64)
    # NaN fails the comparison, so it is among the wrong ones.
    wrong = values[~((values >= 0) & (values == np.floor(values)))]
    if len(wrong):
        raise ValueError(
            f"the group column holds {wrong[0]}, and {len(wrong)} such values in all; expected codes "
            "0, 1, 2, ...: give the right column, or round the values yourself."
        )
    return values.astype(np.int64)


def worst_group(
    hits: Bool[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    names: Sequence[str],
    chance: float,
    train_counts: Sequence[int] | None = None,
    min_count: int = 1,
    official: bool = False,
) -> EvalResult:
    """Accuracy in all, by group, and of the worst group with at least `min_count` images.

    Args:
      hits: whether each image is classified right.
      groups: of the images, into `names`; -1 for none.
      names: of all published groups, those without images too.
      chance: accuracy of a random guess.
      train_counts: of each group, which weight `acc_adjusted`; by default over the groups that have
        images.
      min_count: images that a group needs.
      official: `acc_adjusted` does not exist if a group has no image, as in the code of WILDS.
    """
    # All published groups, also those without images: `absent` counts them.
    means = group_means(hits, groups, num_groups=len(names))
    across = across_groups(means, min_count=min_count, shares=train_counts)
    absent = int(np.sum(means.num_rows == 0))
    metrics = {"acc": float(hits.mean()) if len(hits) else np.nan, "acc_worst": across.worst}
    metrics["acc_range"] = across.range
    if train_counts is not None:
        # WILDS weights by the training counts of all groups, one of which has no accuracy here.
        metrics["acc_adjusted"] = np.nan if official and absent else across.adjusted
    enough = np.where(means.num_rows >= max(min_count, 1), means.mean, np.nan)
    metrics |= {f"acc_of_{name}": float(m) for name, m in zip(names, enough, strict=True)}
    sizes = {f"images_of_{name}": float(m) for name, m in zip(names, means.num_rows, strict=True)}
    metrics |= sizes | {"chance": chance, "groups": float(len(names)), "absent": float(absent)}
    metrics["images"] = float(len(hits))
    reasons = {
        f"acc_of_{name}": f"{NOT_ENOUGH}: {number} images"
        for name, number in zip(names, means.num_rows, strict=True)
    }
    worst = names[across.worst_group] if across.worst_group >= 0 else None
    rows = [
        {"name": name, "acc": or_none(value), "count": int(number)}
        for name, value, number in zip(names, enough, means.num_rows, strict=True)
    ]
    details = {"worst": worst, "by_group": rows, "official": official}
    return suite_result("worst_group", metrics, reasons=reasons, details=details)
