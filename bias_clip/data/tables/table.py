"""Tables keyed by example id: a Parquet file, and beside it the manifest that makes it a table.

Each property that a tool finds for the examples of a data set (attributes, weights, priors, cells) is
a column, with one row per example. The manifest, `<path>.json`, is written last. So a Parquet file
without a manifest, or different from it, was left by an interrupted tool, and reading it fails.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bias_clip.core.json_object import read_object
from bias_clip.core.write import whole_file, write_file
from bias_clip.data.records import as_array, text_array
from bias_clip.data.tables.memory import warn_of_memory

KEY = "id"
OWN_KEYS = ("rows", "ids_sha256", "columns", "file_sha256")  # of the manifest, written here
SHOWN = 5  # ids in an error
MAX_ID = 4096  # characters: an array of ids takes four bytes of each for every row

Columns = Mapping[str, np.ndarray]


class Table(NamedTuple):
    """A table in memory.

    Attributes:
      columns: by name, `id` among them; one entry a row.
      manifest: what the table is, see `write_table`.
    """

    columns: dict[str, np.ndarray]
    manifest: dict[str, Any]


class TableReader(NamedTuple):
    """A checked table on disk: its manifest, and its rows in order, in chunks."""

    manifest: dict[str, Any]
    batches: Iterator[dict[str, np.ndarray]]


def write_table(path: str | Path, columns: Columns, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Writes one table: the Parquet file first, its manifest last, each completely or not at all.

    Args:
      path: path of the Parquet file; `<path>.json` becomes the manifest.
      columns: arrays [n] of numbers, booleans or str; `id` has unique str values.
      manifest: JSON with `kind`, the sort of table, and anything else that a reader needs.

    Returns: the manifest as written: the given entries, and rows, ids_sha256 (see `fingerprint`),
      columns (name to type) and file_sha256.
    Raises: ValueError for no rows, columns of different lengths or of another type, ids that are not
      str or not unique, or a manifest without `kind`.

        write_table("w.parquet", {"id": ids, "weight": weight}, {"kind": "weights", "seed": 0})
    """
    return write_shards(path, [columns], manifest)


