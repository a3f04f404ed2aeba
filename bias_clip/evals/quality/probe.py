"""A linear probe: how well does a linear classifier predict an attribute from image embeddings?"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.data.records import as_array, missing
from bias_clip.data.sources import Source, column
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.results import EvalResult

DESCRIPTION = Description(
    "features",
    "A linear classifier on the embeddings, of {classes} classes.",
    {
        "acc1": Metric("accuracy", "share", "higher", True, "chance", chart=""),
        "class_recall": Metric(
            "recall, mean over classes", "share", "higher", chart="", short="mean recall"
        ),
        "chance": Metric("accuracy of the most frequent class", "share"),
        "penalty": Metric("penalty of the classifier", "number"),
        "classes": count("classes"),
        "unseen": Metric("images of a class that was not fitted", "share"),
    },
)


class Ridge(NamedTuple):
    """A linear classifier: the class of z is the argmax of z @ weights + intercept."""

    weights: Float[np.ndarray, "d c"]
    intercept: Float[np.ndarray, " c"]


class _Moments(NamedTuple):
    mean: np.ndarray
    target_mean: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    cross: np.ndarray


def fit_ridge(
    z: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    num_classes: int,
    penalty: float,
) -> Ridge:
    """Least squares on targets +1 for the class and -1 for the others, in float64.

    ::

        minimise  sum_i ||z_i @ weights + intercept - y_i||^2 + penalty * ||weights||^2

    The intercept has no penalty. The solution has a closed form and is deterministic. Its predictions
    equal those of scikit-learn's RidgeClassifier(alpha=penalty).
    """
    return _solve(_moments(z, labels, num_classes), penalty)


def predict(z: Float[np.ndarray, "n d"], ridge: Ridge) -> Int[np.ndarray, " n"]:
    """The class of each row; ties go to the smaller number."""
    return np.argmax(z.astype(np.float64) @ ridge.weights + ridge.intercept, axis=1)


def choose_penalty(
    z: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    num_classes: int,
    penalties: Sequence[float],
    seed: int,
    held_out: float = 0.2,
) -> float:
    """The penalty with the best accuracy on held-out rows; ties go to the largest penalty."""
    order = np.random.default_rng(seed).permutation(len(z))
    # At least one row is held out, also of a source of two or three.
    test, train = np.split(order, [max(1, round(held_out * len(z)))])
    moments = _moments(z[train], labels[train], num_classes)
    # One decomposition serves all penalties: each costs only a product.
    hits = {p: np.mean(predict(z[test], _solve(moments, p)) == labels[test]) for p in penalties}
    # Of equal ones the largest: the simplest classifier that does as well.
    return max(penalties, key=lambda penalty: (hits[penalty], penalty))


def make_probe(
    source: Source,
    *,
    train_source: Source,
    label: str,
    penalties: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3),
    seed: int = 0,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: a ridge classifier fitted on one source, evaluated on another.

    Metrics: acc1, class_recall, chance (accuracy of always predicting the most frequent class of
    train_source), penalty, classes, unseen (share of images whose class is not in train_source; they
    count as wrong).

    Args:
      source: images to evaluate.
      train_source: images to fit. One fifth of them chooses the penalty; then all are fitted.
      label: column of the classes, in both sources; images without a label are left out.
      penalties: positive candidates, for unit-norm embeddings and squares summed over rows.
      seed: chooses the fifth.

    Raises:
      ValueError: penalties that are not positive, a column with a single class, fewer than 2 rows.
    """
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties are {penalties}; expected at least one, all positive.")
    fitted, train_values = _labelled(train_source, label)
    classes, train = np.unique(train_values, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"column {label!r} holds only {classes.tolist()}; expected two classes.")
    judged, values = _labelled(source, label)
    seen = np.isin(values, classes)
    # -1 is not a prediction, so classes that were never fitted count as wrong.
    # searchsorted gives a place also for a value that is not there, hence `seen`.
    truth = np.where(seen, np.searchsorted(classes, values), -1)
    frequent = np.bincount(train).argmax()

    def evaluate(encode: Encode) -> EvalResult:
        z, shape = encode.images(train_source)[fitted], {"num_classes": len(classes)}
        penalty = choose_penalty(z, train, penalties=penalties, seed=seed, **shape)
        ridge = fit_ridge(z, train, penalty=penalty, **shape)
        right = predict(encode.images(source)[judged], ridge) == truth
        metrics = {
            "acc1": float(right.mean()),
            "class_recall": float(np.mean([right[values == v].mean() for v in np.unique(values)])),
            "chance": float(np.mean(truth == frequent)),
            "penalty": float(penalty),
            "classes": float(len(classes)),
            "unseen": float(np.mean(~seen)),
        }
        return EvalResult(metrics, {"kind": "probe"})

    return evaluate


def _labelled(source: Source, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows that have a label, and their labels."""
    values = column(source, label)
    rows = np.flatnonzero(~missing(values, codes=True))
    known = values[rows]
    if not len(rows):
        raise ValueError(f"no record has a {label!r}; expected some labels.")
    return rows, as_array(known.tolist(), label) if known.dtype == object else known


def _moments(z: np.ndarray, labels: np.ndarray, num_classes: int) -> _Moments:
    """The statistics that the solution needs for every penalty, without the n x c target matrix."""
    if len(z) < 1:
        raise ValueError("no rows are left to fit; expected a train_source of at least 2 records.")
    mean = z.mean(axis=0, dtype=np.float64)
    centred = z - mean
    # Targets are 2 * onehot - 1; of centred rows the constant drops out, so sums per class suffice.
    sums = np.zeros((num_classes, z.shape[1]))
    np.add.at(sums, labels, centred)
    share = np.bincount(labels, minlength=num_classes) / len(z)
    # (V diag(e) V^T + penalty I)^-1 is V diag(1 / (e + penalty)) V^T, for every penalty.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return _Moments(mean, 2 * share - 1, values, vectors, vectors.T @ (2 * sums.T))


def _solve(moments: _Moments, penalty: float) -> Ridge:
    # Rounding leaves eigenvalues slightly below 0; with a small penalty they would change sign.
    damped = np.maximum(moments.values, 0)[:, None] + penalty
    weights = moments.vectors @ (moments.cross / damped)
    return Ridge(weights, moments.target_mean - moments.mean @ weights)
