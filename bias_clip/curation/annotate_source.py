"""Annotates a source by one or several annotators, shard by shard; see `sharded_table`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bias_clip.curation.captions import Annotations, Names, check_names, merge_annotations
from bias_clip.curation.sharded_table import read_range, write_sharded
from bias_clip.data.bad_records import captions
from bias_clip.data.records import Record, Source, attributes
from bias_clip.data.tables import KEY

KIND = "annotations"


class Shard(NamedTuple):
    """Consecutive examples of a source, without their images.

    Attributes:
      ids: ids of the examples.
      captions: captions of each example.
      attributes: attributes of each example, as the source gives them.
      rows: indices of the examples in the source.
    """

    ids: np.ndarray
    captions: list[Sequence[str]]
    attributes: list[dict[str, str | int]]
    rows: list[int]


class Annotator(NamedTuple):
    """An annotator: the columns that it makes, its function, and its entry of the manifest."""

    names: Names
    annotate: Callable[[Shard], Annotations]
    about: Mapping[str, Any]


def annotate_source(
    source: Source,
    path: str | Path,
    annotators: Sequence[Annotator],
    *,
    about: Mapping[str, Any],
    rule: str = "first",
    shard_rows: int = 65536,
    max_broken: int = 0,
    on_rows: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Writes the table of annotations of all examples of a source, and returns its manifest.

    Args:
      source: records with unique ids.
      path: path of the table; a finished table of the same plan is not written again.
      annotators: the annotators; the first has priority, if the rule has a priority.
      about: entry of the manifest about the source: its arguments.
      rule: see `merge_annotations`.
      shard_rows: examples in memory at the same time, besides all ids.
      max_broken: largest number of unreadable records; they get no row, and the manifest names them.
      on_rows: called from time to time with the number of finished examples.

    Raises: ValueError for a table or shards of another plan, more than `max_broken` broken records,
      ids that come twice, and names that two kinds of columns share.
    """
    plan = _plan(annotators, about, rule, len(source))

    def make(rows: range) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        return _annotate_rows(source, rows, annotators, rule, plan)

    return write_sharded(
        path,
        plan,
        make,
        kind=KIND,
        records=len(source),
        shard_rows=shard_rows,
        max_broken=max_broken,
        verb="annotate",
        on_rows=on_rows,
    )


def union(names: Sequence[Names]) -> Names:
    """Joins column names by kind; several annotators may make the same column of the same kind.

    Raises: ValueError for a name in two kinds.
    """
    kinds = [tuple(dict.fromkeys(n for some in names for n in some[i])) for i in range(3)]
    check_names([name for kind in kinds for name in kind])
    return Names(*kinds)


def _plan(
    annotators: Sequence[Annotator], about: Mapping[str, Any], rule: str, examples: int
) -> dict[str, Any]:
    """Everything that the table depends on, in the form that JSON returns."""
    names = union([annotator.names for annotator in annotators])
    if not any(names):
        raise ValueError("there is nothing to annotate; give word lists, columns or scores.")
    plan = {
        **names._asdict(),
        "source": dict(about),
        "annotators": [dict(annotator.about) for annotator in annotators],
        "merge": rule,
        "examples": examples,
    }
    # Through JSON: tuples would differ from the lists that a finished shard's manifest gives.
    return json.loads(json.dumps(plan))


def _annotate_rows(
    source: Source,
    rows: range,
    annotators: Sequence[Annotator],
    rule: str,
    plan: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    found = read_range(source, rows, _without_image)
    if not found.rows:
        return {}, found.broken
    # Images were dropped as soon as each record was read: a shard of them would not fit in memory.
    ids, texts, given = zip(*found.taken, strict=True)
    shard = Shard(np.asarray(ids), list(texts), list(given), found.rows)
    # In the order of the annotators, which the rule "first" follows.
    merged = merge_annotations(*(a.annotate(shard) for a in annotators), rule=rule)
    # The order of the plan and not of the annotators: all shards have the same schema.
    names = [name for kind in ("attributes", "labels", "proxies") for name in plan[kind]]
    return {KEY: shard.ids, **{name: merged[name] for name in names}}, found.broken


def _without_image(record: Record) -> tuple[str, Sequence[str], dict[str, Any]]:
    texts = captions(record)
    return record[KEY], texts, attributes(record)
