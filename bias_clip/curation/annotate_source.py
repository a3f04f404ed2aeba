"""Annotates a source shard by shard, with bounded memory; an interrupted run can continue.

Shards are tables in `<path>.shards`; finished shards of the same plan are kept. At the end they become
one table, and the folder is deleted.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bias_clip.core.plans import check_same_plan
from bias_clip.curation.captions import Annotations, Names, check_names, merge_annotations
from bias_clip.data.bad_records import captions
from bias_clip.data.records import Source, attributes, read_record
from bias_clip.data.tables import (
    KEY,
    manifest_path,
    read_manifest,
    read_table,
    write_shards,
    write_table,
)

KIND = "annotations"
SHARD_KIND = "shard of annotations"


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
    path, plan = Path(path), _plan(annotators, about, rule, len(source))
    folder = path.with_name(path.name + ".shards")
    if manifest_path(path).exists():
        done = read_manifest(path, kind=KIND)
        _check_plan(path, done, plan)
        shutil.rmtree(folder, ignore_errors=True)  # where it was stopped just before this
        on_rows(len(source))
        return done
    starts = range(0, len(source), shard_rows)
    parts = [folder / f"{start:012d}.parquet" for start in starts]
    broken: dict[str, str] = {}
    for start, part in zip(starts, parts, strict=True):
        rows = range(start, min(start + shard_rows, len(source)))
        own = {**plan, "first": rows.start, "stop": rows.stop}
        if not manifest_path(part).exists():
            _write_shard(source, part, rows, annotators, rule, own)
        made = read_manifest(part, kind=SHARD_KIND)
        _check_plan(folder, made, own)
        broken |= made["broken"]
        _check_broken(broken, max_broken)
        on_rows(len(rows))
    manifest = write_shards(path, _read(parts), {"kind": KIND, **plan, "broken": broken})
    shutil.rmtree(folder)
    return manifest


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
    return json.loads(json.dumps(plan))


def _check_plan(path: Path, made: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    check_same_plan(
        f"{path} was made with another plan",
        {key: made.get(key) for key in plan},
        plan,
        advice="Delete it to annotate again, or write elsewhere.",
    )


def _write_shard(
    source: Source,
    path: Path,
    rows: range,
    annotators: Sequence[Annotator],
    rule: str,
    plan: Mapping[str, Any],
) -> None:
    shard, broken = _load(source, rows)
    names = [name for kind in ("attributes", "labels", "proxies") for name in plan[kind]]
    if not len(shard.ids):
        raise ValueError(f"no record of {rows} can be read: {list(broken.values())[:3]}.")
    merged = merge_annotations(*(a.annotate(shard) for a in annotators), rule=rule)
    columns = {KEY: shard.ids, **{name: merged[name] for name in names}}
    write_table(path, columns, {"kind": SHARD_KIND, **plan, "broken": broken})


def _load(source: Source, rows: range) -> tuple[Shard, dict[str, str]]:
    shard, broken = Shard(np.asarray([]), [], [], []), {}
    ids = []
    for row in rows:
        try:
            record = read_record(source, row)
            texts = captions(record)
        except ValueError as error:  # what the pipeline counts and replaces
            broken[str(row)] = str(error)
            continue
        ids.append(record[KEY])
        shard.captions.append(texts)
        shard.attributes.append(attributes(record))
        shard.rows.append(row)
    return shard._replace(ids=np.asarray(ids)), broken


def _check_broken(broken: Mapping[str, str], most: int) -> None:
    if len(broken) > most:
        row, reason = next(iter(broken.items()))
        raise ValueError(
            f"{len(broken)} records cannot be read, {most} are allowed. The first is {row}: {reason}. "
            "Repair the data, or allow more."
        )


def _read(parts: Sequence[Path]) -> Iterator[dict[str, np.ndarray]]:
    for part in parts:
        yield read_table(part, kind=SHARD_KIND).columns
