"""What a batch holds besides images and texts: classes, attributes, priors and weights of its records.

A column is computed once for the whole source and looked up by record while training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32

from bias_clip.data.records import Source, as_array, column, missing
from bias_clip.data.stream.batch import ATTRIBUTES
from bias_clip.data.tables import join, read_table
from bias_clip.data.tables.mapped import check_source, is_mapped, open_mapped
from bias_clip.data.tables.table import read_kind

UNKNOWN = -1
_MOST = 2**31 - 1  # labels are int32 in the batch


def make_columns(source: Source, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Makes the arrays in which batches are looked up, with one entry per record.

    Args:
      source: has the attributes that `columns` names.
      columns: what each batch key is made from.

        labels, bias_labels, cells   int32: the name of an attribute, see `codes`; or
                                     dict(attribute=..., values=(...)), where all values except
                                     these are unknown
        prior                        float32 in [0, 1): the name of an attribute; or
                                     dict(share_of=..., most=0.5), see `shares`
        weights                      float32, at least 0: the name of an attribute
        each of them                 or dict(table=..., column=...): a column of a table that is keyed by
                                     id, or of a folder that `bias-clip columns` wrote, which is mapped and
                                     not read; the column has the name of the key unless given

    Returns: the array of each key.
    Raises: ValueError for an unknown key or attribute, or values that the key cannot have.

        make_columns(source, dict(labels="concept", prior=dict(share_of="concept")))
    """
    unknown = sorted(set(columns) - set(ATTRIBUTES))
    if unknown:
        raise ValueError(f"columns has {unknown}; a batch can hold {list(ATTRIBUTES)}.")
    mapped = {k: w for k, w in columns.items() if _is_table(w) and is_mapped(w["table"])}
    return {
        key: _mapped(source, key, wanted)
        if key in mapped
        else (_codes if ATTRIBUTES[key] is np.int32 else _numbers)(source, key, wanted)
        for key, wanted in columns.items()
    }


def codes(values: np.ndarray, among: Sequence[Any] | None = None) -> Int32[np.ndarray, " n"]:
    """Numbers the values of an attribute: 0, 1, ... in their own order; -1 for a missing one.

    Args:
      values: text, integers or booleans. Integers do not change, unless one is beyond 31 bits: then
        all are numbered in their order, because two classes could be equal in 32 bits.
      among: number only these values, in this order; all others are unknown.

    Raises: ValueError for numbers that are not integers, or for one of `among` that does not occur.
    """
    gone = missing(values, codes=True)
    if among is not None:
        # [values of `among`, n]; the first that a record equals is its number.
        hits = [_equal(values, value) & ~gone for value in among]
        lost = [value for value, hit in zip(among, hits, strict=True) if not hit.any()]
        if lost or not hits:
            raise ValueError(f"no record has {lost}; it has {_shown(values)}.")
        return np.where(np.any(hits, axis=0), np.argmax(hits, axis=0), UNKNOWN).astype(np.int32)
    kept = values[~gone]
    if kept.dtype == object:  # integers or booleans with gaps, or very long text
        kept = as_array(kept.tolist())
    if kept.dtype.kind not in "USTOiub":
        raise ValueError(f"got values of type {kept.dtype}, expected strings or integers.")
    numbers = kept
    if kept.dtype.kind not in "iub" or (len(kept) and kept.max() > _MOST):
        _, numbers = np.unique(kept, return_inverse=True)
    out = np.full(len(values), UNKNOWN, np.int32)
    out[~gone] = numbers
    return out


def shares(values: np.ndarray, *, most: float = 0.5) -> Float32[np.ndarray, " n"]:
    """For each record the probability that another one, drawn uniformly, has the same value.

    `(n_c - 1) / (n - 1)` for n records, n_c of them with the value, at most `most`, because the
    correction of a debiased loss divides by one minus it. A missing value has probability 0, which means
    no correction: two unknown values need not be equal. This is the class probability per example of
    sample-specific debiasing, estimated by frequency; how its authors estimate it is unknown to us.
    """
    if not 0 <= most < 1:
        raise ValueError(f"got most={most}, expected a number from 0 to below 1.")
    kept = ~missing(values, codes=True)
    known = values[kept]
    if known.dtype == object:
        known = as_array(known.tolist())
    _, place, counts = np.unique(known, return_inverse=True, return_counts=True)
    share = np.zeros(len(values))
    # Minus one on both sides: the record itself is not among the others.
    share[kept] = (counts[place] - 1) / max(len(values) - 1, 1)
    return np.minimum(share, most).astype(np.float32)


