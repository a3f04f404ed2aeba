"""Writes files on a disk that are complete and durable once they appear, or do not appear at all.

It uses only the standard library, so that the smallest environment can import it. `core.storage`
builds on it: it supports buckets and says what to do when a disk is full.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # errors of file systems without fsync for folders


@contextlib.contextmanager
def whole_file(path: str | Path, *, suffix: str = PARTIAL) -> Iterator[Path]:
    """Yields a path beside `path` to write to; at the end, that file replaces `path`.

    A reader sees the old or the new file, never a part, even after a power failure. After an error the
    old file has not changed. A process that is killed leaves `path` + suffix behind; the next write
    replaces it.

    Args:
      path: path of the file; its folder must exist.
      suffix: end of the temporary name. Concurrent writers of the same file need different suffixes.

    Raises:
      ValueError: the path is a device, a pipe or a socket.
      OSError: the file cannot be written; it names the file where the disk is full.

    Example:
      with whole_file("rows.parquet") as partial:
          pq.write_table(table, partial)
    """
    path = Path(path)
    # A rename would put a file in its place: of /dev/null for all programs of this machine.
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a device or a pipe; expected the name of a file to write.")
    # In the same folder: a rename is atomic only within a file system.
    partial = path.with_name(path.name + suffix)
    try:
        yield partial
        # The bytes must be on disk before the name: else a power failure can leave an empty file.
        _sync(partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        # The system names a file that it cannot open, but not one that it cannot write on.
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise
    # BaseException: Ctrl-C must not leave a partial file either.
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_file(path: str | Path, content: str | bytes, *, suffix: str = PARTIAL) -> None:
    """Writes a file completely or not at all, a text as UTF-8; see `whole_file`."""
    with whole_file(path, suffix=suffix) as partial:
        if isinstance(content, str):
            partial.write_text(content, encoding="utf-8")
        else:
            partial.write_bytes(content)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable if the file system can; a mounted bucket cannot."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path) -> None:
    # Read-only is enough for fsync, and the only mode in which a folder opens.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
