"""Is the training data of a model biased? Representation and association bias of weighted records."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.balancing import effective_sample_size
from bias_clip.data.sources import Source, column
from bias_clip.evals.bias.group_columns import Groups, known, read_groups
from bias_clip.evals.bias.groups import group_sizes, group_sums
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.quality.zeroshot import distinct_names, label_pairs
from bias_clip.evals.results import EvalResult, or_none

DESCRIPTION = Description(
    "data",
    "Of the data, not of the model: {groups} in {images} records, and how far the share of a label "
    "differs between a group and the others ({labels} labels).",
    {
        "representation": Metric(
            "representation bias of the data",
            "points",
            "lower",
            True,
            even=0.0,
            chart="",
            short="representation bias",
        ),
        "association_max": Metric(
            "gap between the groups, largest",
            "points",
            "lower",
            True,
            even=0.0,
            chart="",
            short="largest gap",
        ),
        "association_mean": Metric(
            "gap between the groups, mean over labels",
            "points",
            "lower",
            even=0.0,
            chart="",
            short="mean gap",
        ),
        "ess": Metric("effective share of the records", "share", "higher"),
        "labels": count("labels"),
        "groups": count("groups"),
        "absent": count("groups without a record"),
        "images": count("records"),
        "masked": count("records of no group"),
    },
)


class DataBias(NamedTuple):
    """First and second moments of groups and labels; see `data_bias`."""

    prevalence: Float[np.ndarray, " g"]
    rates: Float[np.ndarray, "g c"]
    gaps: Float[np.ndarray, "g c"]


def data_bias(
    groups: Int[np.ndarray, " n"],
    records: Int[np.ndarray, " p"],
    labels: Int[np.ndarray, " p"],
    *,
    num_groups: int,
    num_labels: int,
    weights: Float[np.ndarray, " n"] | None = None,
) -> DataBias:
    """The weighted frequency of each group, and of each label within it.

    ::

        prevalence_g = P(group g | the group is known)
        rates_gr     = P(label r | group g)
        gaps_gr      = P(label r | group g) - P(label r | another known group)

    Representation bias is max_g |target_g - prevalence_g|, association bias max_gr |gaps_gr|. Of
    two groups, gaps[1] is the second minus the first, and gaps[0] the opposite.

    Args:
      groups: group of each record; -1 is unknown and does not enter any of the three results.
      records: pair (records[p], labels[p]) means that the record has the label. A record may have
        several labels or none; no pair may occur twice.
      labels: see records.
      num_groups: number of groups; one without weight has prevalence 0 and otherwise NaN.
      num_labels: number of labels.
      weights: relative exposure of each record; None for equal weights.

    Reference: the constraints E[q (s - pi)] = 0 and E[q (s - pi) y] = 0 of Alabdulmohsin et al.:
      CLIP the Bias, 2024, hold for weights q exactly when both biases are 0 with targets pi.
    """
    w = np.ones(len(groups)) if weights is None else np.asarray(weights, np.float64)
    mass = group_sums(np.ones(len(groups)), groups, num_groups=num_groups, weights=w).total
    joint = np.zeros((num_groups, num_labels))
    # np.add.at would take group -1 as the last group.
    inside = groups[records] >= 0
    of_pairs = groups[records[inside]], labels[inside]
    np.add.at(joint, of_pairs, w[records[inside]])
    # A group without weight has no rates: NaN, and not 0, which would look like a gap.
    rates = joint / np.where(mass > 0, mass, np.nan)[:, None]
    others = mass.sum() - mass
    # The other groups are all minus this one, so that no second pass over the pairs is needed.
    elsewhere = (joint.sum(axis=0) - joint) / np.where(others > 0, others, np.nan)[:, None]
    total = mass.sum()
    prevalence = mass / total if total > 0 else np.full(num_groups, np.nan)
    return DataBias(prevalence, rates, rates - elsewhere)


def make_data_bias(
    source: Source,
    *,
    by: str | Sequence[str],
    label: str,
    groups: Sequence[Any] | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
    separator: str | None = None,
    weights: str | Float[np.ndarray, " n"] | None = None,
    targets: Sequence[float] | None = None,
    num_rows: int = 50,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: the bias of the source's columns; images are not read.

    Pass the source of training, with its variant, and the column of the weights that training
    applies. Then it is the bias of the training data, with which the bias of the model can be
    compared.

    Metrics: representation = max |target - prevalence| over groups; association_max and _mean of
    |gap| over groups and labels, see `data_bias`; ess, the effective share of the records,
    (sum w)^2 / (n sum w^2); labels, groups, absent, images, masked. `details` contains prevalences,
    and the labels with the largest gaps and their signs.

    Args:
      source: records with the columns.
      by: one or several columns of the groups.
      label: column of labels; the empty string and negative numbers mean no label.
      groups: see `read_groups`.
      only: the records to use, see `rows_where`.
      separator: splits the strings of the column into several labels.
      weights: column of numbers of 0 or more, or the numbers; None for equal weights. With those of
        `count_exposure` it is the bias of the examples that a run trained on.
      targets: target prevalence of each group; None for equal prevalences.
      num_rows: number of labels in `details`.

    Raises:
      ValueError: what `read_groups` raises; targets that are not one per group with sum 1, negative
        weights, or no labels.
    """
    found = read_groups(source, by, groups, only)
    size = len(found.names)
    wanted = np.full(size, 1 / size) if targets is None else np.asarray(targets, np.float64)
    if len(wanted) != size or not (wanted >= 0).all() or abs(wanted.sum() - 1) > 1e-6:
        raise ValueError(f"targets are {targets} for {found.names}; expected shares of sum 1.")
    values = column(source, label)
    rows = np.flatnonzero(known(values) & (found.of_record >= 0))
    if not len(rows):
        raise ValueError(f"no record of the groups {found.names} has a {label!r} that is known.")
    spelt = values[rows].astype(str)
    names = distinct_names(spelt, label, str, separator)
    # A record that names a label twice has it once.
    pairs = np.unique(np.stack(label_pairs(spelt, names, str, separator)), axis=1)
    w = _weights(source, weights)
    shape = {"num_groups": size, "num_labels": len(names)}
    bias = data_bias(found.of_record, rows[pairs[0]], pairs[1], weights=w, **shape)
    result = EvalResult(
        _metrics(bias, wanted, w[found.of_record >= 0]) | group_sizes(found),
        _details(bias, wanted, found, names, num_rows),
    )
    # Of the data alone: computed once, and the same for every checkpoint.
    return lambda encode: result


