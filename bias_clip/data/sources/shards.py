"""One file of Parquet or Arrow: its schema, and some rows of it at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

CACHE_BYTES = 2**27  # of recent row groups, per thread
_HANDLES = 64  # open files per thread
_MAGIC = b"PAR1"


class Shard(NamedTuple):
    """What is known of a file after its footer was read.

    Attributes:
      path: of the file.
      schema: of its columns.
      groups: the rows of each row group (of Parquet) or record batch (of Arrow).
      most_bytes: of the largest group, not compressed; 0 for Arrow files, which are memory-mapped.
    """

    path: str
    schema: pa.Schema
    groups: tuple[int, ...]
    most_bytes: int


def open_shard(path: Path) -> Shard:
    """Reads what a file holds.

    Raises: ValueError for a file that is neither, or was cut.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == _MAGIC:
            about = pq.ParquetFile(path)
            groups = [about.metadata.row_group(i) for i in range(about.num_row_groups)]
            most = max((group.total_byte_size for group in groups), default=0)
            return Shard(
                str(path), about.schema_arrow, tuple(group.num_rows for group in groups), most
            )
        batches = _arrow(str(path))
        return Shard(str(path), batches.schema, tuple(map(len, batches.to_batches())), 0)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet or Arrow: {error}; it was cut, or is of another form."
        ) from error


class ShardReader:
    """Groups of rows of some files; each thread has its own open files and its recent groups."""

    def __init__(self, cache_bytes: int = CACHE_BYTES):
        """Takes how many bytes of recent groups a thread may keep; the last is always kept."""
        self._cache_bytes = cache_bytes
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"_cache_bytes": self._cache_bytes}  # open files stay in their process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_cache_bytes"])  # type: ignore[misc]

    def group(self, path: str, number: int, names: Sequence[str]) -> pa.Table:
        """Some columns of one group."""
        groups = self._kept("groups")
        key = (path, number, tuple(names))
        if key in groups:
            groups.move_to_end(key)
            return groups[key]
        groups[key] = self._read(path, lambda file: _group(file, number, names))
        while (
            len(groups) > 1 and sum(table.nbytes for table in groups.values()) > self._cache_bytes
        ):
            groups.popitem(last=False)
        return groups[key]

    def column(self, path: str, name: str) -> pa.ChunkedArray:
        """One column of a whole file."""
        return self._read(path, lambda file: _column(file, name))

    def _read(self, path: str, read: Callable[[Any], Any]) -> Any:
        handles = self._kept("handles")
        try:
            if path not in handles:
                handles[path] = _open(path)
            handles.move_to_end(path)
            while len(handles) > _HANDLES:
                handles.popitem(last=False)
            return read(handles[path])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}; it is damaged.") from error

    def _kept(self, name: str) -> OrderedDict[Any, Any]:
        if not hasattr(self._local, name):
            setattr(self._local, name, OrderedDict())
        return getattr(self._local, name)


def _open(path: str) -> pq.ParquetFile | pa.Table:
    with open(path, "rb") as file:
        start = file.read(4)
    if start != _MAGIC:
        return _arrow(path)
    return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)


def _arrow(path: str) -> pa.Table:
    """The table of an Arrow file or stream; its memory is the file's unless it is compressed."""
    mapped = pa.memory_map(path)
    try:
        return pa.ipc.open_file(mapped).read_all()
    except pa.ArrowInvalid:  # of `save_to_disk`: the stream format, which has no magic number
        mapped.seek(0)
        return pa.ipc.open_stream(mapped).read_all()


def _group(file: pq.ParquetFile | pa.Table, number: int, names: Sequence[str]) -> pa.Table:
    if isinstance(file, pa.Table):
        return pa.Table.from_batches([file.to_batches()[number]]).select(list(names))
    return file.read_row_group(number, columns=list(names), use_threads=False)


def _column(file: pq.ParquetFile | pa.Table, name: str) -> pa.ChunkedArray:
    if isinstance(file, pa.Table):
        return file.column(name)
    return file.read(columns=[name], use_threads=False).column(name)
