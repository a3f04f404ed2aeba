"""Finds the members of a tar file by reading only its headers, and reports damage.

A tar is blocks of 512 bytes: a header, its member's data, the next header, and zero blocks as end mark.
Formats: POSIX.1-2017, section "pax Interchange Format", and GNU tar's manual, "Basic Tar Format". Other
readers stop silently at a bad checksum, at a zero block, or before an appended second tar. This one
reports such places, and continues at the next header that it finds.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
MEMBERS = frozenset(b"0\x007")  # regular files; 7 is a contiguous file, stored as any other
_NO_DATA = frozenset(b"123456")  # links, devices, folders: their size field does not count
_EXTENDED = frozenset(b"xXgLK")
_GLOBAL, _LONG_NAME, _LONG_TARGET, _SPARSE = b"gLKS"
_WORDS = (b"path=", b"size=", b"GNU.sparse.")
_SPARSE_TEXT = (
    "a sparse member cannot be read in place; unpack the tar, and pack it again without --sparse."
)
_MAGIC = b"ustar"
_ZERO = bytes(BLOCK)
_WINDOW = 4096  # bytes of one read: two or three headers if members are small
_SEARCH = 1 << 20
_MOST_EXTENDED = 1 << 20  # a longer name or pax header is a damaged size
_BEGINNINGS = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
}

Read = Callable[[int, int], bytes]  # offset and number of bytes; fewer bytes at the end of the file


class Member(NamedTuple):
    """A regular file in the tar: its name, and where its data are."""

    name: bytes
    offset: int
    size: int


class Damage(NamedTuple):
    """A damaged place of the tar.

    Attributes:
      kind: empty, no_members, not_tar, one of the compressed forms, bad_header, zero_block, joined, cut_member,
        cut_header or no_end; see `KINDS`.
      offset: of the first byte that is wrong.
      lost: bytes that no member was read from.
    """

    kind: str
    offset: int
    lost: int


KINDS = {
    "empty": "the file has 0 bytes",
    "no_members": "the tar has no members",
    "not_tar": "this is not a tar file",
    **dict.fromkeys(_BEGINNINGS, "this is a compressed file"),
    "bad_header": "a header is damaged; reading went on at the next one",
    "zero_block": "a zero block stands between members; reading went on behind it",
    "joined": "another tar follows the end mark; its members were read too",
    "cut_member": "the file ends inside a member; that member is lost",
    "cut_header": "the file ends inside a header",
    "no_end": "the file ends without an end mark; members may be missing",
}
COMPRESSED = frozenset(_BEGINNINGS)


def scan(read: Read, size: int, *, window: int = _WINDOW) -> Iterator[Member | Damage]:
    """Yields the regular members of a tar, and each damage, in the order of the file.

    Args:
      read: reads bytes of the file.
      size: of the file.
      window: bytes of one read; headers within it need no further one.

    Raises:
      ValueError: a sparse member, whose bytes in the tar are not those of its file.
    """
    read = _windowed(read, window)
    position, everywhere, pending = 0, _NOTHING, _NOTHING
    while position < size:
        block = read(position, BLOCK)
        length = _data_size(block)
        if length is None:
            damage, position = _irregular(read, position, size, block)
            pending = everywhere  # extended headers before the damage described a lost member
            if damage is not None:
                yield damage
            if position >= size:
                return
            continue
        # Byte 156 is the type of the member: "0" or NUL a file, "5" a folder, "x" and "g" pax headers.
        kind, data = block[156], position + BLOCK
        if kind in _EXTENDED:
            said = read(data, length)
            if kind == _GLOBAL:
                everywhere = _extend(everywhere, kind, said)
            pending = _extend(pending, kind, said)
        else:
            # pax gives the size of members of 8 GiB and more; the field of the header is then not used.
            length = 0 if kind in _NO_DATA else length if pending.size is None else pending.size
            name = pending.name or _name(block)
            if pending.sparse or kind == _SPARSE:
                raise ValueError(f"{_SPARSE_TEXT} The member: {name.decode(errors='replace')!r}.")
            if data + length > size:
                yield Damage("cut_member", position, size - position)
                return
            if kind in MEMBERS and not name.endswith(b"/"):  # a folder, in tars without types
                yield Member(name, data, length)
            pending = everywhere
        # Data are filled up to whole blocks.
        position = data + -(-length // BLOCK) * BLOCK
    yield Damage("empty" if size == 0 else "no_end", size, 0)


class _Pending(NamedTuple):
    """What extended headers say about the member that follows."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


