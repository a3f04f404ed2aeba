"""Reads the group of each record from columns of the source; unknown values are left out."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bias_clip.data.records import missing
from bias_clip.data.sources import Source, column

_JOINTS = ("_", " & ", " | ")  # between the values of several columns in the name of a group


class Groups(NamedTuple):
    """The groups of a source.

    Attributes:
      names: distinct names of the groups; values of several columns are joined by "_", or by the
        first of `_JOINTS` that keeps the names apart.
      of_record: the group of each record, -1 for a record in no group.
    """

    names: tuple[str, ...]
    of_record: Int[np.ndarray, " n"]

    @property
    def counts(self) -> Int[np.ndarray, " g"]:
        """The number of records in each group; 0 if a group is absent."""
        return np.bincount(self.of_record[self.of_record >= 0], minlength=len(self.names))


def read_groups(
    source: Source,
    by: str | Sequence[str],
    groups: Sequence[Any] | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
    keep: Bool[np.ndarray, " n"] | None = None,
) -> Groups:
    """Groups by one column, or by the product of several.

    The empty string and negative numbers mean an unknown value. Such records are in no group, nor
    are records whose value is not listed, or that `only` does not keep.

    Args:
      source: records with the columns.
      by: one or several columns.
      groups: the values to count, in the order of the result; for several columns, one list per
        column. None for all known values in increasing order. Listed values without a record are
        absent groups, which stay in the list with a count of 0.
      only: see `rows_where`.
      keep: mask of the records that may be in a group; None for all.

    Raises:
      ValueError: an unknown column, values listed twice, no record in any group, groups that no
        name tells apart.
    """
    names = [by] if isinstance(by, str) else list(by)
    listed = [groups] if isinstance(by, str) else groups
    listed = [None] * len(names) if listed is None else list(listed)
    if not names or len(listed) != len(names):
        raise ValueError(
            f"groups are {groups} for the columns {names}; expected a list of values for each."
        )
    # 0 is the empty product of groups; each column refines it, and -1 stays -1.
    index, labels = np.where(rows_where(source, only), 0, -1), []
    if keep is not None:
        index[~keep] = -1
    for name, values in zip(names, listed, strict=True):
        values, place = _places(column(source, name), values, name)
        # Mixed radix: the last column changes fastest, as in `itertools.product` of the names.
        index = np.where((index >= 0) & (place >= 0), index * len(values) + place, -1)
        labels.append([str(value) for value in values])
    if not (index >= 0).any():
        raise ValueError(
            f"no record is in a group of {names}: values asked for are {labels}, {only=}."
        )
    return Groups(_group_names(labels), index)


def rows_where(source: Source, only: Mapping[str, Sequence[Any]] | None) -> Bool[np.ndarray, " n"]:
    """Which records have one of the listed values in every column that `only` names.

    Raises:
      ValueError: an unknown column, or no records left.
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
    """Where a value is known: not the empty string, None, NaN or a negative number."""
    return ~missing(values, codes=True)


def _group_names(labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One name per combination of values. Metrics are kept by name, so equal names would lose some."""
    for joint in _JOINTS:
        names = tuple(joint.join(parts) for parts in itertools.product(*labels))
        if len(set(names)) == len(names):
            return names
    twice = sorted({name for name in names if names.count(name) > 1})
    raise ValueError(
        f"{len(twice)} names stand for several groups, such as {twice[:3]}; expected values that stay "
        "distinct as text: rename some, or list those to count in `groups`."
    )


def _places(
    values: np.ndarray, listed: Sequence[Any] | None, name: str
) -> tuple[list[Any], Int[np.ndarray, " n"]]:
    """The values that define groups, and the index of each record's value among them, or -1."""
    if listed is None:
        listed = np.unique(values[known(values)]).tolist()
    elif isinstance(listed, str) or len(set(listed)) != len(listed) or not len(listed):
        raise ValueError(f"groups of {name!r} are {listed!r}; expected a list of distinct values.")
    place = np.full(len(values), -1)
    for i, value in enumerate(listed):
        # `known` again: a listed "" or -1 must not make a group of unknown values.
        place[(values == value) & known(values)] = i
    return list(listed), place
