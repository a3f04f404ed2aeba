"""A count table as a Parquet file: each distinct row of annotations and its count."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bias_clip.balancing import CountTable
from bias_clip.curation.captions import Names, check_names

UTILITY, COUNT = "utility", "count"
_META = b"bias_clip"


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
    whole = pa.table({name: pa.array(np.ascontiguousarray(x)) for name, x in arrays.items()})
    meta = {_META: json.dumps(names._asdict()).encode()}
    stream = io.BytesIO()
    pq.write_table(whole.replace_schema_metadata(meta), stream, compression="zstd")
    return stream.getvalue()


def read_counts(path: str | Path) -> NamedCounts:
    """Reads a file of `counts_to_bytes`.

    Raises: ValueError for another file.

        table, names = read_counts("annotations/counts.parquet")
    """
    whole = pq.read_table(path)
    meta = (whole.schema.metadata or {}).get(_META)
    if meta is None:
        raise ValueError(
            f"{path} is not a table of counts; expected one of tools/beam_annotate.py."
        )
    names = Names(*(tuple(kind) for kind in json.loads(meta).values()))
    labels = (*names.labels, *names.proxies)
    kinds = (_stack(whole, names.attributes), _stack(whole, labels))
    numbers = (whole.column(name).to_numpy() for name in (UTILITY, COUNT))
    return NamedCounts(CountTable(*kinds, *numbers), names)


def _stack(whole: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    values = np.zeros((whole.num_rows, len(names)), np.int8)
    for j, name in enumerate(names):
        values[:, j] = whole.column(name).to_numpy()
    return values