_NOTHING = _Pending()


def _extend(pending: _Pending, kind: int, data: bytes) -> _Pending:
    if kind == _LONG_NAME:
        return pending._replace(name=data.rstrip(b"\0"))
    if kind == _LONG_TARGET or not any(word in data for word in _WORDS):
        return pending  # mostly: times in fractions of a second
    while data.strip(b"\0"):
        length, blank, rest = data.partition(b" ")
        if not blank or not length.isdigit() or int(length) < len(length) + 4:
            return pending  # keep the records before a broken one, as other readers do
        # A record is "LENGTH key=value\n", whose length counts itself, the blank and the line break.
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key == b"path":
            pending = pending._replace(name=value)
        elif key == b"size":
            pending = pending._replace(size=int(value))
        elif key.startswith(b"GNU.sparse."):
            pending = pending._replace(sparse=True)
        data = data[int(length) :]
    return pending


def _data_size(block: bytes) -> int | None:
    """The size that a header states, or None for a block that is not a sound header."""
    if len(block) < BLOCK or not _is_header(block):
        return None
    field = block[124:136]
    if field[0] & 0x80:  # GNU: base 256, for 8 GiB and more
        length = int.from_bytes(field, "big", signed=True) & (1 << 88) - 1
    else:
        try:
            length = int(field.partition(b"\0")[0].strip() or b"0", 8)
        except ValueError:
            return None
    return None if block[156] in _EXTENDED and length > _MOST_EXTENDED else length


def _is_header(block: bytes) -> bool:
    """Whether the sum of the block's bytes equals the checksum in it."""
    field = block[148:156]
    try:
        stored = int(field.partition(b"\0")[0], 8)
    except ValueError:
        return False
    # The checksum counts its own field as eight blanks. The low half of Adler-32 is 1 + sum, modulo 65521,
    # and takes a twentieth of the time of a sum in Python.
    total = stored - 8 * ord(" ") + sum(field)
    if zlib.adler32(block) & 0xFFFF == (1 + total) % 65521:
        return True
    return sum(block) - 256 * sum(b > 127 for b in block) == total  # some old tars add signed bytes


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    # Only POSIX has a prefix; GNU's own magic, "ustar  ", has times in that place.
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _irregular(read: Read, position: int, size: int, block: bytes) -> tuple[Damage | None, int]:
    """What a block that is not a header means, and where to continue."""
    if block == _ZERO:
        found = _behind_zeros(read, position, size)
        if found >= size:
            return None, size
        return Damage("zero_block" if found - position == BLOCK else "joined", position, 0), found
    if len(block) == BLOCK:
        found = _next_header(read, position + 1, size)
    else:
        found = size
    if position == 0 and found >= size and block.strip(b"\0"):
        kinds = [kind for kind, magic in _BEGINNINGS.items() if block.startswith(magic)]
        return Damage(kinds[0] if kinds else "not_tar", 0, size), size
    if len(block) < BLOCK:
        rest = "cut_header" if block.strip(b"\0") else "no_end"
        return Damage(rest, position, len(block)), size
    return Damage("bad_header", position, found - position), found


def _behind_zeros(read: Read, position: int, size: int) -> int:
    while position < size:
        chunk = read(position, _SEARCH)
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        position += zeros
        if zeros < len(chunk):
            return position // BLOCK * BLOCK
    return size


def _next_header(read: Read, position: int, size: int) -> int:
    """Where the next header begins, at any byte: after a cut, blocks are not at multiples of 512."""
    while position < size:
        chunk = read(position, _SEARCH)
        place = chunk.find(_MAGIC)
        while place >= 0:
            # The magic is at byte 257 of its header; a member's data may contain it too, hence the
            # checksum.
            start = position + place - 257
            if place >= 257 and _data_size(read(start, BLOCK)) is not None:
                return start
            place = chunk.find(_MAGIC, place + 1)
        # Chunks overlap by a block, so that a header across their border is found.
        position += max(len(chunk) - BLOCK, 1) if position + len(chunk) < size else len(chunk)
    return size


def _windowed(read: Read, window: int) -> Read:
    """Reads `window` bytes at a time, and answers requests within them without another read."""
    start, data = 0, b""

    def at(offset: int, count: int) -> bytes:
        nonlocal start, data
        first = offset - start
        # Also past the end of the file, where `data` is short: the read is then repeated and stays short.
        if first < 0 or first + count > len(data):
            start, data, first = offset, read(offset, max(count, window)), 0
        return data[first : first + count]

    return at
