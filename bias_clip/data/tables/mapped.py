"""Columns by record number: memory-mapped arrays of a source's records, for sources of any size.

    <folder>/manifest.json   rows, what the columns are, and a fingerprint of each; written last
    <folder>/<name>.npy      one number per record, or per drawn row

A tool writes the folder once; a run maps it. Opening reads a few blocks of each file, whatever its size,
and compares them with the fingerprint; `verify_mapped` reads everything. Bytes per record: those of the
number (1 for a label of yes, no and unknown, 4 for a weight or a prior, 8 for the hash of an id), on disk;
in memory only the pages that a run touches, which the system takes back when it needs them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt64

from bias_clip.core.json_object import read_object
from bias_clip.core.write import whole_file, write_file
from bias_clip.data.records import Source, read_record
from bias_clip.data.tables.table import file_sha256

MANIFEST = "manifest.json"
KIND, VERSION = "columns", 1
ID_HASH = "id_hash"
_BLOCKS, _BLOCK = 64, 4096  # what opening reads of each file
_LONGEST = 200  # bytes of an array's name; file systems allow 255 with the ending
_PROBES = 16  # records whose ids are compared when a run starts


class MappedArray:
    """One array of a folder; it opens its file again in other processes instead of being copied."""

    def __init__(self, path: str, dtype: Any = None):
        self._path, self._dtype = path, dtype
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape, self.ndim = self._array.shape, 1
        self.dtype = np.dtype(dtype or self._array.dtype)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        """The numbers of some records, in the dtype that was asked for."""
        # Only the pages of these entries are read; [()] makes a number of an array without axes.
        return np.asarray(self._array[index]).astype(self.dtype)[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._array, dtype or self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled by path: otherwise each worker would get a copy of the whole array.
        return MappedArray, (self._path, self._dtype)

    def astype(self, dtype: Any) -> "MappedArray":
        """The same array, converted where it is read."""
        return MappedArray(self._path, dtype)


class Mapped(NamedTuple):
    """An open folder: its manifest, and its arrays by name."""

    manifest: dict[str, Any]
    arrays: dict[str, MappedArray]


def is_mapped(path: str | Path) -> bool:
    """Whether a path is a folder of columns."""
    return (Path(path) / MANIFEST).is_file()


def write_mapped(
    folder: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], *, records: int
) -> dict[str, Any]:
    """Writes arrays of numbers, then their manifest; a folder without one is unfinished.

    Args:
      arrays: [n] each; those of records have `records` entries, `rows` as many as are drawn.
      about: JSON that says what they are of.

    Raises: ValueError for text, or an array of another shape.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # the arrays that it describes are about to change
    found = {}
    for name, values in arrays.items():
        if values.dtype.kind not in "biuf" or values.ndim != 1:
            raise ValueError(
                f"column {name!r} is {values.dtype}{list(values.shape)}; expected one number per "
                "record. Number text first, by bias-clip annotate --categories."
            )
        path = folder / f"{name}.npy"
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        found[name] = {
            "dtype": str(values.dtype),
            "length": len(values),
            # The range stands here, so that a run can check it without reading the array.
            "least": values.min().item() if len(values) else None,
            "most": values.max().item() if len(values) else None,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "sample": _sample(path),
        }
    manifest = {"kind": KIND, "version": VERSION, "records": records, **about, "arrays": found}
    write_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def open_mapped(folder: str | Path) -> Mapped:
    """Maps the arrays of a folder, in a time that does not depend on their length.

    Raises: ValueError if there is none, it is unfinished, or a file is not the one that was written.
    """
    folder = Path(folder)
    if not is_mapped(folder):
        raise ValueError(
            f"{folder} is not a finished folder of columns: it has no {MANIFEST}. Run bias-clip columns."
        )
    manifest = read_object(folder / MANIFEST, advice="write the columns again")
    if (manifest.get("kind"), manifest.get("version")) != (KIND, VERSION):
        raise ValueError(f"{folder / MANIFEST} is not of columns of version {VERSION}.")
    _check_manifest(folder / MANIFEST, manifest)
    arrays = {}
    for name, about in manifest["arrays"].items():
        path = folder / f"{name}.npy"
        if not path.is_file() or path.stat().st_size != about["bytes"]:
            raise ValueError(
                f"{path} is missing or cut off; copy it again, or write the columns again."
            )
        # The same size is no proof: a rewritten file of as many records differs in these blocks.
        if _sample(path) != about["sample"]:
            raise ValueError(f"{path} is not the file of its manifest; write the columns again.")
        arrays[name] = MappedArray(str(path))
    return Mapped(manifest, arrays)


def verify_mapped(folder: str | Path) -> None:
    """Reads all files and compares their SHA-256; raises ValueError naming one that differs."""
    for name, about in open_mapped(folder).manifest["arrays"].items():
        path = Path(folder) / f"{name}.npy"
        if file_sha256(path) != about["sha256"]:
            raise ValueError(f"{path} has changed since it was written; write the columns again.")


def hash_ids(ids: Sequence[str] | np.ndarray) -> UInt64[np.ndarray, " n"]:
    """64 bits of the BLAKE2b of each id: two of 10^8 ids collide with a chance of 0.03 %."""
    # Not Python's `hash`, which differs in each process.
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def check_source(mapped: Mapped, source: Source, folder: str | Path) -> None:
    """Compares the ids of a few records, spread over the source, with the hashes of the columns.

    A source that knows ids without reading records (`names`) is not read.

    Raises: ValueError for columns of another source.
    """
    records = mapped.manifest["records"]
    if len(source) != records:
        raise ValueError(
            f"{folder} is of {records} records, the source has {len(source)}; write the columns again."
        )
    if ID_HASH not in mapped.arrays:
        return
    rows = sorted({round(x) for x in np.linspace(0, records - 1, _PROBES).tolist()})
    for row in rows:
        name = _id_of(source, row)
        if name is not None and hash_ids([name])[0] != mapped.arrays[ID_HASH][row]:
            raise ValueError(
                f"{folder} is of another source, or in another order: record {row} is {name!r} there. "
                "Write the columns again from this source."
            )


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    arrays = manifest.get("arrays")
    wrong = [] if isinstance(arrays, dict) else ["arrays"]
    if type(manifest.get("records")) is not int:
        wrong.append("records")
    kinds = {"bytes": int, "sha256": str, "sample": str, "dtype": str, "length": int}
    for name, about in arrays.items() if isinstance(arrays, dict) else ():
        known = about if isinstance(about, dict) else {}
        # A name is that of a file in this folder.
        if Path(name).name != name or not 0 < len(name.encode()) <= _LONGEST:
            wrong.append(name[:80])
        wrong += [f"{name[:80]}.{k}" for k, kind in kinds.items() if type(known.get(k)) is not kind]
    if wrong:
        raise ValueError(
            f"{path}: {wrong[:3]} are missing or of another type; write the columns again."
        )


def _id_of(source: Source, row: int) -> str | None:
    names = getattr(source, "names", None)
    if callable(names):
        return names(row)["id"]
    try:
        return read_record(source, row)["id"]
    except ValueError:  # a bad record, which the stream will count; the others are compared
        return None


def _sample(path: Path) -> str:
    """The SHA-256 of the size and of some blocks, the first and the last among them."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    starts = {round(x) for x in np.linspace(0, max(0, size - _BLOCK), _BLOCKS).tolist()}
    with path.open("rb") as file:
        for start in sorted(starts):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