def _weights(
    source: Source, weights: str | Float[np.ndarray, " n"] | None
) -> Float[np.ndarray, " n"]:
    if weights is None:
        return np.ones(len(source))
    values = column(source, weights) if isinstance(weights, str) else np.asarray(weights)
    if values.shape != (len(source),):
        raise ValueError(f"got weights of shape {values.shape} for {len(source)} records.")
    return values.astype(np.float64)


def _metrics(bias: DataBias, targets: np.ndarray, w: np.ndarray) -> dict[str, float]:
    sizes = np.abs(bias.gaps[np.isfinite(bias.gaps)])
    return {
        "representation": float(np.abs(targets - bias.prevalence).max()),
        "association_max": float(sizes.max()) if len(sizes) else float("nan"),
        "association_mean": float(sizes.mean()) if len(sizes) else float("nan"),
        "ess": effective_sample_size(w) / len(w),
        "labels": float(bias.gaps.shape[1]),
    }


def _details(
    bias: DataBias, targets: np.ndarray, found: Groups, names: Sequence[str], num_rows: int
) -> dict[str, Any]:
    groups = [
        {"name": name, "prevalence": or_none(p), "target": float(t), "count": int(count)}
        for name, p, t, count in zip(
            found.names, bias.prevalence, targets, found.counts, strict=True
        )
    ]
    # Stable, so that equal gaps stay in the order of the names.
    largest = np.argsort(-np.nan_to_num(np.abs(bias.gaps)).max(axis=0), kind="stable")[:num_rows]
    labels = [
        {
            "name": names[r],
            "rates": [or_none(rate) for rate in bias.rates[:, r]],
            "gaps": [or_none(gap) for gap in bias.gaps[:, r]],
        }
        for r in largest
    ]
    return {"kind": "data_bias", "by_group": groups, "labels": labels}
