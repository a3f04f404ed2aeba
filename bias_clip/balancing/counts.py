"""Counts the rows of each kind: the table that M4 is solved on, independent of the data's order.

Rows with the same attributes, labels and utility get the same weight, so only their number matters.
Counts are integers, and rows of the table are sorted by their columns. So tables of shards, merged in
any order, equal the table of the whole bit for bit. (This is the project's own method; the paper
describes per-example updates, which are in `stream`.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8, Int64

_CHUNK = 1 << 16  # rows whose keys stay in cache while columns are packed
_BLOCK = 1 << 20  # rows sorted at a time
_PER_WORD = 39  # 3^39 < 2^63


class CountTable(NamedTuple):
    """Distinct rows in lexicographic order of (attributes, labels, utility), and their counts."""

    attributes: Int8[np.ndarray, "g m"]  # 1, 0, or -1 for unknown
    labels: Int8[np.ndarray, "g c"]
    utility: Float[np.ndarray, " g"]
    counts: Int64[np.ndarray, " g"]


def count(
    attributes: Int8[np.ndarray, "n m"],
    labels: Int8[np.ndarray, "n c"],
    utility: Float[np.ndarray, " n"] | None = None,
    *,
    edges: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> CountTable:
    """Counts the distinct rows.

    Args:
      attributes: 1 yes, 0 no, -1 unknown.
      labels: the same, proxies included.
      utility: non-negative, one per row; None is 1. Values are equal if all their bits are.
      edges: ascending. Each utility becomes the middle of its bucket [edge, next edge); the last
        bucket includes its end. Use it for a utility with many values.
      names: names of the columns, attributes first, for messages.

    Raises:
      ValueError: arrays that are not [rows, columns] of the same rows; a value outside -1, 0, 1
        (the message names its column); a utility that is negative, not finite, or outside `edges`.
        `solve`, which sees the whole table, checks that some utility is above 0.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import count
      >>> count(np.int8([[1], [0], [1]]), np.int8([[0], [1], [0]])).counts
      array([1, 2])
    """
    attributes, labels = _checked(attributes, labels, names)
    utility = _utility(utility, edges, len(attributes))
    words = _words(attributes, labels, utility)
    # Sorted block by block and then merged: the blocks' distinct rows are few, so that the last sort is
    # small and no index of all rows is held.
    blocks = [_group(words[i : i + _BLOCK], None) for i in range(0, len(words), _BLOCK)]
    if not blocks:
        blocks = [(words, np.zeros(0, np.int64))]
    words, counts = blocks[0]
    if len(blocks) > 1:
        words, counts = _group(*(np.concatenate(part) for part in zip(*blocks, strict=True)))
    return _unpacked(words, counts, attributes.shape[1], labels.shape[1])


def merge(tables: Sequence[CountTable]) -> CountTable:
    """Merges tables into the table of all their rows; the order of the tables does not matter.

    Raises:
      ValueError: no table, or tables of different columns.
    """
    shapes = {(t.attributes.shape[1], t.labels.shape[1]) for t in tables}
    if len(shapes) != 1:
        raise ValueError(
            f"tables: got {len(tables)} of (attributes, labels) {sorted(shapes)}; "
            "expected at least one, all of the same columns."
        )
    words = np.concatenate([_words(*table[:3]) for table in tables])
    counts = np.concatenate([table.counts for table in tables])
    return _unpacked(*_group(words, counts), *shapes.pop())


def lookup(
    table: CountTable,
    attributes: Int8[np.ndarray, "n m"],
    labels: Int8[np.ndarray, "n c"],
    utility: Float[np.ndarray, " n"] | None = None,
    *,
    edges: Sequence[float] | None = None,
) -> Int64[np.ndarray, " n"]:
    """The row of `table` for each row of the data, so that `weights[lookup(...)]` is per row.

    Raises:
      ValueError: a row that is not in the table, or what `count` refuses.
    """
    attributes, labels = _checked(attributes, labels, None)
    if (attributes.shape[1], labels.shape[1]) != (table.attributes.shape[1], table.labels.shape[1]):
        raise ValueError(
            f"rows: got {attributes.shape[1]} attributes and {labels.shape[1]} labels; expected "
            f"{table.attributes.shape[1]} and {table.labels.shape[1]}, as in the table."
        )
    ours = _words(*table[:3])
    words = _words(attributes, labels, _utility(utility, edges, len(attributes)))
    row, found = _find(ours, words)
    if not found.all():
        raise ValueError(
            f"rows: {int((~found).sum())} are not in the table, the first at {int((~found).argmax())}"
            "; expected rows that were counted, with the same utility and edges."
        )
    return row


def group_rows(
    columns: Int8[np.ndarray, "n m"], utility: Float[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " g"], Int64[np.ndarray, " n"]]:
    """The first index of each distinct row, in lexicographic order, and each row's place in it."""
    words = _words(columns, columns[:, :0], utility)
    order, starts = _order(words)
    inverse = np.empty(len(words), np.int64)
    inverse[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(words))))
    return order[starts], inverse


