"""Parquet shards and Arrow files of `save_to_disk`, with random access by row group."""

import itertools
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bias_clip.core.remote import is_remote
from bias_clip.data.records import Source, as_array, is_missing
from bias_clip.data.sources.arrow.checks import (
    check_columns,
    warn_of_equal_ids,
    warn_of_large_groups,
)
from bias_clip.data.sources.arrow.column_types import class_names, kind_of, reconcile
from bias_clip.data.sources.arrow.shard_files import find_shards
from bias_clip.data.sources.arrow.shards import CACHE_BYTES, Shard, ShardReader, open_shard
from bias_clip.data.sources.table import table_names
from bias_clip.data.sources.tabular.contained import make_roots
from bias_clip.data.sources.tabular.places import OWN, Places
from bias_clip.data.sources.tabular.rows import (
    RowRecords,
    columns_of,
    make_layout,
    plain,
)

# Local rows whose ids are compared at the start; more would delay it, and tools that join compare all.
COMPARED_IDS = 10_000_000
_FOOTERS = 16  # read at the same time
_SCALARS = ("text", "integer", "number", "boolean", "time", "decimal")
_STATUS, _SUCCESS = "status", "success"  # of img2dataset, whose failed rows have no image


def parquet_source(
    *,
    path: str | Sequence[str],
    split: str | None = None,
    image: str | Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    identity: str | None = None,
    attributes: Sequence[str] | None = None,
    root: str | None = None,
    roots: Sequence[str] = (),
    cache_bytes: int = CACHE_BYTES,
) -> Source:
    """Reads records from Parquet or Arrow files, in the order of their names and rows.

    Images are bytes, {bytes, path} of Hugging Face data sets, lists of those, or paths of files. A
    class label becomes its name. Rows that img2dataset marks as failed are left out, and counted in
    the log. Files may differ in the order of columns, in how they store text, in whether a column has
    integers or fractions, and in which further columns they have.

    Args:
      path: a file, a folder, a pattern, or a list of those; `save_to_disk` folders, and addresses of
        Parquet files, too.
      split: which split to read, if file names or folders distinguish several.
      image, captions, identity, roots: as for `table_source`.
      attributes: the columns to keep; None keeps text, numbers, booleans and times.
      root: the folder that paths of images start from; by default that of the first file.
      cache_bytes: of recent row groups that each thread keeps.

    Raises: ValueError if nothing is found, a file cannot be read, a column does not exist or has
      different types in the files, a file lacks the columns of images, captions or ids, or there are
      no rows. A row without an image raises ValueError when it is read.

        parquet_source(path="data", split="train", captions=("text",))
    """
    files = find_shards(path, split)
    with ThreadPoolExecutor(_FOOTERS) as pool:  # a remote footer takes three requests
        shards = list(pool.map(open_shard, files))
    rows = ShardRows(shards, table_names(files), cache_bytes)
    if not len(rows):
        raise ValueError(f"{files[:3]} have no rows to read.")
    layout = make_layout(
        rows.names,
        table=shards[0].path,
        roots=make_roots(root or os.path.dirname(files[0]) or ".", roots),
        image=image if image is not None else rows.image_column(),
        captions=captions,
        identity=identity,
        attributes=attributes,
    )
    if attributes is None:
        scalars = tuple(
            n for n in layout.attributes if rows.kinds[n] & set(_SCALARS) or not rows.kinds[n]
        )
        layout = layout._replace(attributes=scalars)
    texts = (*layout.image, *layout.captions, layout.identity, *layout.attributes)
    rows.use(name for text in texts for name in columns_of(text))
    check_columns(layout, shards)
    warn_of_large_groups(shards)
    if len(rows) <= COMPARED_IDS and not any(map(is_remote, files)):
        warn_of_equal_ids(files[0], *rows.twice(layout.identity))
    return RowRecords(rows, layout)


