"""Files that a table names are read, and nothing else: no way out of the folder, no device, no pipe."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MAX_FILE_BYTES = 2**28  # one image file; above it the record is bad


class Roots(NamedTuple):
    """Where files may be.

    Attributes:
      root: the folder that relative paths start from; files within it may be read.
      further: folders whose files may be read, too.
    """

    root: str
    further: tuple[str, ...] = ()


def make_roots(root: str | Path, further: Sequence[str] = ()) -> Roots:
    """Makes the folders that files may be in.

    Raises: ValueError for a folder that does not exist, or one string where several are expected.
    """
    if isinstance(further, str):
        raise ValueError(f"roots is {further!r}; expected a list of folders, as [{further!r}].")
    wrong = [str(folder) for folder in (root, *further) if not Path(folder).is_dir()]
    if wrong:
        raise ValueError(f"there is no folder {wrong[0]!r}; give the one that paths start from.")
    return Roots(os.path.abspath(root), tuple(os.path.realpath(folder) for folder in further))


def read_contained(name: str, roots: Roots) -> bytes:
    """Reads the file that a table names.

    Symbolic links are followed first, and the real path must lie in one of the folders.

    Raises: ValueError for a path outside of them, a file that is not a regular one or is larger than
      `MAX_FILE_BYTES`, and one that cannot be read.
    """
    try:
        path = os.path.realpath(os.path.join(roots.root, name), strict=True)
        allowed = (os.path.realpath(roots.root), *roots.further)
        if not any(
            path == folder or path.startswith(folder.rstrip("/") + "/") for folder in allowed
        ):
            raise ValueError(
                f"{name!r} leads to {path}, which is outside of {roots.root}; if it belongs to the "
                "data, name its folder in `roots`."
            )
        return _read_regular(path)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{name!r} cannot be read: {error}") from error


def _read_regular(path: str) -> bytes:
    # Looked at before it is opened, because opening a device can act; O_NONBLOCK, because the path
    # may become a pipe in between, whose opening would wait for ever.
    _check_regular(os.stat(path), path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        _check_regular(os.fstat(handle), path)
        return file.read()


def _check_regular(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a regular file; expected an image.")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} has {found.st_size} bytes; expected an image of at most {MAX_FILE_BYTES}."
        )
