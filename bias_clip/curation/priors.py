"""Estimates the prior of the debiased losses: the chance that another example is of the same class.

A negative of a pair that is of the same class is a false negative. The debiased losses correct for them by
this chance, one number per example. How the authors of sample-specific debiasing estimate it is not known
to us; these are estimators of this project. Real captions have no classes, so each stands for something
else, and each has a bias, measured by `python -m tools.bench priors` on data whose classes are known:

    labels      share of the same labels      exact where labels are the classes; examples without a label
                                              get 0, and labels coarser than the loss's classes give too much
    clusters    share of the same cluster     about 1 / k: too little with more clusters than classes, too much
                                              with fewer, and too even: k-means likes clusters of equal size
    neighbours  share of similar texts        too little above the similarity within classes, too much below
                                              that between them; in between nearly exact
    copies      share of copies               a lower bound: only copies count, and a class has other members
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from bias_clip.data.records import text_array
from bias_clip.data.stream.columns import shares
from bias_clip.data.tables import KEY, read_table, write_table
from bias_clip.data.tables.embeddings import Embeddings, check_finite, chunks
from bias_clip.data.tables.table import read_kind

KIND, PRIOR = "priors", "prior"
MOST = 0.5  # the correction divides by one minus the prior
_ROWS = 4096


def label_priors(
    path: str | Path, labels: Sequence[str], *, most: float = MOST
) -> dict[str, np.ndarray]:
    """Priors from columns of a table: the class of an example is all of its labels together.

    Args:
      labels: columns of 1, 0 and -1, as in annotations; or one column of names or numbers.

    Raises: ValueError for a column that the table does not have.
    """
    table = read_table(path, kind=read_kind(path))
    missing = [name for name in labels if name not in table.columns]
    if missing or not labels:
        raise ValueError(f"{path} has no columns {missing}, it has {sorted(table.columns)}.")
    values = table.columns[labels[0]]
    if len(labels) > 1:
        # [n, labels]; an example's class is the set of its labels, as text.
        has = np.stack([table.columns[name] == 1 for name in labels], axis=1)
        values = text_array([" & ".join(np.asarray(labels)[row]) for row in has])
    elif read_kind(path) == "annotations":  # "no" is not a class
        values = np.where(values == 1, 1, -1)
    return {KEY: table.columns[KEY], PRIOR: shares(values, most=most)}


def neighbour_priors(
    embeddings: Embeddings,
    *,
    threshold: float,
    modality: str = "text",
    sample: int = 4096,
    seed: int = 0,
    most: float = MOST,
) -> dict[str, np.ndarray]:
    """Priors from embeddings: the share of other examples whose cosine is at least `threshold`.

    The share is measured on a seeded sample of the others: its standard error is sqrt(p (1 - p) / sample).

    Raises: ValueError for a modality without embeddings, embeddings that are not finite, or a wrong number.
    """
    if sample < 1 or not -1 <= threshold <= 1:
        raise ValueError(
            f"got {sample=}, {threshold=}; expected at least 1, and a cosine from -1 to 1."
        )
    rows = len(embeddings.ids)
    chosen = np.sort(np.random.default_rng(seed).choice(rows, min(sample, rows), replace=False))
    next(chunks(embeddings, modality, 1))  # says which modalities there are
    whole = embeddings.image if modality == "image" else embeddings.text
    assert whole is not None
    others = np.asarray(whole[chosen], np.float32)
    check_finite(modality, np.asarray(embeddings.ids)[chosen].tolist(), others)
    found = [
        (part @ others.T >= threshold).sum(axis=1) for part in chunks(embeddings, modality, _ROWS)
    ]
    near = np.concatenate(found)
    own = np.zeros(rows, np.int64)
    own[chosen] = 1  # an example is not another example of its own class
    total = len(chosen) - own
    near = near - own  # its cosine with itself is 1
    prior = np.where(total > 0, near / np.maximum(total, 1), 0.0)
    return {KEY: np.asarray(embeddings.ids), PRIOR: np.clip(prior, 0, most).astype(np.float32)}


def copy_priors(
    path: str | Path, column: str = "near_copies", *, most: float = MOST
) -> dict[str, np.ndarray]:
    """Priors from a table of measures: the share of the other examples that are copies.

    Raises: ValueError for a table without the column, such as one that did not measure it.
    """
    table = read_table(path, kind="measures")
    if column not in table.columns:
        raise ValueError(f"{path} has no {column!r}, it has {sorted(table.columns)}.")
    copies = table.columns[column].astype(np.float64)
    prior = (copies - 1) / max(1, len(copies) - 1)
    return {KEY: table.columns[KEY], PRIOR: np.minimum(prior, most).astype(np.float32)}


def cluster_priors(path: str | Path, *, most: float = MOST) -> dict[str, np.ndarray]:
    """Priors from a table of cells, as `bias-clip cluster` writes it.

    Raises: ValueError as `read_table`.
    """
    table = read_table(path, kind="cells")
    return {KEY: table.columns[KEY], PRIOR: shares(table.columns["cluster"], most=most)}


def write_priors(
    path: str | Path, found: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the table of priors, which `data.columns.prior=dict(table=...)` reads."""
    return write_table(path, found, {"kind": KIND, "estimator": dict(about)})


def describe_priors(prior: Float32[np.ndarray, " n"]) -> dict[str, float]:
    """Mean, quantiles and the share without a correction."""
    values: Float[np.ndarray, " n"] = prior.astype(np.float64)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {
        "mean": float(values.mean()),
        "10 %": float(low),
        "median": float(middle),
        "90 %": float(high),
        "most": float(values.max()),
        "without": float((values == 0).mean()),
    }