class ShardRows:
    """The rows of some shards as one table."""

    def __init__(self, shards: Sequence[Shard], tables: Sequence[str], cache_bytes: int):
        """Takes the shards and their names."""
        self._shards = tuple(shards)
        self._reader = ShardReader(cache_bytes)
        self._there = [frozenset(shard.schema.names) for shard in shards]
        self._together: tuple[str, ...] = ()
        self._groups = [[0, *itertools.accumulate(shard.groups)] for shard in shards]
        self._names = list(dict.fromkeys(n for shard in shards for n in shard.schema.names))
        self.kinds = {
            name: {kind_of(s.schema.field(name).type) for s in shards if _once(s, name)} - {"null"}
            for name in self._names
        }
        self._labels = {
            name: labels for s in shards for name, labels in class_names(s.schema).items()
        }
        self._kept = self._find_kept()
        counts = [
            self._groups[i][-1] if kept is None else len(kept) for i, kept in enumerate(self._kept)
        ]
        self._places = Places(list(zip(tables, counts, strict=True)))

    @property
    def names(self) -> Sequence[str]:
        """Returns the names of all columns."""
        return self._names

    def __len__(self) -> int:
        return len(self._places)

    def image_column(self) -> str | None:
        """The column of a type that only images have; None unless there is exactly one."""
        found = [name for name, kinds in self.kinds.items() if kinds & {"image", "list of image"}]
        # Plain bytes only where no column has the form of an image: they may be anything.
        found = found or [name for name, kinds in self.kinds.items() if "bytes" in kinds]
        return found[0] if len(found) == 1 else None

    def use(self, names: Iterator[str]) -> None:
        """Sets the columns that are read together.

        Raises: ValueError for columns whose types differ, or that a file has twice.
        """
        # These columns of a row group are read and cached together; all others are never read.
        self._together = tuple(name for name in dict.fromkeys(names) if name in self._names)
        for name in self._together:
            twice = [s.path for s in self._shards if s.schema.names.count(name) > 1]
            if twice:
                raise ValueError(
                    f"{twice[0]} has the column {name!r} twice; write it again with one."
                )
            reconcile(name, self._shards)

    def twice(self, identity: str) -> tuple[int, list[str]]:
        """How many ids occur more than once, and the first of them; of templates of one column only."""
        name = identity.strip("{}")
        # Others would have to be filled for each row.
        alone = name in self._names and identity == f"{{{name}}}"
        if not alone or not self.kinds[name] <= {"text", "integer"}:
            return 0, []
        parts = [part.cast(pa.large_string()) for part in self._column(name)]
        values = pa.chunked_array([c for part in parts for c in part.chunks], pa.large_string())
        # Nearly always none: this counts without a table of the values.
        if pc.count_distinct(values).as_py() == len(values) - values.null_count:
            return 0, []
        counts = pc.value_counts(values.drop_null())
        found = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        return len(found), sorted(found.to_pylist())[:3]

    def row(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row."""
        number, row = self._places.find(index)
        kept = self._kept[number]
        place = row if kept is None else int(kept[row])
        shard, starts = self._shards[number], self._groups[number]
        # The row group that the row is in, from the first rows of all groups.
        group = bisect_right(starts, place) - 1
        # All calls read the same set of columns: a record asks twice, and the second call then finds
        # the group in the cache.
        wanted = self._together if set(names) <= {*self._together, *OWN} else tuple(names)
        there = self._there[number]
        table = self._reader.group(shard.path, group, [n for n in wanted if n in there])
        own = self._places.at(index)
        inner = place - starts[group]
        found = {n: table.column(n)[inner].as_py() for n in names if n in there}
        return {
            name: own[name] if name in own else self._py(name, found.get(name)) for name in names
        }

    def attributes(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row, with the types of these columns."""
        return {name: plain(value) for name, value in self.row(index, names).items()}

    def values(self, name: str) -> list[Any]:
        """Returns one column of all rows."""
        if name in ("table", "row"):
            return self._places.values(name)
        return [self._py(name, value) for part in self._column(name) for value in part.to_pylist()]

    def column(self, name: str) -> np.ndarray:
        """Returns one column of all rows as an array."""
        return as_array([plain(value) for value in self.values(name)], name)

    def _column(self, name: str) -> Iterator[pa.ChunkedArray]:
        for number, shard in enumerate(self._shards):
            if name in self._there[number]:
                whole = self._reader.column(shard.path, name)
            else:
                whole = pa.chunked_array([pa.nulls(self._groups[number][-1])])
            kept = self._kept[number]
            yield whole if kept is None else whole.take(kept)

    def _py(self, name: str, value: Any) -> Any:
        if name in self._labels:
            labels = self._labels[name]
            return labels[value] if isinstance(value, int) and 0 <= value < len(labels) else None
        if is_missing(value):
            return None
        kinds = self.kinds.get(name, set())
        # One shard may store the column as integers and another as fractions: all become floats.
        if "number" in kinds:
            return float(value)
        if kinds & {"time", "decimal"}:
            return str(value)
        return value.hex() if kinds == {"fixed bytes"} else value

    def _find_kept(self) -> list[np.ndarray | None]:
        """The rows of each shard that did not fail; None if no row failed."""
        kept, lost = list[np.ndarray | None](), 0
        for shard in self._shards:
            rows = None
            # All three, because other tables may well have a column "status".
            if {_STATUS, "error_message", "key"} <= set(shard.schema.names):
                good = pc.equal(self._reader.column(shard.path, _STATUS), _SUCCESS)
                if not pc.all(good).as_py():
                    rows = np.flatnonzero(good.to_numpy())
                    lost += len(good) - len(rows)
            kept.append(rows)
        if lost:
            logging.getLogger(__name__).warning(
                "%s: left out %d rows whose download failed", self._shards[0].path, lost
            )
        return kept


def _once(shard: Shard, name: str) -> bool:
    return shard.schema.names.count(name) == 1
