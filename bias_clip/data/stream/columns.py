"""What the batch holds of each record beside its picture and text: classes, attributes, priors, weights.

A column is computed once for the whole source and looked up by record while training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from bias_clip.data.records import Source, column

CODES = ("labels", "bias_labels", "cells")
WEIGHTS = "weights"  # also what a table of weights gives, see `balance`
NUMBERS = ("prior", WEIGHTS)
KEYS = (*CODES, *NUMBERS)
UNKNOWN = -1


def make_columns(source: Source, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Makes the arrays that batches are looked up in, one entry a record.

    Args:
      source: has the attributes that `columns` names.
      columns: what each batch key is made of.

        labels, bias_labels, cells   int32: the name of an attribute, see `codes`; or
                                     dict(attribute=..., values=(...)), where any other value than
                                     these is unknown
        prior                        float32 in [0, 1): the name of an attribute; or
                                     dict(share_of=..., most=0.5), see `shares`
        weights                      float32, at least 0: the name of an attribute

    Returns: the array of each key.
    Raises: ValueError for an unknown key or attribute, or values that the key cannot have.

        make_columns(source, dict(labels="concept", prior=dict(share_of="concept")))
    """
    unknown = sorted(set(columns) - set(KEYS))
    if unknown:
        raise ValueError(f"columns has {unknown}; a batch can hold {list(KEYS)}.")
    return {
        key: (_codes if key in CODES else _numbers)(source, key, wanted)
        for key, wanted in columns.items()
    }


def dtype_of(key: str) -> type:
    """Returns the type of a batch key's array."""
    return np.int32 if key in CODES else np.float32


def codes(values: np.ndarray, among: Sequence[Any] | None = None) -> Int32[np.ndarray, " n"]:
    """Numbers the values of an attribute: 0, 1, ... in their own order; -1 for an unknown one.

    Args:
      values: strings, of which "" is unknown; or whole numbers, which stay as they are.
      among: number these, in this order; all others are unknown.

    Raises: ValueError for numbers that are not whole, or for one of `among` that does not occur.
    """
    if among is not None:
        missing = [value for value in among if value not in values]
        if missing or not len(among):
            raise ValueError(f"no record has {missing}; it has {np.unique(values)[:20].tolist()}.")
        places = np.asarray(among)
        hits = values[:, None] == places
        return np.where(hits.any(axis=1), hits.argmax(axis=1), UNKNOWN).astype(np.int32)
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int32)
    if values.dtype.kind not in "US":
        raise ValueError(f"got values of type {values.dtype}, expected strings or whole numbers.")
    known = np.unique(values[values != ""])
    return np.where(values == "", UNKNOWN, np.searchsorted(known, values)).astype(np.int32)


def shares(values: np.ndarray, *, most: float = 0.5) -> Float32[np.ndarray, " n"]:
    """For each record the chance that another one, drawn evenly, has the same value.

    `(n_c - 1) / (n - 1)` for n records, n_c of them with the value, at most `most`: the correction of
    a debiased loss divides by one minus it. It is the class probability per example of
    sample-specific debiasing, estimated by frequency; how its authors estimate it is not known to us.
    """
    if not 0 <= most < 1:
        raise ValueError(f"got most={most}, expected a number from 0 to below 1.")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    share = (counts[place] - 1) / max(len(values) - 1, 1)
    return np.minimum(share, most).astype(np.float32)


def _codes(source: Source, key: str, wanted: Any) -> Int32[np.ndarray, " n"]:
    name, among = wanted, None
    if isinstance(wanted, Mapping):
        _check_arguments(key, wanted, ("attribute", "values"), required=("attribute", "values"))
        name, among = wanted["attribute"], tuple(wanted["values"])
    try:
        return codes(np.asarray(column(source, name)), among)
    except ValueError as error:
        raise ValueError(f"columns.{key}={wanted!r}: {error}") from error


def _numbers(source: Source, key: str, wanted: Any) -> Float32[np.ndarray, " n"]:
    if isinstance(wanted, Mapping) and key == "prior":
        _check_arguments(key, wanted, ("share_of", "most"), required=("share_of",))
        rest = {name: value for name, value in wanted.items() if name != "share_of"}
        return shares(np.asarray(column(source, wanted["share_of"])), **rest)
    if not isinstance(wanted, str):
        raise ValueError(f"columns.{key}: got {wanted!r}, expected the name of an attribute.")
    values = np.asarray(column(source, wanted))
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(f"columns.{key}={wanted!r}: expected finite numbers in every record.")
    top = 1.0 if key == "prior" else np.inf
    if (values < 0).any() or (values >= top).any():
        raise ValueError(
            f"columns.{key}={wanted!r}: got numbers from {values.min()} to {values.max()}, expected "
            f"at least 0{' and less than 1' if key == 'prior' else ''}."
        )
    return values.astype(np.float32)


def _check_arguments(
    key: str, wanted: Mapping[str, Any], valid: Sequence[str], *, required: Sequence[str]
) -> None:
    if not set(required) <= set(wanted) <= set(valid):
        raise ValueError(
            f"columns.{key}: got {sorted(wanted)}, expected the name of an attribute, or a dict of "
            f"{list(valid)}."
        )
