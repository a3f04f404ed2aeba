"""Which rows of a table make one record, where an image has a row for each caption."""

from typing import Any

from bias_clip.data.records import is_missing
from bias_clip.data.sources.tabular.rows import Rows, plain


def group_rows(rows: Rows, name: str, table: str) -> list[list[int]]:
    """The rows with equal values of a column; groups come in the order of their first rows.

    A row without a value stays alone: one missing image must not join others.

    Raises: ValueError for an unknown column.
    """
    if name not in rows.names:
        raise ValueError(
            f"{table} has no column {name!r} to group by; it has {sorted(rows.names)}."
        )
    groups = dict[Any, list[int]]()
    for index, value in enumerate(rows.values(name)):
        key = (index,) if is_missing(value) else plain(value)
        groups.setdefault(key, []).append(index)
    return list(groups.values())
