"""Files on a disk that are whole and durable once they have their name, or do not appear at all.

The standard library only, so that the lightest of environments can import it. `core.storage` is the
floor above, which knows buckets and says what to do when a disk is full.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what file systems answer that have no fsync of folders


@contextlib.contextmanager
def whole_file(path: str | Path, *, suffix: str = PARTIAL) -> Iterator[Path]:
    """Yields a path beside `path` to write to; at the end, what was written there becomes `path`.

    A reader sees the former file or the new one, never a part, even after a power cut. After an error
    in between the former file is as it was. A process that is killed leaves `path` + suffix behind,
    which the next write replaces.

    Args:
      path: of the file; its folder exists.
      suffix: ends the name that is written to. Give one of its own to each of several writers of one
        file at one time.

    Raises:
      OSError: the file cannot be written.

    Example:
      with whole_file("rows.parquet") as partial:
          pq.write_table(table, partial)
    """
    path = Path(path)
    partial = path.with_name(path.name + suffix)
    try:
        yield partial
        # The bytes before the name: else a power cut can leave the name on an empty file.
        _sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_file(path: str | Path, content: str | bytes, *, suffix: str = PARTIAL) -> None:
    """Writes a file whole or not at all, a text as UTF-8; see `whole_file`."""
    with whole_file(path, suffix=suffix) as partial:
        if isinstance(content, str):
            partial.write_text(content, encoding="utf-8")
        else:
            partial.write_bytes(content)


def _sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where the file system can: a mounted bucket cannot."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
