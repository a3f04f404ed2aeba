"""Annotates rows that arrive in any order: the steps of a pipeline, each a pure function.

`beam` connects them, and any other map-reduce system could. The shard of a row, and its place there,
depend only on its id. So the written tables, and the table of counts, do not depend on which worker
read which file in how many parts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bias_clip.balancing import CountTable, count
from bias_clip.balancing.thinning import hash01
from bias_clip.curation.annotate_source import Annotator, Shard, union
from bias_clip.curation.annotators import by_captions, by_column
from bias_clip.curation.captions import Lists, Names, merge_annotations
from bias_clip.data.tables import KEY, check_ids

SEED = 0  # of the hash that sends ids to shards

Columns = dict[str, np.ndarray]


class Row(NamedTuple):
    """An example without its image."""

    id: str
    captions: tuple[str, ...]
    attributes: dict[str, Any]


class Fields(NamedTuple):
    """The fields of the input that are the id and the captions; all others are attributes."""

    key: str = KEY
    captions: tuple[str, ...] = ("caption",)


class ColumnRule(NamedTuple):
    """An attribute by a column of the input; see `given.annotate_column`."""

    name: str
    column: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    unknown: tuple[str, ...] | None = ()


class Plan(NamedTuple):
    """Everything that the annotations of a row depend on, as plain values that any worker can get."""

    lists: Lists
    columns: tuple[ColumnRule, ...] = ()
    both: str = "unknown"
    rule: str = "first"


def make_annotators(plan: Plan) -> list[Annotator]:
    """The annotators of a plan, columns first, as `annotate_source` takes them.

    Raises: ValueError for a plan that annotates nothing, and what the annotators raise.
    """
    # No source here: values can be checked only against the rows that arrive.
    made = [by_column([], *rule[:2], **_values(rule)) for rule in plan.columns]
    if any(plan.lists):
        made.append(by_captions(plan.lists, both=plan.both))
    if not made:
        raise ValueError("there is nothing to annotate; give word lists or columns.")
    return made


def plan_names(plan: Plan) -> Names:
    """The columns that a plan makes, by kind.

    Raises: ValueError for a plan without attributes, because counting needs them; and as `union`.
    """
    names = union([annotator.names for annotator in make_annotators(plan)])
    if not names.attributes:
        raise ValueError(f"got the columns {names}; expected at least one attribute to count.")
    return names


def row_of(fields: Mapping[str, Any], which: Fields) -> Row:
    """Makes a row from the fields of a record.

    The id is a str or an integer. The captions are a str, a list of str, or null for no caption.

    Raises: ValueError for a field that is missing or of another type.
    """
    missing = [name for name in (which.key, *which.captions) if name not in fields]
    if missing:
        raise ValueError(
            f"a record has no {missing}, it has {sorted(fields)}; name the fields of id and captions."
        )
    key = fields[which.key]
    # Python's bool is an integer, and "True" is not an id.
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise ValueError(f"{which.key}: got {key!r}, expected str or an integer.")
    captions = tuple(text for name in which.captions for text in _texts(name, fields[name], key))
    rest = {k: v for k, v in fields.items() if k != which.key and k not in which.captions}
    return Row(str(key), captions, rest)


def row_of_json(line: str, which: Fields) -> Row:
    """Makes a row from a JSON line.

    Raises: ValueError for a line that is not a JSON object, and as `row_of`.
    """
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"got {line[:80]!r}, expected one JSON object per line: {error}"
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(f"got {line[:80]!r}, expected one JSON object per line.")
    return row_of(fields, which)


def annotate_rows(rows: Sequence[Row], annotators: Sequence[Annotator], rule: str) -> Columns:
    """Annotates rows as `annotate_source` does: returns `id` and one column per name."""
    ids = np.asarray([row.id for row in rows])
    shard = Shard(ids, [row.captions for row in rows], [row.attributes for row in rows], [])
    merged = merge_annotations(*(a.annotate(shard) for a in annotators), rule=rule)
    names = union([annotator.names for annotator in annotators])
    return {KEY: ids, **{name: merged[name] for kind in names for name in kind}}


def split_columns(columns: Columns, num_shards: int) -> Iterator[tuple[int, Columns]]:
    """The given rows, grouped by shard."""
    # By the id alone, so that any worker sends a row to the same shard.
    shard = (hash01(SEED, columns[KEY]) * num_shards).astype(np.int64)
    for number in np.unique(shard).tolist():
        rows = shard == number
        yield number, {name: values[rows] for name, values in columns.items()}


def join_columns(parts: Sequence[Columns]) -> Columns:
    """Joins the parts of one shard, sorted by id.

    An id always goes to the same shard, so ids that are unique in every shard are unique.

    Raises: ValueError for an id that occurs twice.
    """
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Parts arrive in any order; sorted by id, the shard's bytes do not depend on it.
    order = np.argsort(check_ids(whole[KEY]), kind="stable")
    return {name: values[order] for name, values in whole.items()}


def count_columns(columns: Columns, names: Names) -> CountTable:
    """Counts the distinct rows of annotations; proxies are the last labels, as in a `Problem`."""
    labels = (*names.labels, *names.proxies)
    attributes = np.stack([columns[name] for name in names.attributes], axis=1)
    # Not `np.stack`, which fails where there is no label.
    values = np.zeros((len(attributes), len(labels)), np.int8)
    for j, name in enumerate(labels):
        values[:, j] = columns[name]
    return count(attributes, values, names=(*names.attributes, *labels))


def _values(rule: ColumnRule) -> dict[str, Any]:
    return {"yes": rule.yes, "no": rule.no, "unknown": rule.unknown}


def _texts(name: str, value: Any, key: str | int) -> Sequence[str]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} of {key!r}: got {value!r}, expected a str or a list of them.")
    return texts
