"""Makes a table of a source's records shard by shard, with bounded memory; an interrupted run continues.

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
from bias_clip.data.records import Record, Source, read_many
from bias_clip.data.tables import (
    manifest_path,
    read_manifest,
    read_table,
    write_shards,
    write_table,
)

Columns = dict[str, np.ndarray]
_CHUNK = 256  # records that are requested together, so that a remote source reads them concurrently


class Readable(NamedTuple):
    """What was taken of the readable records of a range.

    Attributes:
      rows: indices of the records in the source.
      taken: of each of them, in this order.
      broken: index of each other record, as text, to the reason.
    """

    rows: list[int]
    taken: list[Any]
    broken: dict[str, str]


def write_sharded(
    path: str | Path,
    plan: Mapping[str, Any],
    make: Callable[[range], tuple[Columns, dict[str, str]]],
    *,
    kind: str,
    records: int,
    shard_rows: int,
    max_broken: int = 0,
    verb: str = "write",
    finish: Callable[[Sequence[Path]], Iterator[Columns]] | None = None,
    on_rows: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Writes the table of all records of a source, and returns its manifest.

    Args:
      path: path of the table; a finished table of the same plan is not written again.
      plan: JSON values on which the table depends; they become entries of the manifest.
      make: maps a range of records to columns with `id`, and the broken records with reasons.
      kind: kind of the table; "shard of <kind>" is that of its shards.
      records: length of the source.
      shard_rows: records in memory at the same time, besides all ids.
      max_broken: largest number of unreadable records; they get no row, and the manifest names them.
      verb: what making the table is called in an error.
      finish: makes the final parts from the paths of the shards; None copies them.
      on_rows: called from time to time with the number of finished records.

    Raises: ValueError for a table or shards of another plan, more than `max_broken` broken records,
      and ids that come twice.
    """
    path, plan = Path(path), json.loads(json.dumps(plan))
    folder = path.with_name(path.name + ".shards")
    if manifest_path(path).exists():
        done = read_manifest(path, kind=kind)
        _check_plan(path, done, plan, verb)
        shutil.rmtree(folder, ignore_errors=True)  # where it was stopped just before this
        on_rows(records)
        return done
    parts, broken = list[Path](), dict[str, str]()
    for start in range(0, records, shard_rows):
        rows = range(start, min(start + shard_rows, records))
        part = folder / f"{start:012d}.parquet"
        own = {**plan, "first": rows.start, "stop": rows.stop}
        if not manifest_path(part).exists():
            _write_shard(part, rows, make, kind, own)
        made = read_manifest(part, kind=shard_kind(kind))
        # Also for a shard just made: one check for kept and new ones.
        _check_plan(folder, made, own, verb)
        broken |= made["broken"]
        # After each shard, so that unreadable data stop the run early.
        _check_broken(broken, max_broken)
        parts.append(part)
        on_rows(len(rows))
    columns = finish(parts) if finish else read_parts(parts, kind)
    manifest = write_shards(path, columns, {"kind": kind, **plan, "broken": broken})
    # Only now: the table and its manifest are complete, and the shards are needed no longer.
    shutil.rmtree(folder)
    return manifest


def read_parts(parts: Sequence[Path], kind: str) -> Iterator[Columns]:
    """Yields the columns of each shard of a table of `kind`."""
    for part in parts:
        yield read_table(part, kind=shard_kind(kind)).columns


def shard_kind(kind: str) -> str:
    """The kind of a table's shards."""
    return f"shard of {kind}"


def read_range(source: Source, rows: range, take: Callable[[Record], Any]) -> Readable:
    """Takes something of each record of a range, such as its captions.

    A record is broken if it cannot be read, or if `take` raises ValueError.
    """
    found = Readable([], [], {})
    for start in range(rows.start, rows.stop, _CHUNK):  # their images are in memory together
        some = range(start, min(start + _CHUNK, rows.stop))
        for row, record in zip(some, read_many(source, some), strict=True):
            try:
                if isinstance(record, ValueError):
                    raise record
                taken = take(record)
            except ValueError as error:  # what the pipeline counts and replaces
                found.broken[str(row)] = str(error)
                continue
            found.rows.append(row)
            found.taken.append(taken)
    return found


def _write_shard(
    path: Path,
    rows: range,
    make: Callable[[range], tuple[Columns, dict[str, str]]],
    kind: str,
    plan: Mapping[str, Any],
) -> None:
    columns, broken = make(rows)
    if not columns:
        raise ValueError(f"no record of {rows} can be read: {list(broken.values())[:3]}.")
    write_table(path, columns, {"kind": shard_kind(kind), **plan, "broken": broken})


def _check_plan(path: Path, made: Mapping[str, Any], plan: Mapping[str, Any], verb: str) -> None:
    check_same_plan(
        f"{path} was made with another plan",
        {key: made.get(key) for key in plan},
        plan,
        advice=f"Delete it to {verb} again, or write elsewhere.",
    )


def _check_broken(broken: Mapping[str, str], most: int) -> None:
    if len(broken) > most:
        row, reason = next(iter(broken.items()))
        raise ValueError(
            f"{len(broken)} records cannot be read, {most} are allowed. The first is {row}: {reason}. "
            "Repair the data, or allow more."
        )
