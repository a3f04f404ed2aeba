"""Annotations from given values: columns of the data set, and scores of an image annotator.

As in `captions`, the resulting columns are int8 with `YES`, `NO` and `UNKNOWN`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int8

from bias_clip.curation.captions import NO, UNKNOWN, YES, Annotations, check_names
from bias_clip.data.bad_records import file_fault
from bias_clip.data.records import is_missing, text_array
from bias_clip.data.tables import KEY, Table, check_ids, join

MISSING = ("error", "unknown")
SHOWN = 8  # values in an error


def annotate_column(
    values: np.ndarray, *, yes: Sequence[str], no: Sequence[str], unknown: Sequence[str] | None = ()
) -> Int8[np.ndarray, " n"]:
    """Annotates examples from a given column of names or integers.

    Args:
      values: str, integers or booleans, which are compared as text ("1" for True).
      yes, no: values that mean yes and no.
      unknown: values that mean neither; None for all others. The empty text is always unknown.

    Raises: ValueError for values of another type, in two of the lists, or in none.

        annotate_column(column(source, "gender"), yes=["man"], no=["woman"], unknown=None)
    """
    text = as_text(values)
    given = [*yes, *no, *(unknown or ())]
    twice = sorted({value for value in given if given.count(value) > 1})
    if twice or not yes:
        raise ValueError(f"got yes={list(yes)}, no={list(no)}; {twice} in two, some must mean yes.")
    others = sorted(set(np.unique(text).tolist()) - {*given, ""})
    if others and unknown is not None:
        raise ValueError(
            f"values {others[:SHOWN]} mean neither yes ({list(yes)}) nor no ({list(no)}); say what they "
            "mean, or that they are unknown."
        )
    return np.select([np.isin(text, yes), np.isin(text, no)], [YES, NO], UNKNOWN).astype(np.int8)


def annotate_categories(values: np.ndarray, categories: Sequence[str]) -> Annotations:
    """Makes a column per category: yes if it is the value, unknown if the value is empty, else no.

    Raises: ValueError for a category that occurs twice, or values of another type.
    """
    text = as_text(values)
    check_names(list(categories))
    return {
        name: np.select([text == name, text != ""], [YES, NO], UNKNOWN).astype(np.int8)
        for name in categories
    }


def read_scores(path: str | Path, columns: Sequence[str], *, key: str = KEY) -> Table:
    """Reads an image annotator's output: a Parquet file with a column of ids and columns of scores.

    Raises: ValueError for a missing file or column, ids that are not str or not unique, or scores
      that are not numbers.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file of scores {path}.")
    with file_fault(path):
        known = pq.read_schema(path).names
        unknown = [name for name in (key, *columns) if known.count(name) != 1]
        if unknown:
            raise ValueError(f"{path} does not have {unknown} once each, it has {known}.")
        wanted = list(dict.fromkeys((key, *columns)))
        table = pq.read_table(path, columns=wanted, page_checksum_verification=True)
        # A damaged offset would otherwise end the process when the column is used.
        table.validate(full=True)
        scores = {name: table.column(name).to_numpy() for name in columns}
    wrong = [name for name, values in scores.items() if values.dtype.kind not in "iuf"]
    if wrong:
        raise ValueError(f"{path}: the columns {wrong} are not numbers.")
    ids = check_ids(table.column(key).to_pylist())
    return Table({KEY: ids, **scores}, {"kind": f"scores ({path})"})


def annotate_scores(
    table: Table,
    ids: np.ndarray,
    name: str,
    *,
    threshold: float,
    band: float = 0.0,
    missing: str = "error",
) -> Int8[np.ndarray, " n"]:
    """Annotates examples from scores: yes from threshold + band, no below threshold - band.

    Scores in between, where the annotator is not sure enough, and NaN are unknown.

    Args:
      table: from `read_scores`, or `read_table`.
      ids: ids of the examples.
      name: name of the column of scores.
      threshold, band: in the unit of the scores; band is at least 0.
      missing: whether an example without a score is an "error" or "unknown".

    Raises: ValueError for a negative or non-finite number, and for examples without a score.
    """
    if missing not in MISSING or not np.isfinite(threshold) or not 0 <= band < np.inf:
        raise ValueError(
            f"got {threshold=}, {band=}, {missing=}; expected finite numbers, band at least 0, and "
            f"missing one of {list(MISSING)}."
        )
    # `join` raises for an id without a row, so only those that have one are asked for.
    has = np.isin(ids, table.columns[KEY]) if missing == "unknown" else np.ones(len(ids), bool)
    scores = np.full(len(ids), np.nan)
    if has.any():
        scores[has] = join(table, np.asarray(ids)[has])[name]
    # NaN fails both comparisons and stays unknown.
    return np.select(
        [scores >= threshold + band, scores < threshold - band], [YES, NO], UNKNOWN
    ).astype(np.int8)


def as_text(values: np.ndarray) -> np.ndarray:
    """Returns names, integers or booleans as text, "1" for True; a missing value is "".

    Raises: ValueError for another type.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "USTOiub":
        raise ValueError(f"got values of {array.dtype}, expected str, integers or booleans.")
    if array.dtype.kind == "O":  # one value at a time, so that no row depends on its neighbours
        return text_array(["" if is_missing(value) else _text(value) for value in array])
    # Booleans as text would be "True"; they are compared as "1" and "0".
    return (array.astype(np.int8) if array.dtype.kind == "b" else array).astype(str)


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if not isinstance(value, str | int | np.integer):
        raise ValueError(f"got {value!r}, expected str, integers or booleans.")
    return str(value)
