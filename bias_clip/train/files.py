"""How the files of a run are written: whole, and a disk that takes no more is said."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class NotSavedError(Exception):
    """Something of a run could not be written; what was saved before is as it was."""


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