def _equal(values: np.ndarray, value: Any) -> Bool[np.ndarray, " n"]:
    """Where a column equals a value, exactly: NumPy itself compares integers with fractions as float64."""
    none = np.zeros(len(values), bool)
    if values.dtype.kind in "iu":
        # A fraction equals no integer, and the comparison below must stay one of integers.
        if isinstance(value, str | bytes) or value != int(value):
            return none
        limits = np.iinfo(values.dtype)
        return values == int(value) if limits.min <= value <= limits.max else none
    if values.dtype.kind in "UST" and not isinstance(value, str | bytes):
        return none
    return np.asarray(values == value, bool)


def _shown(values: np.ndarray) -> list[Any]:
    return sorted(set(values[~missing(values, codes=True)].tolist()), key=str)[:20]


def _codes(source: Source, key: str, wanted: Any) -> Int32[np.ndarray, " n"]:
    name, among = wanted, None
    if isinstance(wanted, Mapping) and not _is_table(wanted):
        _check_arguments(key, wanted, ("attribute", "values"), required=("attribute", "values"))
        name, among = wanted["attribute"], tuple(wanted["values"])
    if _is_table(wanted):
        name, among = wanted, None
    try:
        return codes(np.asarray(_read(source, key, name)), among)
    except ValueError as error:
        raise ValueError(f"columns.{key}={wanted!r}: {error}") from error


def _numbers(source: Source, key: str, wanted: Any) -> Float32[np.ndarray, " n"]:
    if isinstance(wanted, Mapping) and key == "prior" and not _is_table(wanted):
        _check_arguments(key, wanted, ("share_of", "most"), required=("share_of",))
        rest = {name: value for name, value in wanted.items() if name != "share_of"}
        return shares(np.asarray(column(source, wanted["share_of"])), **rest)
    if not isinstance(wanted, str) and not _is_table(wanted):
        raise ValueError(f"columns.{key}: got {wanted!r}, expected the name of an attribute.")
    values = np.asarray(_read(source, key, wanted))
    # Checked over all records at once: in the loss a single NaN would spread to every parameter.
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError(f"columns.{key}={wanted!r}: expected finite numbers in every record.")
    top = 1.0 if key == "prior" else np.inf
    # A prior of 1 would divide by zero in the loss; a negative weight would reward errors.
    if (values < 0).any() or (values >= top).any():
        raise ValueError(
            f"columns.{key}={wanted!r}: got numbers from {values.min()} to {values.max()}, expected "
            f"at least 0{' and less than 1' if key == 'prior' else ''}."
        )
    return values.astype(np.float32)


def _is_table(wanted: Any) -> bool:
    return isinstance(wanted, Mapping) and "table" in wanted


def _read(source: Source, key: str, wanted: Any) -> np.ndarray:
    """An attribute of the source, or a column of a table, joined by id."""
    if not _is_table(wanted):
        return column(source, wanted)
    _check_arguments(key, wanted, ("table", "column"), required=("table",))
    path, name = wanted["table"], wanted.get("column", key)
    table = read_table(path, kind=read_kind(path))
    if name not in table.columns:
        raise ValueError(f"columns.{key}: {path} has no {name!r}, it has {sorted(table.columns)}.")
    return join(table, column(source, "id"))[name]


def _mapped(source: Source, key: str, wanted: Mapping[str, Any]) -> Any:
    """A column of a folder; its values were checked when it was written, by their least and most."""
    _check_arguments(key, wanted, ("table", "column"), required=("table",))
    found, name = open_mapped(wanted["table"]), wanted.get("column", key)
    check_source(found, source, wanted["table"])
    if name not in found.arrays:
        raise ValueError(
            f"columns.{key}: {wanted['table']} has {sorted(found.arrays)}, no {name!r}."
        )
    about, whole = found.manifest["arrays"][name], ATTRIBUTES[key] is np.int32
    kind = np.dtype(about["dtype"]).kind
    if whole and (kind not in "iub" or about["most"] > _MOST or about["least"] < UNKNOWN):
        raise ValueError(
            f"columns.{key}: {name!r} has {about}; expected integers from -1, of 31 bits."
        )
    top = 1.0 if key == "prior" else np.inf
    if not whole and not 0 <= about["least"] <= about["most"] < top:
        raise ValueError(
            f"columns.{key}: {name!r} has {about}; expected numbers from 0 to below {top}."
        )
    return found.arrays[name].astype(ATTRIBUTES[key])


def _check_arguments(
    key: str, wanted: Mapping[str, Any], valid: Sequence[str], *, required: Sequence[str]
) -> None:
    if not set(required) <= set(wanted) <= set(valid):
        raise ValueError(
            f"columns.{key}: got {sorted(wanted)}, expected the name of an attribute, or a dict of "
            f"{list(valid)}."
        )
