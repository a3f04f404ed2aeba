"""A bounded cache on this disk of what was read from remote files, page by page.

Each remote file has one sparse file here: a CRC-32 per page, then the pages at their offsets. A page
that is missing, or half written after a crash, has another checksum and is read again. Processes share
a cache; the least recently used files are removed.
"""

import errno
import functools
import hashlib
import logging
import os
import threading
import zlib
from pathlib import Path

import numpy as np

from bias_clip.core.remote import Range, RemoteError, RemoteFile, read_ranges

PAGE = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)


class PageCache:
    """Reads ranges of remote files through a folder of at most `limit` bytes.

    Each process removes files after it has written one sixteenth of the limit. So n processes may
    temporarily exceed it by n sixteenths.
    """

    def __init__(self, folder: str | Path, limit: int):
        """Makes the folder; raises ValueError for a limit under 1 MiB or a folder that cannot be made."""
        if limit < 1 << 20:
            raise ValueError(
                f"got a cache of {limit} bytes; expected at least 1048576, or 0 for none."
            )
        self.folder, self.limit = Path(folder), limit
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the cache folder {folder} cannot be made: {error}.") from error
        self._begin()

    def read(self, wanted: list[tuple[RemoteFile, int, int]]) -> list[bytes | RemoteError]:
        """Reads bytes from start to stop of each file; missing pages are read concurrently."""
        found: list[bytes | RemoteError | None] = [self._get(*one) for one in wanted]
        # What is cached is read first; the rest is one batch of requests, which run at the same time.
        missing = [i for i, data in enumerate(found) if data is None]
        spans = [_pages(*wanted[i]) for i in missing]
        files = [wanted[i][0] for i in missing]
        ranges = [Range(f.address, *span) for f, span in zip(files, spans, strict=True)]
        for i, span, data in zip(
            missing, spans, read_ranges(ranges) if ranges else [], strict=True
        ):
            if isinstance(data, bytes):
                self._put(wanted[i][0], span[0], data)
                data = data[wanted[i][1] - span[0] : wanted[i][2] - span[0]]
            found[i] = data
        return [data for data in found if data is not None]

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "limit": self.limit}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._begin()

    def _begin(self) -> None:
        self._written = self.limit  # so that the first write checks the existing files
        self._full = False
        self._lock = threading.Lock()

    def _path(self, file: RemoteFile) -> Path:
        # The stamp is in the name: an object that was replaced has a new file, and old pages are never
        # read.
        name = hashlib.blake2b("\n".join(map(str, file)).encode(), digest_size=16).hexdigest()
        return self.folder / f"{name}.pages"

    def _get(self, file: RemoteFile, start: int, stop: int) -> bytes | None:
        handle = _open(str(self._path(file)), False)
        if handle is None:
            return None
        first, last = _pages(file, start, stop)
        # Four bytes of CRC-32 per page, from the table at the beginning of the file.
        sums = os.pread(handle.fileno, -(-(last - first) // PAGE) * 4, first // PAGE * 4)
        data = os.pread(handle.fileno, last - first, _table(file) + first)
        if sums != _sums(data) or len(data) < last - first:
            return None
        return data[start - first : stop - first]

    def _put(self, file: RemoteFile, first: int, data: bytes) -> None:
        if self._full:
            return
        try:
            self._make_room(len(data))
            handle = _open(str(self._path(file)), True)
            assert handle is not None
            # Data before sums: a crash in between leaves sums that do not fit, and the page is read again.
            os.pwrite(handle.fileno, data, _table(file) + first)
            os.pwrite(handle.fileno, _sums(data), first // PAGE * 4)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._full = True
            logging.getLogger(__name__).warning(
                "the disk of the cache %s is full: reading goes on without writing to it. Make room, or "
                "give it fewer than %d bytes.",
                self.folder,
                self.limit,
            )

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._written += size
            if self._written < self.limit // 16:
                return
            self._written = 0
            there = sorted((path.stat().st_mtime_ns, path) for path in self.folder.glob("*.pages"))
            # Blocks and not st_size: the files are sparse.
            held = {path: path.stat().st_blocks * 512 for _, path in there}
            total = sum(held.values())
            for _, path in there:
                # An eighth below the limit, so that the next writes do not remove files again at once.
                if total <= self.limit - self.limit // 8:
                    break
                path.unlink(missing_ok=True)
                total -= held[path]


class _Handle:
    """An open file; closed when its last reader releases it."""

    def __init__(self, path: str, *, writable: bool):
        flags = os.O_RDWR | (os.O_CREAT if writable else 0)
        self.fileno = os.open(path, flags, 0o644)

    def __del__(self) -> None:
        if hasattr(self, "fileno"):
            os.close(self.fileno)


_handles = functools.lru_cache(maxsize=128)(_Handle)


def _open(path: str, writable: bool) -> _Handle | None:
    """The open file at a path, or None; a file that was removed since is released."""
    try:
        handle = _handles(path, writable=writable)
        if os.fstat(handle.fileno).st_nlink:
            return handle
        _handles.cache_clear()  # an open handle would keep the space of the removed file
        return _handles(path, writable=writable)
    except FileNotFoundError:
        return None


def _pages(file: RemoteFile, start: int, stop: int) -> tuple[int, int]:
    return start // PAGE * PAGE, min(-(-stop // PAGE) * PAGE, file.size)


def _table(file: RemoteFile) -> int:
    """The number of bytes before the first page."""
    return -(-(-(-file.size // PAGE) * 4) // PAGE) * PAGE


def _sums(data: bytes) -> bytes:
    sums = [zlib.crc32(data[i : i + PAGE]) or 1 for i in range(0, len(data), PAGE)]
    return np.array(sums, "<u4").tobytes()  # 0 marks a page that was never written
