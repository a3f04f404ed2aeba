"""One file of Parquet or Arrow: its schema, and some rows of it at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bias_clip.core.remote import RemoteError, describe, is_remote, read_range
from bias_clip.data.bad_records import file_fault

CACHE_BYTES = 2**27  # of recent row groups, per thread
_HANDLES = 64  # open files per thread
_MAGIC = b"PAR1"


class Shard(NamedTuple):
    """What a file's footer says about it.

    Attributes:
      path: of the file.
      schema: of its columns.
      groups: the rows of each row group (of Parquet) or record batch (of Arrow).
      most_bytes: uncompressed size of the largest group; 0 for Arrow files, which are memory-mapped.
    """

    path: str
    schema: pa.Schema
    groups: tuple[int, ...]
    most_bytes: int


def open_shard(path: str) -> Shard:
    """Reads the footer of a file or object.

    Raises: ValueError for a file that is neither format, or was cut; RemoteError for an object that
      cannot be read.
    """
    advice = "expected Parquet or Arrow: it was cut, or has another format"
    with file_fault(path, advice=advice, passing=(RemoteError,)):
        file = _open(path)
        if isinstance(file, pa.Table):
            _check_names(file.schema)
            return Shard(path, file.schema, tuple(map(len, file.to_batches())), 0)
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        most = max((group.total_byte_size for group in groups), default=0)
        rows = tuple(group.num_rows for group in groups)
        # A damaged footer may contradict itself; later a wrong offset would end the process.
        if sum(rows) != file.metadata.num_rows or min(rows, default=0) < 0:
            raise ValueError(f"{file.metadata.num_rows} rows in groups of {rows[:5]}")
        _check_names(file.schema_arrow)
        return Shard(path, file.schema_arrow, rows, most)


def _check_names(fields: Iterable[pa.Field]) -> None:
    """Raises UnicodeDecodeError for a name that a flipped bit made unreadable, inside a struct too.

    pyarrow decodes a name when it is asked for, which would be far from the file.
    """
    for field in fields:
        _ = field.name
        _check_names(field.type.field(i) for i in range(field.type.num_fields))


class RemoteBytes:
    """A remote object as a file, for pyarrow, which reads ranges of it."""

    closed = False

    def __init__(self, address: str):
        """Asks for the object's size."""
        (self._file,) = describe([address])
        self._place = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a position, counted from the start (0), from here (1) or from the end (2)."""
        self._place = offset + (0, self._place, self._file.size)[whence]
        return self._place

    def tell(self) -> int:
        """Returns the position."""
        return self._place

    def read(self, count: int = -1) -> bytes:
        """Reads up to `count` bytes."""
        stop = self._file.size if count < 0 else min(self._place + count, self._file.size)
        # pyarrow may seek beyond the end; reading there gives nothing, and does not move back.
        start, self._place = self._place, max(stop, self._place)
        return read_range(self._file.address, start, stop) if stop > start else b""

    def close(self) -> None:
        """Does nothing: connections are shared."""


class ShardReader:
    """Groups of rows of some files; each thread keeps its own open files and recent groups."""

    def __init__(self, cache_bytes: int = CACHE_BYTES):
        """Takes the bytes of recent groups that a thread may keep; the last group is always kept."""
        self._cache_bytes = cache_bytes
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"_cache_bytes": self._cache_bytes}  # open files cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_cache_bytes"])  # type: ignore[misc]

    def group(self, path: str, number: int, names: Sequence[str]) -> pa.Table:
        """Some columns of one group."""
        groups = self._kept("groups")
        # The columns are part of the key: `column` and `row` may ask for different ones.
        key = (path, number, tuple(names))
        if key in groups:
            groups.move_to_end(key)
            return groups[key][0]
        table = self._read(path, lambda file: _group(file, number, names))
        groups[key] = table, table.nbytes
        kept = sum(size for _, size in groups.values())
        # The group just read stays, even if it alone is larger than the cache.
        while len(groups) > 1 and kept > self._cache_bytes:
            kept -= groups.popitem(last=False)[1][1]
        return table

    def column(self, path: str, name: str) -> pa.ChunkedArray:
        """One column of a whole file."""
        return self._read(path, lambda file: _column(file, name))

    def _read(self, path: str, read: Callable[[Any], Any]) -> Any:
        handles = self._kept("handles")
        with file_fault(path, passing=(RemoteError,)):  # the storage is at fault, not a record
            if path not in handles:
                handles[path] = _open(path)
            handles.move_to_end(path)
            while len(handles) > _HANDLES:
                handles.popitem(last=False)
            return read(handles[path])

    def _kept(self, name: str) -> OrderedDict[Any, Any]:
        if not hasattr(self._local, name):
            setattr(self._local, name, OrderedDict())
        return getattr(self._local, name)


def _open(path: str) -> pq.ParquetFile | pa.Table:
    # Writers may store a checksum per page. Without this, pyarrow would not compare it.
    options: dict[str, Any] = {"page_checksum_verification": True}
    if is_remote(path):  # pre-buffered: the columns of a group in one request
        return pq.ParquetFile(
            pa.PythonFile(RemoteBytes(path), mode="r"), pre_buffer=True, **options
        )
    # By content and not by ending: Arrow files have several, and Parquet has a magic number.
    with open(path, "rb") as file:
        start = file.read(4)
    return pq.ParquetFile(path, memory_map=True, **options) if start == _MAGIC else _arrow(path)


def _arrow(path: str) -> pa.Table:
    """The table of an Arrow file or stream, memory-mapped unless it is compressed."""
    mapped = pa.memory_map(path)
    try:
        return pa.ipc.open_file(mapped).read_all()
    except pa.ArrowInvalid:  # of `save_to_disk`: the stream format, which has no magic number
        mapped.seek(0)
        return pa.ipc.open_stream(mapped).read_all()


def _group(file: pq.ParquetFile | pa.Table, number: int, names: Sequence[str]) -> pa.Table:
    if isinstance(file, pa.Table):
        # Validated after the choice of columns, so that only what is used is read.
        return _sound(pa.Table.from_batches([file.to_batches()[number]]).select(list(names)))
    # `use_threads=False`: the callers are threads of the pipeline themselves.
    table = _sound(file.read_row_group(number, columns=list(names), use_threads=False))
    if len(table) != (expected := file.metadata.row_group(number).num_rows):
        raise pa.ArrowInvalid(f"row group {number} has {len(table)} rows, expected {expected}")
    return table


def _column(file: pq.ParquetFile | pa.Table, name: str) -> pa.ChunkedArray:
    if isinstance(file, pa.Table):
        return _sound(file.select([name])).column(name)
    table = _sound(file.read(columns=[name], use_threads=False))
    if len(table) != file.metadata.num_rows:
        raise pa.ArrowInvalid(f"{len(table)} rows, expected {file.metadata.num_rows}")
    return table.column(name)


def _sound(table: pa.Table) -> pa.Table:
    """The table; an offset or an index that leads out of it would end the process when it is used."""
    table.validate(full=True)
    return table
