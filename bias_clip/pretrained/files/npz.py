"""NumPy's `.npz` archives, read member by member and never with pickle."""

import math
import re
import zlib
from typing import NamedTuple

import ml_dtypes
import numpy as np

from bias_clip.pretrained.files import zips
from bias_clip.pretrained.files.tensors import Mapped, Tensor, as_tensor

_MAX_HEADER = 10_000  # bytes; NumPy's own limit
_HEADER = re.compile(
    r"\{'descr': '(?P<descr>[^']*)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(\d{1,18}, ?)*(\d{1,18})?)\), ?\}\s*"
)
_KINDS = re.compile(r"[<|=][biuf]\d+")
_BFLOAT16 = ("|V2", "<V2")  # NumPy has no bfloat16, and stores it as two untyped bytes


class _Header(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    size: int  # of the header, in bytes


def read(mapped: Mapped) -> dict[str, Tensor]:
    """All arrays by name, without ".npy"; bytes of type `V2` are bfloat16, as big_vision stores it.

    Uncompressed members, as `np.savez` writes them, are views of the file. Compressed members are
    unpacked when they are used.

    Raises:
      ValueError: a member is not an array, holds Python objects, or has a size that contradicts its shape.
    """
    tensors = {}
    for member_name, member in zips.members(mapped).items():
        if not member_name.endswith(".npy"):
            raise ValueError(
                f"{mapped.path}: member {member_name!r} is not an array; expected names in .npy."
            )
        name = member_name.removesuffix(".npy")
        tensors[name] = _tensor(mapped, name, member)
    return tensors


def _tensor(mapped: Mapped, name: str, member: zips.Member) -> Tensor:
    where = f"{mapped.path}: array {name!r}"
    # Of a compressed member only the first bytes are unpacked here, for its header.
    begin = member._replace(size=min(member.size, _MAX_HEADER + 12))
    start = mapped.bytes(member.start, begin.size) if member.stored else _inflate(mapped, begin)
    header = _header(where, start)
    size = math.prod(header.shape) * header.dtype.itemsize
    if header.size + size != member.size:
        raise ValueError(
            f"{where} of {header.dtype} and shape {header.shape} takes {size} bytes, and has "
            f"{member.size - header.size}. Download the file again."
        )
    shape, order = header.shape, "C"
    if header.fortran:
        # Column-major data are the row-major data of the transposed array.
        shape, order = shape[::-1], "F"
    if member.stored:
        # Not aligned in general: NumPy copies to other memory where an operation needs alignment.
        view = mapped.view(header.dtype, shape, member.start + header.size)
        return as_tensor(mapped.name, view.T if order == "F" else view)

    def array() -> np.ndarray:
        data = zips.unpack(mapped, member)
        flat = np.frombuffer(data, header.dtype, math.prod(shape), header.size).reshape(shape)
        return flat.T if order == "F" else flat

    return Tensor(mapped.name, header.shape, header.dtype, array)


def _inflate(mapped: Mapped, begin: zips.Member) -> bytes:
    """The first bytes of a compressed member."""
    # -15: raw deflate, as in zip archives, without zlib's header.
    inflate = zlib.decompressobj(-15)
    try:
        return inflate.decompress(mapped.bytes(begin.start, begin.packed), begin.size)
    except zlib.error as error:
        raise ValueError(f"{mapped.path} is damaged: {error}. Download it again.") from None


def _header(where: str, start: bytes) -> _Header:
    """Reads the header without NumPy's reader, which evaluates it as a Python expression."""
    if start[:6] != b"\x93NUMPY" or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError(f"{where} does not begin like an array. Download the file again.")
    # Version 1 has the length of the header in two bytes, later ones in four.
    width = 2 if start[6:7] == b"\x01" else 4
    length = int.from_bytes(start[8 : 8 + width], "little")
    text = start[8 + width : 8 + width + length].decode("latin1")
    found = _HEADER.fullmatch(text)
    if length > _MAX_HEADER or found is None:
        raise ValueError(f"{where} has a header that NumPy does not write: {text[:60]!r}.")
    descr = found["descr"]
    if "O" in descr:
        raise ValueError(
            f"{where} holds Python objects, which can run code when they are read; expected numbers."
        )
    if descr not in _BFLOAT16 and not _KINDS.fullmatch(descr):
        raise ValueError(f"{where} is of type {descr!r}; expected numbers, low byte first.")
    shape = tuple(int(x) for x in found["shape"].replace(",", " ").split())
    try:
        dtype = np.dtype(ml_dtypes.bfloat16 if descr in _BFLOAT16 else descr)
    except TypeError:
        raise ValueError(f"{where} is of type {descr!r}, which NumPy does not know.") from None
    if len(shape) > 32:
        raise ValueError(f"{where} has {len(shape)} axes; expected at most 32.")
    return _Header(dtype, shape, found["fortran"] == "True", 8 + width + length)