def _checked(attributes, labels, names) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for what, array in (("attributes", attributes), ("labels", labels)):
        array = np.asarray(array)
        if array.ndim != 2 or array.dtype.kind not in "biu":
            raise ValueError(
                f"{what}: got {array.dtype}{list(array.shape)}; expected integers [rows, columns]"
                ", with -1 for unknown."
            )
        arrays.append(array)
    if len(arrays[0]) != len(arrays[1]) or arrays[0].shape[1] == 0:
        raise ValueError(
            f"got attributes {arrays[0].shape} and labels {arrays[1].shape}; expected the same "
            "number of rows in both, and at least one attribute."
        )
    before = 0
    for what, array in zip(("attributes", "labels"), arrays, strict=True):
        _check_values(what, array, names, before)
        before += array.shape[1]
    return arrays[0].astype(np.int8, copy=False), arrays[1].astype(np.int8, copy=False)


def _check_values(what: str, array: np.ndarray, names, before: int) -> None:
    if not array.size or (array.min() >= -1 and array.max() <= 1):
        return
    column = int(((array < -1) | (array > 1)).any(0).argmax())
    values = array[:, column]
    name = f" ({names[before + column]})" if names else ""
    raise ValueError(
        f"{what}: got {values[(values < -1) | (values > 1)][0]} in column {column}{name}; "
        "expected 1, 0, or -1 for unknown."
    )


def _utility(utility, edges, rows: int) -> Float[np.ndarray, " n"]:
    if utility is None:
        return np.ones(rows)
    utility = np.asarray(utility, np.float64) + 0.0  # -0.0 becomes 0.0: equal values, equal bits
    if utility.shape != (rows,):
        raise ValueError(f"utility: got shape {utility.shape}; expected ({rows},), one per row.")
    good = np.isfinite(utility) & (utility >= 0)
    if not good.all():
        raise ValueError(
            f"utility: got {utility[~good][0]}; expected finite numbers, none below 0."
        )
    if edges is None:
        return utility
    edges = np.asarray(edges, np.float64)
    if len(edges) < 2 or not np.all(np.diff(edges) > 0) or edges[0] < 0 or edges[-1] == np.inf:
        raise ValueError(f"edges: got {edges}; expected ascending finite numbers from 0 up.")
    if len(utility) and (utility.min() < edges[0] or utility.max() > edges[-1]):
        raise ValueError(
            f"utility: got {utility.min()} to {utility.max()}; expected it within the edges, "
            f"{edges[0]} to {edges[-1]}."
        )
    # The last edge belongs to the last bucket, as in a histogram.
    bucket = np.minimum(np.searchsorted(edges, utility, side="right"), len(edges) - 1)
    return (edges[bucket - 1] + edges[bucket]) / 2


