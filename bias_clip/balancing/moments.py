"""Measures the bias of a weighted sample: shares, associations, effective size, label drift.

All functions take columns of 1 (yes), 0 (no), -1 (unknown) and non-negative weights. For a count
table pass its columns and `weights * counts`; `effective_sample_size` takes them separately. If no
known row has weight, there is no share and the result is NaN, which does not mean "unbiased".

The names are the paper's. In this project's reading, its representation and association bias are the
largest absolute values returned here; the constraints imply it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8, Int64

_CHUNK = 1 << 18


class Association(NamedTuple):
    """Signed gaps per attribute and label, and the two shares of which each is the difference."""

    gap: Float[np.ndarray, "m c"]  # inside - outside
    inside: Float[np.ndarray, "m c"]  # share of the label where s_k = 1
    outside: Float[np.ndarray, "m c"]  # where s_k = 0


def representation_bias(
    attributes: Int8[np.ndarray, "n m"],
    targets: Float[np.ndarray, " m"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " m"]:
    """E_q[s_k | s_k known] - target_k per attribute; NaN if no known row has weight.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import representation_bias
      >>> representation_bias(np.int8([[1], [1], [0], [-1]]), np.array([0.5]), np.array([1, 1, 2, 9.0]))
      array([0.])
    """
    attributes = _columns("attributes", attributes)
    weights = _weights(weights, len(attributes))
    targets = np.asarray(targets, np.float64)
    if targets.shape != attributes.shape[1:]:
        raise ValueError(
            f"targets: got shape {targets.shape}; expected ({attributes.shape[1]},), one per attribute."
        )
    return prevalence(attributes, weights) - targets


def association_bias(
    attributes: Int8[np.ndarray, "n m"],
    labels: Int8[np.ndarray, "n c"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> Association:
    """E_q[y_r | s_k = 1] - E_q[y_r | s_k = 0], over the rows where both are known.

    NaN if a side has no weight. A balanced label that is unknown for some rows may keep a gap because
    the solver treats unknown as absent in E[q (s - target) y]. To close the gap, also balance "label
    is known" as a label.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import association_bias
      >>> association_bias(np.int8([[1], [1], [0], [0]]), np.int8([[1], [1], [1], [0]])).gap
      array([[0.5]])
    """
    attributes, labels = _columns("attributes", attributes), _columns("labels", labels)
    if len(attributes) != len(labels):
        raise ValueError(f"got {len(attributes)} rows of attributes and {len(labels)} of labels.")
    weights = _weights(weights, len(attributes))
    shape = (attributes.shape[1], labels.shape[1])
    have, known = np.zeros((2, 2, *shape))  # of each side of the attribute
    # In parts, because the comparisons below make eight bytes or more of each one-byte entry.
    for i in range(0, len(weights), _CHUNK):
        rows = slice(i, i + _CHUNK)
        y = labels[rows]
        for side in (0, 1):
            s = ((attributes[rows] == side) * weights[rows, None]).T
            have[side] += s @ (y == 1)
            known[side] += s @ (y >= 0)
    outside, inside = _share(have, known)
    return Association(inside - outside, inside, outside)


def effective_sample_size(
    weights: Float[np.ndarray, " n"], counts: Int64[np.ndarray, " n"] | None = None
) -> float:
    """(sum of weights)^2 / (sum of squared weights): the number of equal weights that vary as much.

    NaN if no row has weight. `counts`: the number of rows that each weight stands for.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import effective_sample_size
      >>> effective_sample_size(np.array([1.0, 1.0, 0.0, 0.0]))
      2.0
    """
    weights = _weights(weights, len(np.asarray(weights)))
    counts = np.ones(len(weights)) if counts is None else np.asarray(counts, np.float64)
    if counts.shape != weights.shape:
        raise ValueError(
            f"counts: got shape {counts.shape}; expected {weights.shape}, one per weight."
        )
    total, square = counts @ weights, counts @ weights**2
    return float(total**2 / square) if square > 0 else float("nan")


def prevalence_shift(
    labels: Int8[np.ndarray, "n c"],
    weights: Float[np.ndarray, " n"],
    counts: Int64[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " c"]:
    """E_q[y_r] - E[y_r] over the rows where y_r is known: how balancing changes the labels.

    M4 does not preserve the share of a label. NaN if no known row has weight.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import prevalence_shift
      >>> prevalence_shift(np.int8([[1], [0]]), np.array([3.0, 1.0]))
      array([0.25])
    """
    labels = _columns("labels", labels)
    weights = _weights(weights, len(labels))
    counts = np.ones(len(labels)) if counts is None else np.asarray(counts, np.float64)
    return prevalence(labels, weights * counts) - prevalence(labels, counts)


def prevalence(
    columns: Int8[np.ndarray, "n c"], weights: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " c"]:
    """E_q[y_r] of each column over the rows where it is known; NaN if none of them has weight."""
    columns = _columns("columns", columns)
    weights = _weights(weights, len(columns))
    have, known = np.zeros((2, columns.shape[1]))
    for i in range(0, len(weights), _CHUNK):
        rows = slice(i, i + _CHUNK)
        have += weights[rows] @ (columns[rows] == 1)
        known += weights[rows] @ (columns[rows] >= 0)
    return _share(have, known)


def _share(have: np.ndarray, known: np.ndarray) -> np.ndarray:
    # The inner `where` keeps 0 / 0 from warning in entries that become NaN anyway.
    return np.where(known > 0, have / np.where(known > 0, known, 1), np.nan)


def _columns(what: str, columns: np.ndarray) -> np.ndarray:
    columns = np.asarray(columns)
    good = columns.ndim == 2 and columns.dtype.kind in "biu"
    if not good or (columns.size and not (columns.min() >= -1 and columns.max() <= 1)):
        raise ValueError(
            f"{what}: got {columns.dtype}{list(columns.shape)}; expected [rows, columns] of 1, 0, or "
            "-1 for unknown."
        )
    return columns


def _weights(weights: np.ndarray | None, rows: int) -> Float[np.ndarray, " n"]:
    if weights is None:
        return np.ones(rows)
    weights = np.asarray(weights, np.float64)
    if weights.shape != (rows,):
        raise ValueError(f"weights: got shape {weights.shape}; expected ({rows},), one per row.")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            "weights: got negative or non-finite values; expected finite numbers of 0 or more."
        )
    return weights