def write_shards(
    path: str | Path, shards: Iterable[Columns], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes one table from its consecutive parts; only one part at a time is in memory.

    All ids stay in memory until the end, to check that they are unique. Otherwise as `write_table`.
    """
    path = Path(path)
    _check_given(path, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        found = _write_parquet(partial, shards)
        manifest_path(path).unlink(
            missing_ok=True
        )  # the file that it describes is about to be replaced
    whole = {**manifest, **found}
    write_file(manifest_path(path), json.dumps(whole, indent=2) + "\n")
    return whole


def read_table(path: str | Path, *, kind: str) -> Table:
    """Reads a whole table; says in the log if that, and a join, take more memory than is free.

    Raises: ValueError if there is no such table, it is unfinished, of another kind, or its file is
      not the one that the manifest was written for.

        table = read_table("w.parquet", kind="weights")
    """
    manifest, batches = open_table(path, kind=kind)
    warn_of_memory(path, KEY)
    parts = list(batches)
    return Table({k: np.concatenate([part[k] for part in parts]) for k in parts[0]}, manifest)


def open_table(path: str | Path, *, kind: str, rows: int = 65536) -> TableReader:
    """Checks a table as `read_table` does, and reads it in chunks of `rows` rows."""
    path = Path(path)
    manifest = read_manifest(path, kind=kind)
    if manifest["file_sha256"] != file_sha256(path):
        raise ValueError(
            f"{path} is not the file that {manifest_path(path)} was written for: one of the two was "
            "replaced or changed. Copy them together, or delete both and write the table again."
        )
    return TableReader(manifest, _batches(path, rows))


def read_manifest(path: str | Path, *, kind: str) -> dict[str, Any]:
    """Returns the manifest of the table at `path` without reading the table.

    Raises: ValueError as `read_table`, except for a file that differs from its manifest.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no table {path}; write it with the tool that makes {kind}.")
    if not manifest_path(path).is_file():
        raise ValueError(
            f"{path} is unfinished: it has no manifest {manifest_path(path)}. Run the tool that makes "
            f"{kind} again; if the table was copied here, copy its manifest too."
        )
    manifest = read_object(manifest_path(path), advice="write the table again")
    lacks = sorted({"kind", *OWN_KEYS} - set(manifest))
    if lacks:
        raise ValueError(f"{manifest_path(path)} is not the manifest of a table: it lacks {lacks}.")
    if manifest["kind"] != kind:
        raise ValueError(f"{path} is a table of {manifest['kind']!r}, expected one of {kind!r}.")
    return manifest


def read_kind(path: str | Path) -> str:
    """Returns the kind that the manifest of the table at `path` states.

    Raises: ValueError as `read_manifest`.
    """
    whole = manifest_path(path)
    # An unfinished table gets the message of `read_manifest` and not one about a missing file.
    kind = read_object(whole, advice="write the table again").get("kind") if whole.is_file() else ""
    return read_manifest(path, kind=str(kind))["kind"]


def join(table: Table, ids: Sequence[str] | np.ndarray) -> dict[str, np.ndarray]:
    """Returns the columns of the table in the order of `ids`; other rows are left out.

    Raises: ValueError for an id that occurs twice, or that the table does not have.

        weight = join(table, column(source, "id"))["weight"]
    """
    own = table.columns[KEY]
    # Most tables are in the order of their source: nothing is hashed or sorted then.
    if isinstance(ids, np.ndarray) and np.array_equal(ids, own):
        return dict(table.columns)
    wanted = check_ids(ids)
    place, missing = _places(wanted, own)
    if len(missing):
        every = len(missing) == len(wanted)
        raise ValueError(
            f"the table of {table.manifest['kind']} lacks {len(missing)} of {len(wanted)} examples: "
            f"{missing[:SHOWN].tolist()}; it has {len(own)}, such as {own[:SHOWN].tolist()}. "
            + (
                "It is of another data set: give"
                if every
                else "Write it again for all of them, or give"
            )
            + " the table that was made from this source and split."
        )
    return {name: values[place] for name, values in table.columns.items()}


def _places(wanted: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted id is in `own`, by hash; and the ids that are not there."""
    found = pc.index_in(pa.array(wanted), value_set=pa.array(own)).fill_null(-1).to_numpy()
    return found, wanted[found < 0]


def fingerprint(ids: Iterable[str]) -> str:
    """The SHA-256 of ids in order; each is preceded by its length, so different lists differ."""
    digest = hashlib.sha256()
    _feed(digest, ids)
    return digest.hexdigest()


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_path(path: str | Path) -> Path:
    """The path of the manifest of the table at `path`."""
    return Path(path).with_name(Path(path).name + ".json")


def _feed(digest: Any, ids: Iterable[str]) -> None:
    digest.update("".join(f"{len(name)}:{name}," for name in ids).encode())


def _check_given(path: Path, manifest: Mapping[str, Any]) -> None:
    if not isinstance(manifest.get("kind"), str) or not manifest["kind"]:
        raise ValueError(f"{path}: the manifest must name the `kind` of table, such as 'weights'.")
    taken = sorted(set(manifest) & set(OWN_KEYS))
    if taken:
        raise ValueError(f"{path}: the manifest has {taken}, which are written here; rename them.")
    json.dumps(manifest)  # a TypeError before anything is written


def _write_parquet(path: Path, shards: Iterable[Columns]) -> dict[str, Any]:
    """Writes the rows, and returns their entries of the manifest."""
    digest, seen = hashlib.sha256(), set[str]()
    writer: pq.ParquetWriter | None = None
    try:
        for columns in shards:
            ids = check_ids(columns.get(KEY, ()))
            table = _to_arrow(columns)
            # The first part's schema is that of the file.
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            if table.schema != writer.schema:
                raise ValueError(f"{path}: parts differ, {table.schema} and {writer.schema}.")
            _check_new(ids.tolist(), seen)
            _feed(digest, ids.tolist())
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise ValueError(f"{path}: there are no rows to write; choose a source that has some.")
    return {
        "rows": len(seen),
        "ids_sha256": digest.hexdigest(),
        "columns": {field.name: str(field.type) for field in writer.schema},
        "file_sha256": file_sha256(path),
    }


def _check_new(ids: Sequence[str], seen: set[str]) -> None:
    # Within a part `check_ids` has looked; here a part against those before it.
    twice = [name for name in ids if name in seen]
    if twice:
        raise ValueError(_twice(len(twice), twice))
    seen.update(ids)


def _twice(count: int, ids: Sequence[str]) -> str:
    return (
        f"{count} ids come twice, such as {list(ids[:SHOWN])}; every example needs its own id. Of tables and "
        "Parquet files, identity='{table}/{row}' makes one of each row."
    )


def check_ids(ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """Ids as an array of unique str."""
    # Checks Python strings first: a NumPy array of text gives every row the width of the longest.
    array = ids if isinstance(ids, np.ndarray) else np.asarray(ids, dtype=object)
    if array.ndim == 1 and len(array) and array.dtype.kind == "U" and _is_sound(array):
        return array
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"got ids of shape {array.shape}, expected a column {KEY!r} with some rows."
        )
    wrong = [value for value in array.tolist() if not isinstance(value, str) or not value]
    if wrong:
        raise ValueError(f"ids: got {wrong[:SHOWN]}, expected str with at least one character.")
    longest = max(map(len, array.tolist()))
    if longest > MAX_ID:
        raise ValueError(f"ids: one has {longest} characters, expected at most {MAX_ID}.")
    values, counts = np.unique(array.astype(str), return_counts=True)
    if len(values) < len(array):
        twice = values[counts > 1]
        raise ValueError(_twice(len(twice), twice.tolist()))
    return array.astype(str)


def _is_sound(array: np.ndarray) -> bool:
    """Whether ids of fixed width are short, not empty and unique: by hash, ten times as fast as sorting."""
    if array.dtype.itemsize > 4 * MAX_ID or (array == "").any():
        return False
    try:
        return pc.count_distinct(pa.array(array)).as_py() == len(array)
    except UnicodeError:  # half of a surrogate pair, which Arrow cannot hold
        return False


def _to_arrow(columns: Columns) -> pa.Table:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    rows = len(arrays[KEY])
    for name, values in arrays.items():
        if values.shape != (rows,):
            raise ValueError(
                f"column {name!r} has shape {values.shape}, expected {(rows,)} as ids."
            )
        text = (
            all(isinstance(value, str) for value in values) if values.dtype.kind == "O" else False
        )
        if values.dtype.kind not in "biufU" and not text:
            raise ValueError(
                f"column {name!r} is of {values.dtype}, expected numbers, booleans or str."
            )
    return pa.table({name: _to_array(values) for name, values in arrays.items()})


def _to_array(values: np.ndarray) -> pa.Array:
    return pa.array(values.tolist(), pa.string()) if values.dtype.kind in "OU" else pa.array(values)


def _batches(path: Path, rows: int) -> Iterator[dict[str, np.ndarray]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows):
            names = batch.schema.names
            yield {name: _to_numpy(batch.column(name)) for name in names}


def _to_numpy(column: pa.Array) -> np.ndarray:
    if pa.types.is_string(column.type):
        return text_array([value or "" for value in column.to_pylist()])
    if pa.types.is_integer(column.type) and column.null_count:
        return as_array(column.to_pylist())  # float64 would make large integers equal
    return column.to_numpy(zero_copy_only=False)
