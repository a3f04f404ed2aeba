"""A count table as a Parquet file: each distinct row of annotations and its count."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bias_clip.balancing import CountTable
from bias_clip.core.json_object import parse_object
from bias_clip.curation.captions import NO, UNKNOWN, YES, Names, check_names
from bias_clip.data.bad_records import file_fault

UTILITY, COUNT = "utility", "count"
_META = b"bias_clip"
_TOOL = "tools/beam_annotate.py"
_ADVICE = f"it is damaged, or not a table of counts; write it again with {_TOOL}"


class NamedCounts(NamedTuple):
    """A count table and the names of its columns; proxies are the last labels."""

    table: CountTable
    names: Names


def counts_to_bytes(table: CountTable, names: Names) -> bytes:
    """The file's bytes; the same table gives the same bytes.

    Raises: ValueError for names that are not those of the table's columns, or that are `utility` or
      `count`.

        Path("counts.parquet").write_bytes(counts_to_bytes(table, names))
    """
    labels = (*names.labels, *names.proxies)
    check_names([*names.attributes, *labels, UTILITY, COUNT])
    shape = (table.attributes.shape[1], table.labels.shape[1])
    if shape != (len(names.attributes), len(labels)):
        raise ValueError(
            f"a table of {shape[0]} attributes and {shape[1]} labels; expected as many as names: "
            f"{names}."
        )
    arrays = {name: table.attributes[:, j] for j, name in enumerate(names.attributes)}
    arrays |= {name: table.labels[:, j] for j, name in enumerate(labels)}
    arrays |= {UTILITY: table.utility, COUNT: table.counts}
    # Columns of a matrix have strides; Arrow takes contiguous memory.
    whole = pa.table({name: pa.array(np.ascontiguousarray(x)) for name, x in arrays.items()})
    meta = {_META: json.dumps(names._asdict()).encode()}
    stream = io.BytesIO()
    whole = whole.replace_schema_metadata(meta)
    pq.write_table(whole, stream, compression="zstd", write_page_checksum=True)
    return stream.getvalue()


def read_counts(path: str | Path) -> NamedCounts:
    """Reads a file of `counts_to_bytes`.

    Raises: ValueError for another file, or a damaged one; names it.

        table, names = read_counts("annotations/counts.parquet")
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no table of counts {path}; write it with {_TOOL}.")
    with file_fault(path, advice=_ADVICE):
        # In memory first: a file that is cut while it is mapped would end the process.
        stream = io.BytesIO(Path(path).read_bytes())
        whole = pq.read_table(stream, page_checksum_verification=True)
        names = _names(whole)
        labels = (*names.labels, *names.proxies)
        kinds = (_stack(whole, names.attributes), _stack(whole, labels))
        utility, counts = _column(whole, UTILITY, "f"), _column(whole, COUNT, "iu")
        # A damaged page that still decodes gives numbers: those that no count can have are refused.
        if not (np.isfinite(utility) & (utility >= 0)).all() or not (counts > 0).all():
            raise ValueError("it has a utility or a count below what a row can have")
    return NamedCounts(CountTable(*kinds, utility, counts), names)


def _names(whole: pa.Table) -> Names:
    meta = parse_object(
        (whole.schema.metadata or {}).get(_META, b""),
        "its names",
        advice="they tell its columns apart",
    )
    kinds = [meta.get(kind, 0) for kind in Names._fields]
    if not all(isinstance(kind, list) and all(isinstance(n, str) for n in kind) for kind in kinds):
        raise ValueError(f"got the names {kinds}, expected three lists of names")
    names = Names(*(tuple(kind) for kind in kinds))
    every = [*names.attributes, *names.labels, *names.proxies, UTILITY, COUNT]
    check_names(every)
    if sorted(every) != sorted(whole.column_names):
        raise ValueError(f"got the columns {whole.column_names}, expected {every}")
    return names


def _column(whole: pa.Table, name: str, kinds: str) -> np.ndarray:
    """A column without gaps, of one of the kinds of dtype."""
    column = whole.column(name)
    values = column.to_numpy()
    if column.null_count or values.dtype.kind not in kinds:
        raise ValueError(f"the column {name!r} is {column.type} with {column.null_count} gaps")
    return values


def _stack(whole: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    values = np.zeros((whole.num_rows, len(names)), np.int8)
    for j, name in enumerate(names):
        column = _column(whole, name, "iu")
        # Checked before the cast to int8, in which 257 would become 1.
        if not np.isin(column, (UNKNOWN, NO, YES)).all():
            raise ValueError(f"the column {name!r} has values other than -1, 0 and 1")
        values[:, j] = column
    return values
