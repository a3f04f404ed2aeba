"""Which group is each record in? Read from the source's columns, unknown values left out."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bias_clip.data.records import missing
from bias_clip.data.sources import Source, column


class Groups(NamedTuple):
    """The groups of a source.

    Attributes:
      names: of the groups; of several columns, their values joined by "_".
      of_record: for each record its group, -1 where it is in none.
    """

    names: tuple[str, ...]
    of_record: Int[np.ndarray, " n"]

    @property
    def counts(self) -> Int[np.ndarray, " g"]:
        """Records in each group; 0 where a group is absent."""
        return np.bincount(self.of_record[self.of_record >= 0], minlength=len(self.names))


def read_groups(
    source: Source,
    by: str | Sequence[str],
    groups: Sequence[Any] | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
    keep: Bool[np.ndarray, " n"] | None = None,
) -> Groups:
    """Groups by one column, or by the product of several.

    The empty string and negative numbers say that a value is not known: such records are in no
    group, and neither are those whose value is not listed, or that `only` does not keep.

    Args:
      source: records with the columns.
      by: a column, or several.
      groups: the values to count, in the order wanted, for several columns a list for each; None
        for all known values in rising order. Listed values without a record are absent groups,
        which stay in the list with a count of 0.
      only: see `rows_where`.
      keep: records that may be in a group, where others are left out for one more reason.

    Raises:
      ValueError: an unknown column, values listed twice, no record in any group.
    """
    names = [by] if isinstance(by, str) else list(by)
    listed = [groups] if isinstance(by, str) else groups
    listed = [None] * len(names) if listed is None else list(listed)
    if not names or len(listed) != len(names):
        raise ValueError(
            f"groups are {groups} for the columns {names}; expected a list of values for each."
        )
    index, labels = np.where(rows_where(source, only), 0, -1), []
    if keep is not None:
        index[~keep] = -1
    for name, values in zip(names, listed, strict=True):
        values, place = _places(column(source, name), values, name)
        index = np.where((index >= 0) & (place >= 0), index * len(values) + place, -1)
        labels.append([str(value) for value in values])
    if not (index >= 0).any():
        raise ValueError(
            f"no record is in a group of {names}: values asked for are {labels}, {only=}."
        )
    return Groups(tuple("_".join(parts) for parts in itertools.product(*labels)), index)


def rows_where(source: Source, only: Mapping[str, Sequence[Any]] | None) -> Bool[np.ndarray, " n"]:
    """Which records have, in each column that `only` names, one of the values that it lists.

    Raises:
      ValueError: an unknown column, or no record left.
    """
    keep = np.ones(len(source), bool)
    for name, values in (only or {}).items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"only[{name!r}] is {values!r}; expected a list of values.")
        keep &= np.isin(column(source, name), list(values))
    if not keep.any():
        raise ValueError(f"no record of {len(source)} has {only}; expected at least one.")
    return keep


def known(values: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Where a column says something: neither the empty string, None, NaN nor a negative number."""
    return ~missing(values, codes=True)


def _places(
    values: np.ndarray, listed: Sequence[Any] | None, name: str
) -> tuple[list[Any], Int[np.ndarray, " n"]]:
    """The values that make groups, and the place of each record's value among them, or -1."""
    if listed is None:
        listed = np.unique(values[known(values)]).tolist()
    elif isinstance(listed, str) or len(set(listed)) != len(listed) or not len(listed):
        raise ValueError(f"groups of {name!r} are {listed!r}; expected a list of distinct values.")
    place = np.full(len(values), -1)
    for i, value in enumerate(listed):
        place[(values == value) & known(values)] = i
    return list(listed), place
