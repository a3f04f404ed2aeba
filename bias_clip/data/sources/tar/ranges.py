"""Reads many ranges of local or remote files at a time, from any thread or process."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from bias_clip.core.page_cache import PageCache
from bias_clip.core.remote import Range, RemoteError, RemoteFile, is_remote, read_ranges
from bias_clip.data.sources.tar.files import File

Wanted = tuple[int, int, int]  # number of the file, first byte, byte behind the last
_OPEN = 256  # files a process keeps open; a usual limit is 1,024


class RangeReader:
    """Reads ranges of files; open files and connections are shared by threads, and are not pickled."""

    def __init__(self, files: Sequence[File], *, cache: Path | None = None, cache_bytes: int = 0):
        """Takes the files; with `cache_bytes`, ranges of remote files are kept in `cache`."""
        self.files = list(files)
        self.remote = any(is_remote(file.path) for file in files)
        self._cache = None
        if self.remote and cache_bytes:
            assert cache is not None
            self._cache = PageCache(cache / "pages", cache_bytes)

    def read(self, wanted: Sequence[Wanted]) -> list[bytes]:
        """Returns the bytes of each range; remote ones are read at the same time.

        Raises:
          ValueError: a file is shorter than when it was indexed.
          RemoteError: an object cannot be read. It is not a ValueError, because replacing a record that
            is briefly unavailable would change the run.
        """
        if not self.remote:
            return [self._read_local(*one) for one in wanted]
        found = self._read_remote(wanted)
        for data in found:
            if isinstance(data, RemoteError):
                raise data
        return [data for data in found if isinstance(data, bytes)]

    def _read_local(self, number: int, start: int, stop: int) -> bytes:
        file = self.files[number]
        # pread takes the offset: threads share the file without a lock.
        data = os.pread(_open(file.path, file.stamp).fileno, stop - start, start)
        if len(data) < stop - start:
            raise ValueError(
                f"{file.path} ends before byte {stop}, and was longer when it was indexed; start the run "
                "again, and it is indexed again."
            )
        return data

    def _read_remote(self, wanted: Sequence[Wanted]) -> list[bytes | RemoteError]:
        if self._cache is None:
            return read_ranges([Range(self.files[n].path, a, b) for n, a, b in wanted])
        files = [RemoteFile(f.path, f.size, f.stamp) for f in (self.files[n] for n, _, _ in wanted)]
        return self._cache.read([(f, a, b) for f, (_, a, b) in zip(files, wanted, strict=True)])


class _Handle:
    """An open file, which is closed when the last thread that reads from it is done."""

    def __init__(self, path: str, _stamp: str):
        self.fileno = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "fileno"):
            os.close(self.fileno)


# The key has the stamp, so that a file that was replaced is opened again.
_open = functools.lru_cache(maxsize=_OPEN)(_Handle)
