"""ArrayRecord files in our own encoding: random access to their records, and writing any source."""

import contextlib
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from bias_clip.core.write import whole_file
from bias_clip.data.image import encode_png
from bias_clip.data.records import Record, Source, attributes


def array_record_source(*, path: str | Sequence[str]) -> Source:
    """Reads ArrayRecord files written by `write_array_record`.

    `path` is a file, a folder (its `*.array_record` files by name), a glob, or a list of those; a
    bucket must be mounted.

    Raises: ValueError if nothing matches or a file is not an ArrayRecord; a broken record raises
      ValueError when it is read.

        source = array_record_source(path="emoji.array_record")
    """
    files = _files(path)
    try:
        return _ArrayRecords(ArrayRecordDataSource(files), str(path))
    except RuntimeError as error:
        raise ValueError(
            # Only after the failure are files opened one by one: its own error does not name the file.
            f"cannot open as ArrayRecord: {[f for f in files if not _opens(f)]}; written in part, "
            "or of another format."
        ) from error


class _ArrayRecords:
    """The open files; one reader per file, shared by threads."""

    def __init__(self, records: ArrayRecordDataSource, path: str):
        self._records = records
        self._path = path

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        try:
            return unpack_record(self._records[index])
        except RuntimeError as error:
            raise ValueError(f"record {index} of {self._path}: {error}") from error


def write_array_record(source: Source, path: str | Path) -> int:
    """Writes all records of a source to one ArrayRecord file; arrays are encoded as PNG.

    The file appears under its name only when it is complete.

    Returns: the number of records.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1")  # a read decodes one, not many
        with contextlib.closing(writer):
            for index in range(len(source)):
                writer.write(pack_record(source[index]))
    return len(source)


def pack_record(record: Record) -> bytes:
    """Encodes a record as msgpack {id, image, captions, attributes}; see `unpack_record`."""
    image = record["image"]
    return msgpack.packb(
        {
            "id": record["id"],
            "image": [_encoded(x) for x in image] if isinstance(image, tuple) else _encoded(image),
            "captions": list(record["captions"]),
            "attributes": {k: _plain(v) for k, v in attributes(record).items()},
        }
    )


def unpack_record(data: bytes) -> Record:
    """Decodes a record of `pack_record`; images stay encoded.

    Raises: ValueError if the bytes are not such a record.
    """
    try:
        fields = msgpack.unpackb(data)
        image = fields["image"]
        return {
            "id": fields["id"],
            "image": tuple(image) if isinstance(image, list) else image,
            "captions": tuple(fields["captions"]),
            **fields["attributes"],
        }
    except (msgpack.UnpackException, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{len(data)} bytes that are not a record of write_array_record: {error!r}"
        ) from error


def _encoded(image: np.ndarray | bytes) -> bytes:
    return encode_png(image) if isinstance(image, np.ndarray) else bytes(image)


def _plain(value: Any) -> str | int:
    return value.item() if isinstance(value, np.generic) else value


def _files(path: str | Sequence[str]) -> list[str]:
    if not isinstance(path, str | Path):
        return [file for one in path for file in _files(one)]
    folder = Path(path)
    found = folder.glob("*.array_record") if folder.is_dir() else glob(str(path))
    files = sorted(str(file) for file in found)
    if not files:
        raise ValueError(
            f"nothing at {str(path)!r}: expected an ArrayRecord file, a folder of *.array_record "
            "files, or a glob that matches some."
        )
    return files


def _opens(file: str) -> bool:
    try:
        return len(ArrayRecordDataSource(file)) >= 0
    except RuntimeError:
        return False
