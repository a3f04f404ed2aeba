"""What a record and a source are, which values are missing, and how attributes become arrays."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from bias_clip.data.bad_records import record_fault

# id: str; image: uint8 array [h,w,3 or 4], encoded bytes, or a tuple of those (equally good
# images of one thing); captions: tuple of str; any further key is an attribute: str, integer,
# float, boolean, or None where it is missing.
Record = dict[str, Any]

# An array of fixed-width text takes 4 bytes per character of its longest value for every row: one
# cell of 100 kB in 60,000 rows is 22 GiB. Above this many bytes the array holds Python strings.
MAX_FIXED_WIDTH = 2**28
# float64 holds every integer up to this one.
_EXACT = 2**53


class Source(Protocol):
    """Random access to records.

    A source may have `columns`, all attributes as arrays by name, and `read_many`, see the function.
    """

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int, /) -> Record:
        """Returns one record; raises ValueError if it is broken."""


class LazyColumns(Mapping[str, np.ndarray]):
    """Arrays by name, each made on first use; `take` selects rows of all of them."""

    def __init__(self, names: Sequence[str], make: Callable[[str], np.ndarray]):
        self._names = tuple(names)
        self._make = make
        self._made: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:  # the inherited one would make the array
        return name in self._names

    def take(self, rows: np.ndarray) -> "LazyColumns":
        """Returns the columns for some of the rows."""
        return LazyColumns(self._names, lambda name: self[name][rows])


def read_record(source: Source, index: int) -> Record:
    """Returns `source[index]`; turns any error into ValueError, except errors of storage.

    A source may parse what it reads, and msgpack, JSON and tar raise errors of their own. OSError
    passes, because it is not the record's fault: if a bucket does not answer, all records would be bad.
    """
    with record_fault(passing=(OSError,)):
        return source[index]


def read_many(source: Source, indices: Sequence[int]) -> list[Record | ValueError]:
    """Returns several records; in place of a broken one, the error that reading it raises.

    Uses `source.read_many` if the source has it, which reads them concurrently; else one by one.
    """
    if hasattr(source, "read_many"):
        return source.read_many(indices)
    found: list[Record | ValueError] = []
    for index in indices:
        try:
            found.append(read_record(source, index))
        except ValueError as error:
            found.append(error)
    return found


def column(source: Source, name: str) -> np.ndarray:
    """Returns one attribute (or "id") of all records as an array, see `as_array`.

    Uses `source.columns` if the source has it; else reads every record.

    Raises: ValueError for an unknown attribute, listing the valid ones.
    """
    columns = getattr(source, "columns", None)
    if columns is None:
        return as_array([_attribute(source[i], name) for i in range(len(source))], name)
    if name not in columns:
        raise ValueError(f"no attribute {name!r}, the source has {sorted(columns)}.")
    return columns[name]


def attributes(record: Record) -> dict[str, Any]:
    """Returns what a record has besides its id, images and captions."""
    # Attributes lie beside the three keys of every record; there is no inner dictionary.
    return {k: v for k, v in record.items() if k not in ("id", "image", "captions")}


def is_missing(value: Any) -> bool:
    """Whether a value is missing: None, the empty string, or NaN.

    This is the only definition, for captions, attributes, labels and groups. `missing` is the same for
    arrays.
    """
    if value is None or (isinstance(value, str) and value == ""):
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)


def missing(values: np.ndarray, *, codes: bool = False) -> Bool[np.ndarray, " n"]:
    """Where the values of a column are missing, by `is_missing`.

    Args:
      values: of one attribute, a value per record.
      codes: the column holds labels or groups, so a negative number is missing too (data sets write an
        unknown class as -1). Not for scores, which may be negative.
    """
    kind = values.dtype.kind
    if kind == "O":
        none = np.fromiter((is_missing(value) for value in values), bool, len(values))
        return none | (_negative(values) if codes else False)
    # Integers and booleans cannot be missing: one False, which is broadcast at the end.
    none = values == "" if kind in "UT" else values == b"" if kind == "S" else np.zeros(1, bool)
    if kind == "f":
        none = np.isnan(values)
    if codes and kind in "if":
        none = none | (values < 0)
    return np.broadcast_to(none, values.shape)


def as_array(values: Sequence[Any], name: str = "") -> np.ndarray:
    """Makes the array of one column. All values together decide its type.

        text               str; a missing value is ""
        integers           int64, or uint64 if one needs it; with missing values Python integers
                           and None, because float64 would make large ones equal
        numbers            float64; a missing value is NaN
        booleans           bool; with missing values Python booleans and None
        integers and text  str, for ids that are written either way

    Raises: ValueError for other values or mixtures, and for integers beyond 2^53 beside fractions.
    """
    kinds = {_kind(value) for value in values} - {"missing"}
    gaps = any(is_missing(value) for value in values)
    # Also a column with nothing but missing values: no kind is left, and it becomes text.
    if kinds <= {"text"}:
        return text_array(["" if is_missing(value) else value for value in values])
    if kinds == {"text", "integer"}:
        return text_array(["" if is_missing(value) else str(value) for value in values])
    if kinds == {"boolean"} or kinds == {"integer"}:
        if gaps:
            return _objects([None if is_missing(value) else value for value in values])
        return np.asarray(values) if kinds == {"boolean"} else _integers(values)
    if kinds <= {"integer", "number"}:
        large = [v for v in values if isinstance(v, int) and abs(v) > _EXACT]
        if large:
            raise ValueError(
                f"column {name!r} has fractions and integers such as {large[0]}, which float64 cannot "
                "hold exactly; store all of them as text, or all as integers."
            )
        return np.asarray([np.nan if is_missing(value) else value for value in values], np.float64)
    raise ValueError(
        f"column {name!r} mixes {sorted(kinds)}; expected text, integers, numbers or booleans. Make "
        "its values of one type."
    )


def text_array(values: Sequence[str]) -> np.ndarray:
    """Text as an array: of fixed width, or of Python strings if that would take too much memory."""
    width = max(map(len, values), default=0)
    if 4 * width * len(values) > MAX_FIXED_WIDTH:
        return _objects(values)
    return np.asarray(values, dtype=f"<U{max(width, 1)}")


def _kind(value: Any) -> str:
    if is_missing(value):
        return "missing"
    # Before integers: Python's bool is one of them.
    if isinstance(value, bool | np.bool_):
        return "boolean"
    if isinstance(value, int | np.integer):
        return "integer"
    if isinstance(value, float | np.floating):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def _integers(values: Sequence[Any]) -> np.ndarray:
    # Python integers: they compare with 2^64 without overflow.
    low, high = int(min(values)), int(max(values))
    if low >= -(2**63) and high < 2**63:
        return np.asarray(values, np.int64)
    if low >= 0 and high < 2**64:
        return np.asarray(values, np.uint64)
    return _objects([int(value) for value in values])


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _negative(values: np.ndarray) -> Bool[np.ndarray, " n"]:
    numbers = (isinstance(v, int | float | np.number) and bool(v < 0) for v in values)
    return np.fromiter(numbers, bool, len(values))


def _attribute(record: Record, name: str) -> Any:
    values = {"id": record["id"], **attributes(record)}
    if name not in values:
        raise ValueError(f"no attribute {name!r} in record {record['id']!r}: {sorted(values)}.")
    return values[name]