def _words(attributes, labels, utility) -> Int64[np.ndarray, "n w"]:
    """Integers that sort like the rows: the columns in base 3, then the bits of the utility.

    The bits of non-negative floats, read as integers, sort like the floats.
    """
    firsts = range(0, attributes.shape[1] + labels.shape[1], _PER_WORD)
    words = np.empty((len(attributes), len(firsts) + 1), np.int64)
    for i in range(0, len(words), _CHUNK):
        rows = slice(i, i + _CHUNK)
        # -1, 0, 1 become the digits 0, 1, 2.
        digits = np.concatenate([attributes[rows], labels[rows]], axis=1).T + np.int8(1)
        for word, first in enumerate(firsts):
            key = digits[first].astype(np.int64)
            for digit in digits[first + 1 : first + _PER_WORD]:
                key *= 3
                key += digit
            words[rows, word] = key
    # The bits and not a rounded key: utilities that differ at all are different rows.
    words[:, -1] = np.ascontiguousarray(utility, np.float64).view(np.int64)
    return words


def _unpacked(words, counts, num_attributes: int, num_labels: int) -> CountTable:
    """The table with these `_words`."""
    columns = num_attributes + num_labels
    digits = np.empty((len(words), columns), np.int8)
    for word, first in enumerate(range(0, columns, _PER_WORD)):
        key = words[:, word].copy()
        for column in reversed(range(first, min(first + _PER_WORD, columns))):
            digits[:, column] = key % 3 - 1
            key //= 3
    utility = np.ascontiguousarray(words[:, -1]).view(np.float64)
    return CountTable(digits[:, :num_attributes], digits[:, num_attributes:], utility, counts)


def _group(words, counts) -> tuple[Int64[np.ndarray, "g w"], Int64[np.ndarray, " g"]]:
    """The distinct rows in order, and the sum of counts of each; None counts every row once."""
    # Columns in which all rows agree do not change the order.
    varying = np.flatnonzero((words != words[:1]).any(0))
    if len(varying) <= 1 and counts is None and len(words):  # sorting values beats sorting indices
        column = int(varying[0]) if len(varying) else 0
        keys, totals = np.unique(words[:, column], return_counts=True)
        distinct = np.repeat(words[:1], len(keys), axis=0)
        distinct[:, column] = keys
        return distinct, totals.astype(np.int64)
    order, starts = _order(words)
    if counts is None:
        return words[order[starts]], np.diff(np.append(starts, len(words)))
    return words[order[starts]], np.add.reduceat(counts[order], starts) if len(starts) else counts


def _order(words: np.ndarray) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " g"]]:
    """The order that sorts the rows, and the places in it where a distinct row starts."""
    # lexsort sorts by its last key first.
    order = np.lexsort(words.T[::-1])
    ordered = words[order]
    new = np.ones(len(words), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    return order, np.flatnonzero(new)


def _find(ours: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `words` the equal row of `ours`, which are distinct, and whether it exists.

    It goes word by word: a prefix gets its number among the distinct prefixes, then grows by one word.
    """
    known, code = np.zeros(len(ours), np.int64), np.zeros(len(words), np.int64)
    found = np.full(len(words), len(ours) > 0)
    for word in range(words.shape[1]):
        values = np.unique(ours[:, word])
        known = known * len(values) + np.searchsorted(values, ours[:, word])
        # Beyond the last value there is no place to compare; the last one shows that it differs.
        place = np.minimum(np.searchsorted(values, words[:, word]), max(len(values) - 1, 0))
        found &= values[place] == words[:, word] if len(values) else False
        code = code * len(values) + place
        # Numbers of prefixes stay below the number of rows, so that the product above fits 64 bits.
        beginnings = np.unique(known)
        known = np.searchsorted(beginnings, known)
        place = np.minimum(np.searchsorted(beginnings, code), max(len(beginnings) - 1, 0))
        found &= beginnings[place] == code if len(beginnings) else False
        code = place
    row_of = np.empty(len(ours), np.int64)
    row_of[known] = np.arange(len(ours))
    return (row_of[code] if len(ours) else code), found
