"""Reads only regular files that a table names within its folder: no devices, no pipes, no way out."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from bias_clip.core.remote import RemoteError, describe, is_remote, read_range

MAX_FILE_BYTES = 2**28  # one image file; above it the record is bad


class Roots(NamedTuple):
    """The folders that files may be in.

    Attributes:
      root: the folder, or its address, that relative paths start from; files within it may be read.
      further: further folders and addresses, ending in "/", whose files may be read.
    """

    root: str
    further: tuple[str, ...] = ()


def make_roots(root: str | Path, further: Sequence[str] = ()) -> Roots:
    """Makes `Roots` from the folders that files may be in.

    Raises: ValueError for a folder that does not exist, or one string where several are expected.
    """
    if isinstance(further, str):
        raise ValueError(f"roots is {further!r}; expected a list of folders, as [{further!r}].")
    here = [str(folder) for folder in (root, *further) if not is_remote(folder)]
    wrong = [folder for folder in here if not Path(folder).is_dir()]
    if wrong:
        raise ValueError(f"there is no folder {wrong[0]!r}; give the one that paths start from.")
    return Roots(
        str(root).rstrip("/") if is_remote(root) else os.path.abspath(root),
        tuple(f.rstrip("/") + "/" if is_remote(f) else os.path.realpath(f) for f in further),
    )


def read_contained(name: str, roots: Roots) -> bytes:
    """Reads the file that a table names.

    Symbolic links are followed first, and the real path must be in one of the folders. An address in
    a table is read only if it begins with one of the addresses.

    Raises: ValueError for a path outside of the folders, a file that is not regular or is larger than
      `MAX_FILE_BYTES`, or one that cannot be read. RemoteError for an object that is not available now.
    """
    if is_remote(name) or is_remote(roots.root):
        return _read_remote(name if is_remote(name) else f"{roots.root}/{name}", name, roots)
    try:
        # Links are resolved before the comparison, so that a link inside the folder cannot lead out of it.
        path = os.path.realpath(os.path.join(roots.root, name), strict=True)
        allowed = (os.path.realpath(roots.root), *roots.further)
        # With a slash: "/data/images2" begins as "/data/images" does, and is another folder.
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


def _read_remote(address: str, name: str, roots: Roots) -> bytes:
    prefixes = [f for f in (roots.root + "/", *roots.further) if is_remote(f)]
    # Decoded first, because a server reads "%2e%2e" as ".."; some read a backslash as a slash.
    climbs = ".." in unquote(address).replace("\\", "/").split("/")
    if climbs or not any(address.startswith(prefix) for prefix in prefixes):
        raise ValueError(
            f"{name!r} is outside of {prefixes or roots.root}; if it belongs to the data, name the "
            "beginning of its address in `roots`."
        )
    try:
        (file,) = describe([address])
    except RemoteError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # of this record; other errors pass
            raise ValueError(f"{name!r} cannot be read: {error}") from error
        raise
    if file.size > MAX_FILE_BYTES:
        raise ValueError(
            f"{address} has {file.size} bytes; expected an image of at most {MAX_FILE_BYTES}."
        )
    return read_range(address, 0, file.size)


def _read_regular(path: str) -> bytes:
    # Check before opening, because opening a device can have effects. O_NONBLOCK, because the path may
    # become a pipe in between, and opening a pipe would wait forever.
    _check_regular(os.stat(path), path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        # Again, on the open file: the path may lead elsewhere by now.
        _check_regular(os.fstat(handle), path)
        return file.read()


def _check_regular(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a regular file; expected an image.")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} has {found.st_size} bytes; expected an image of at most {MAX_FILE_BYTES}."
        )
