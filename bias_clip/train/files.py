"""Where a run's files may be, and how they are written: whole, or with an error that says why not."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path


class NotSavedError(Exception):
    """Something of a run could not be written; what was saved before is as it was."""


def check_folder(workdir: Path | str) -> None:
    """Raises ValueError for an address, such as "gs://bucket/run": as a Path it is a folder "gs:"."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(workdir)):
        raise ValueError(
            f"got the workdir {str(workdir)!r}, an address; expected a folder, on storage that all "
            "hosts share. Mount the bucket and give the folder where it is."
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises NotSavedError, which names `path`, in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise NotSavedError(
            f"{path} cannot be written: {error}. If the disk is full, make room; then start the same "
            "line again: it goes on after what is saved."
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
      NotSavedError: it could not be written; what it held before is there.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
