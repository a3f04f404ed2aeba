"""The result of one suite: numbers, and for each number that does not exist the reason."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bias_clip.evals.results import EvalResult

NOT_ENOUGH = "not enough items"


def suite_result(
    kind: str,
    metrics: Mapping[str, float],
    *,
    reasons: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> EvalResult:
    """Returns the metrics, with `details["not_enough"]`: metric to reason, one for each NaN.

    Args:
      kind: name of the family of suites, a key of `SUITE_DESCRIPTIONS`.
      metrics: NaN where a number does not exist.
      reasons: of some of them; the others have `NOT_ENOUGH` alone.
      details: what else there is, as JSON can hold it.
    """
    values = {key: float(value) for key, value in metrics.items()}
    given = {} if reasons is None else reasons
    # A reason is reported only where the number does not exist: callers may give reasons for all.
    missing = {key: given.get(key, NOT_ENOUGH) for key, v in values.items() if np.isnan(v)}
    return EvalResult(values, {"kind": kind, "not_enough": missing, **(details or {})})


def mean_of(values: np.ndarray) -> float:
    """The mean of the numbers that exist; NaN if there is none."""
    some = values[~np.isnan(values)]
    return float(some.mean()) if len(some) else float("nan")


def check_embeddings(**arrays: np.ndarray) -> None:
    """Raises ValueError unless all are finite matrices of one width."""
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    # The last axis is the width, whether an array is [n, d] or [c, t, d].
    if len({shape[-1:] for shape in shapes.values()}) != 1 or any(
        len(s) < 2 for s in shapes.values()
    ):
        raise ValueError(f"embeddings have shapes {shapes}; expected rows of one width.")
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"the embeddings {bad} are not all finite; expected numbers.")


def check_codes(codes: np.ndarray, num_items: int, num_names: int, what: str) -> None:
    """Raises ValueError unless there is one code for each item, -1 (unknown) to num_names - 1."""
    if len(codes) != num_items:
        raise ValueError(f"{len(codes)} codes of {what} for {num_items} items; expected one each.")
    if len(codes) and not (codes.min() >= -1 and codes.max() < num_names):
        raise ValueError(
            f"codes of {what} go from {codes.min()} to {codes.max()}; expected -1 (unknown) to "
            f"{num_names - 1}."
        )
