"""Where the members of a zip archive are in the file, so that uncompressed members can be mapped."""

import zipfile
import zlib
from typing import NamedTuple

from bias_clip.pretrained.files.tensors import Mapped

_LOCAL_HEADER = 30  # bytes before the name
_MAX_RATIO = 1032  # the most that deflate can compress: a larger claim is false


class Member(NamedTuple):
    """A file in the archive.

    Attributes:
      start: of its bytes in the archive.
      packed: its number of bytes in the archive.
      size: its number of bytes when unpacked.
      stored: whether it is not compressed.
    """

    start: int
    packed: int
    size: int
    stored: bool


def looks_like(mapped: Mapped) -> bool:
    """Whether the file begins like a zip archive."""
    return mapped.bytes(0, 4) == b"PK\x03\x04"


def members(mapped: Mapped) -> dict[str, Member]:
    """All members by name; nothing is unpacked.

    Raises:
      ValueError: the file is not an archive; or a member occurs twice, is encrypted, compressed in an
        unusual way, outside the file, or claims a larger size than its bytes can hold.
    """
    try:
        with zipfile.ZipFile(mapped.path) as archive:
            infos = archive.infolist()
    # zipfile raises the last two for fields that no archive has.
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, EOFError) as error:
        raise ValueError(
            f"{mapped.path} is cut off, or not a zip archive: {error}. Download it again."
        ) from None
    found: dict[str, Member] = {}
    for info in infos:
        if info.filename in found:
            raise ValueError(f"{mapped.path}: member {info.filename!r} is there twice.")
        found[info.filename] = _member(mapped, info)
    return found


def unpack(mapped: Mapped, member: Member) -> bytes:
    """The bytes of a member, never more than its stated size.

    Raises:
      ValueError: the bytes are not those that the archive states.
    """
    packed = mapped.bytes(member.start, member.packed)
    if member.stored:
        return packed
    inflate = zlib.decompressobj(-15)
    try:
        # One byte more than stated: a bomb is stopped there, and shows itself by the extra byte.
        data = inflate.decompress(packed, member.size + 1)
    except zlib.error as error:
        raise ValueError(f"{mapped.path} is damaged: {error}. Download it again.") from None
    if len(data) != member.size:
        raise ValueError(
            f"{mapped.path}: a member of {member.size} bytes has {len(data)}. Download it again."
        )
    return data


def _member(mapped: Mapped, info: zipfile.ZipInfo) -> Member:
    where = f"{mapped.path}: member {info.filename!r}"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where} is encrypted, or compressed by another method than deflate.")
    stored = info.compress_type == zipfile.ZIP_STORED
    header = mapped.bytes(info.header_offset, _LOCAL_HEADER) if info.header_offset >= 0 else b""
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{where} is not where the archive says. Download the file again.")
    # The lengths of name and extra field here may differ from those of the central directory.
    skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + _LOCAL_HEADER + skip
    if start + info.compress_size > mapped.size:
        raise ValueError(f"{where} is cut off. Download the file again.")
    # Checked before anything is unpacked; 1024 for the fixed cost of tiny members.
    if info.file_size > (1 if stored else _MAX_RATIO) * info.compress_size + (not stored) * 1024:
        raise ValueError(
            f"{where} claims {info.file_size} bytes, more than its {info.compress_size} can hold."
        )
    return Member(start, info.compress_size, info.file_size, stored)
