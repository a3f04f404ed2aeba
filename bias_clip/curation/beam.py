"""Annotating and counting as an Apache Beam pipeline: for data too large for one machine.

Only this module imports Beam, which needs a separate environment: pip install 'bias_clip[beam]'. The
work of the steps is in `rows`, which is tested without Beam.
"""

import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from bias_clip.balancing import CountTable, merge
from bias_clip.core.write import PARTIAL, write_file
from bias_clip.curation.annotate_source import KIND
from bias_clip.curation.captions import Names
from bias_clip.curation.counts_file import counts_to_bytes
from bias_clip.curation.rows import (
    Columns,
    Fields,
    Plan,
    Row,
    annotate_rows,
    count_columns,
    join_columns,
    make_annotators,
    plan_names,
    row_of,
    row_of_json,
    split_columns,
)
from bias_clip.data.tables import manifest_path, write_table

COUNTS = "counts.parquet"
ROWS = 4096  # annotated at a time


def annotate_files(
    pipeline: Any, pattern: str, out: str, plan: Plan, *, fields: Fields, num_shards: int
) -> Any:
    """Extends a pipeline: read `pattern`, annotate, write `num_shards` tables and a count table.

    The folder `out` receives annotations-00000-of-00010.parquet and so on; each has its manifest and
    can be read by `read_table`. At the end it receives counts.parquet, which equals the table of all
    rows bit for bit. A shard is written and counted only after its ids are known to be unique.

    Args:
      pattern: pattern of input files, *.parquet or lines of JSON, anywhere that Beam can read.
      out: output folder, anywhere that Beam can write.
      num_shards: enough that the annotations of a shard fit a worker; one per million rows is safe.
    """
    names = plan_names(plan)  # raises here, not on a worker
    if num_shards < 1:
        raise ValueError(f"num_shards: got {num_shards}, expected at least 1.")
    about = {**names._asdict(), "source": {"name": "beam", "pattern": pattern}, "merge": plan.rule}
    return (
        _read(pipeline, pattern, fields)
        | "annotate" >> beam.ParDo(_Annotate(plan, num_shards))
        | "to shards" >> beam.GroupByKey()
        | "write shards" >> beam.ParDo(_WriteShard(out, num_shards, names, about))
        | "merge counts" >> beam.CombineGlobally(_Merge()).without_defaults()
        | "write counts" >> beam.Map(_write_counts, out=out, names=names)
    )


def _read(pipeline: Any, pattern: str, fields: Fields) -> Any:
    """Lists of rows."""
    if pattern.endswith(".parquet"):
        tables = pipeline | "read" >> beam.io.ReadFromParquetBatched(pattern)
        return tables | "rows" >> beam.FlatMap(_rows_of_table, fields)
    # Beam may read a file in several pieces, in any order; `rows` makes the result independent of it.
    lines = pipeline | "read" >> beam.io.ReadFromText(pattern)
    rows = lines | "rows" >> beam.Map(row_of_json, fields)
    return rows | "batch" >> beam.BatchElements(min_batch_size=64, max_batch_size=ROWS)


def _rows_of_table(table: Any, fields: Fields) -> Iterator[list[Row]]:
    for batch in table.to_batches(max_chunksize=ROWS):
        yield [row_of(record, fields) for record in batch.to_pylist()]


class _Annotate(beam.DoFn):
    """Lists of rows to (shard, columns)."""

    def __init__(self, plan: Plan, num_shards: int):
        self._plan, self._num_shards = plan, num_shards

    # In `setup`, on the worker: compiled patterns and closures need not travel, and are made once.
    def setup(self) -> None:
        self._annotators = make_annotators(self._plan)

    def process(self, element: list[Row]) -> Iterator[tuple[int, Columns]]:
        columns = annotate_rows(element, self._annotators, self._plan.rule)
        yield from split_columns(columns, self._num_shards)


class _WriteShard(beam.DoFn):
    """Maps (shard, its columns in parts) to files and its count table."""

    def __init__(self, out: str, num_shards: int, names: Names, about: dict[str, Any]):
        self._out, self._num_shards, self._names, self._about = out, num_shards, names, about

    def process(self, element: tuple[int, Iterable[Columns]]) -> Iterator[CountTable]:
        shard, parts = element
        columns = join_columns(list(parts))
        name = f"annotations-{shard:05d}-of-{self._num_shards:05d}.parquet"
        place = {"shard": shard, "num_shards": self._num_shards}
        # `write_table` needs a local file; Beam's file systems may be remote.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write_table(path, columns, {"kind": KIND, **self._about, **place})
            for file in (path, manifest_path(path)):  # the manifest last
                _write_bytes(self._out, file.name, file.read_bytes())
        yield count_columns(columns, self._names)


class _Merge(beam.CombineFn):
    """Sums count tables; they are integers, so the order does not matter."""

    def create_accumulator(self) -> list[CountTable]:
        return []

    def add_input(self, accumulator: list[CountTable], table: CountTable) -> list[CountTable]:
        # Merged at each step, so that an accumulator is one table and not a list of thousands.
        return [merge([*accumulator, table])]

    def merge_accumulators(self, accumulators: Iterable[list[CountTable]]) -> list[CountTable]:
        tables = [table for some in accumulators for table in some]
        return [merge(tables)] if tables else []

    def extract_output(self, accumulator: list[CountTable]) -> CountTable:
        return accumulator[0]


def _write_counts(table: CountTable, out: str, names: Names) -> CountTable:
    _write_bytes(out, COUNTS, counts_to_bytes(table, names))
    return table


def _write_bytes(folder: str, name: str, data: bytes) -> None:
    """Writes a file; a worker that is stopped or retries leaves a complete file or none."""
    if not FileSystems.exists(folder):
        try:
            FileSystems.mkdirs(folder)
        except OSError:
            if not FileSystems.exists(folder):  # else another worker was first
                raise
    path = FileSystems.join(folder, name)
    suffix = f".{uuid.uuid4().hex}{PARTIAL}"  # a worker may try again while the first still writes
    if FileSystems.get_scheme(path) is None:
        write_file(path, data, suffix=suffix)
        return
    with FileSystems.create(path + suffix) as file:
        file.write(data)
    # Not all of Beam's file systems rename onto an existing file.
    if FileSystems.exists(path):
        FileSystems.delete([path])
    FileSystems.rename([path + suffix], [path])
