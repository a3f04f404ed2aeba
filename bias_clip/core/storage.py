"""Where a run's files may be, on a disk or in a bucket, and how they are written: whole, or with an error."""

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from etils import epath

from bias_clip.core.write import write_file

UPLOAD_SECONDS = 60.0  # between two uploads of what grows, unless something asks for one

_BUCKET = "gs:/"  # pathlib makes it of "gs://"


class NotSavedError(Exception):
    """Something of a run could not be written; what was saved before is as it was."""


def check_folder(workdir: Path | str) -> None:
    """Raises ValueError for an address, such as "gs://bucket/run": as a Path it is a folder "gs:"."""
    if _is_address(workdir):
        raise ValueError(
            f"got the workdir {str(workdir)!r}, an address; expected a folder. Mount the bucket and "
            "give the folder where it is."
        )


def check_address(workdir: Path | str) -> None:
    """Raises ValueError for an address that is not of the form "gs://bucket/folder"."""
    if _is_address(workdir) and not re.match(rf"{_BUCKET}/?[^/]+/+[^/]", str(workdir)):
        raise ValueError(
            f"got the workdir {str(workdir)!r}; expected a folder on storage that all hosts share, or "
            "gs://bucket/folder. Mount a bucket of another kind and give the folder where it is."
        )


def run_folder(workdir: Path | str) -> Path:
    """The folder of a run: on a disk, or in a bucket of Google Cloud Storage, "gs://bucket/run".

    Returns:
      A Path, or, of a bucket, an object with the same methods (`etils.epath`). It has no `resolve`
      that works: see `absolute`.

    Raises:
      ValueError: an address of another kind, or a bucket where gcsfs is not installed.
    """
    text = str(workdir)
    check_address(text)
    if not _is_address(text):
        return Path(workdir)
    if find_spec("gcsfs") is None:
        raise ValueError(
            f"got the workdir {text!r}, which is read and written by gcsfs, and gcsfs is not "
            "installed: pip install gcsfs, or the extra gcs of this package."
        )
    return cast(Path, epath.Path("gs://" + text.removeprefix(_BUCKET).lstrip("/")))


def in_bucket(path: Path) -> bool:
    """Whether `path`, from `run_folder`, is an object of a bucket, or of a prefix in it."""
    return str(path).startswith(_BUCKET)


def absolute(path: Path) -> Path:
    """The path from the root on, or the address."""
    return path if in_bucket(path) else path.resolve()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises NotSavedError, which names `path`, in place of an OSError; for a bucket, of any error."""
    try:
        yield
    except storage_errors(path) as error:
        advice = "Once it can be, " if in_bucket(path) else "If the disk is full, make room; then "
        raise NotSavedError(
            f"{path} cannot be written: {error}. {advice}start the same line again: it goes on after "
            "what is saved."
        ) from error


def storage_errors(path: Path, *others: type[Exception]) -> tuple[type[Exception], ...]:
    """What work on files there may raise, and `others`: of a bucket each layer has its own classes."""
    return (Exception,) if in_bucket(path) else (OSError, *others)


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
      NotSavedError: it could not be written; what it held before is there.
    """
    with writing(path):
        if in_bucket(path):  # an object appears when it is whole
            path.write_text(text, encoding="utf-8")
            return
        write_file(path, text)


class Growing:
    """A folder whose files grow: that of the run or, where that is in a bucket, a copy on this disk.

    Nothing can be appended to an object of a bucket. So what grows is written to `folder`, and
    `upload` writes all files of it anew, under their names, to the run's.
    """

    def __init__(self, target: Path):
        """Takes the run's folder; of a bucket, begins with an empty one."""
        self.target, self.remote = target, in_bucket(target)
        self.folder = Path(tempfile.mkdtemp(prefix="bias_clip_")) if self.remote else target
        self._uploaded = time.monotonic()

    def fetch(self, name: str) -> None:
        """Brings a file of the bucket here, if it is there."""
        if not self.remote:
            return
        with writing(self.target / name):
            if (self.target / name).exists():
                (self.folder / name).write_bytes((self.target / name).read_bytes())

    def upload(self, *, after: float = 0.0) -> None:
        """Writes all files to the bucket, if the last time is `after` seconds ago; on a disk they are there.

        Raises:
          NotSavedError: one could not be written.
        """
        if not self.remote or time.monotonic() - self._uploaded < after:
            return
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            there = self.target / path.relative_to(self.folder).as_posix()
            with writing(there):
                there.write_bytes(path.read_bytes())
        self._uploaded = time.monotonic()

    def close(self) -> None:
        """Uploads, and removes the copy."""
        self.upload()
        if self.remote:
            shutil.rmtree(self.folder)


def _is_address(path: Path | str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None
