"""The safetensors format: 8 bytes of length, that many of JSON, then the numbers.

This does not use the package of that name, because that package copies from its own mapping of the file: a
process that loads 800 MB then holds 1,600 MB. It also has no view whose memory can be released
(`Mapped.release`).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bias_clip.pretrained.files.tensors import Mapped, Tensor, as_tensor

MAX_HEADER = 100_000_000  # bytes; the limit of the format's own library

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_AGAIN = "Download the file again, or ask whoever wrote it."


def looks_like(mapped: Mapped) -> bool:
    """Whether the file begins like one of this format."""
    # Behind the 8 bytes of length the header begins, always as a JSON object.
    return mapped.bytes(8, 1) == b"{"


def read(mapped: Mapped) -> dict[str, Tensor]:
    """All tensors by name. Only the header is read, after comparing its length with the file's.

    Raises:
      ValueError: a header that is longer than the file, or is not JSON of this form; a tensor of an
        unknown type, whose bytes do not fit its shape, lie outside the file, or overlap another's.
    """
    start, header = _header(mapped)
    # Free text of whoever wrote the file, and not a tensor.
    header.pop("__metadata__", None)
    places, tensors = [], {}
    for name, entry in header.items():
        dtype, shape, (begin, end) = _entry(mapped, name, entry)
        if end > mapped.size - start:
            raise ValueError(
                f"{mapped.path}: tensor {name!r} ends at byte {start + end}, the file at "
                f"{mapped.size}: it is cut off. {_AGAIN}"
            )
        places.append((begin, end, name))
        tensors[name] = as_tensor(mapped.name, mapped.view(dtype, shape, start + begin))
    _check_places(mapped, sorted(places), mapped.size - start)
    return tensors


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes `tensors` sorted by size of type, largest first as in the format's own library, then by name."""
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    # Largest types first: every tensor then begins at a multiple of its item's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": names[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that numbers begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).tobytes())


def _header(mapped: Mapped) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and what the header says."""
    length = int.from_bytes(mapped.bytes(0, 8), "little")
    if mapped.size < 8 or length > min(mapped.size - 8, MAX_HEADER):
        raise ValueError(
            f"{mapped.path}: the header claims {length} bytes of a file of {mapped.size}; expected a "
            f"safetensors file, whose header has at most {MAX_HEADER}. {_AGAIN}"
        )
    try:
        header = json.loads(mapped.bytes(8, length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{mapped.path}: the header of the safetensors file cannot be read: {error}. {_AGAIN}"
        ) from None
    if not isinstance(header, dict):
        raise ValueError(f"{mapped.path}: the header is not a table of tensors. {_AGAIN}")
    return 8 + length, header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(
    mapped: Mapped, name: str, entry: Any
) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    """Type, shape and place of one tensor, with all checks that do not need the other tensors."""
    where = f"{mapped.path}: tensor {name!r}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{where} is without dtype, shape or data_offsets. {_AGAIN}")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"{where} has dtype {entry['dtype']!r}; expected one of {', '.join(_DTYPES)}."
        )
    dtype, shape, place = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or not _sizes(place) or len(place) != 2 or len(shape) > 32:
        raise ValueError(f"{where} has shape {shape!r} and data_offsets {place!r}. {_AGAIN}")
    if place[1] - place[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{where} of {entry['dtype']} and shape {shape} takes "
            f"{math.prod(shape) * dtype.itemsize} bytes, and has {place[1] - place[0]}. {_AGAIN}"
        )
    return dtype, tuple(shape), (place[0], place[1])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and x >= 0 for x in value)


def _check_places(mapped: Mapped, places: list[tuple[int, int, str]], size: int) -> None:
    """Raises ValueError unless every byte belongs to one tensor, as the format's own library does."""
    last, before = 0, "the header"
    for begin, end, name in places:
        if begin != last:
            what = "overlaps" if begin < last else "leaves a gap after"
            raise ValueError(f"{mapped.path}: tensor {name!r} {what} {before!r}. {_AGAIN}")
        last, before = end, name
    if last != size:
        raise ValueError(
            f"{mapped.path}: {size - last} bytes after tensor {before!r} belong to none. {_AGAIN}"
        )
