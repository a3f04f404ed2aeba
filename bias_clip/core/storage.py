"""The files of a run, on a disk or in a bucket, written completely or with an error."""

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
    """A file of a run could not be written; what was saved before has not changed."""


def check_folder(workdir: Path | str) -> None:
    """Raises ValueError for an address such as "gs://bucket/run", which Path takes as a folder "gs:"."""
    if _is_address(workdir):
        raise ValueError(
            f"got the workdir {str(workdir)!r}, an address; expected a folder. Mount the bucket and "
            "give the folder where it is."
        )


def check_address(workdir: Path | str) -> None:
    """Raises ValueError for an address that does not have the form "gs://bucket/folder"."""
    if _is_address(workdir) and not re.match(rf"{_BUCKET}/?[^/]+/+[^/]", str(workdir)):
        raise ValueError(
            f"got the workdir {str(workdir)!r}; expected a folder on storage that all hosts share, or "
            "gs://bucket/folder. Mount a bucket of another kind and give the folder where it is."
        )


def run_folder(workdir: Path | str) -> Path:
    """The folder of a run: on a disk, or in a bucket of Google Cloud Storage, "gs://bucket/run".

    Returns:
      A Path or, for a bucket, an object with the same methods (`etils.epath`). Its `resolve` does not
      work; use `absolute`.

    Raises:
      ValueError: an address of another kind, or a bucket while gcsfs is not installed.
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


def is_run(path: Path | str) -> bool:
    """Whether a path is the workdir of a run: published folders have no checkpoints/ beside config.json.

    Raises:
      ValueError: as `run_folder`.
    """
    # An address of the Hugging Face hub, which `run_folder` would refuse.
    if str(path).startswith("hf:/"):
        return False
    folder = run_folder(path)
    return (folder / "checkpoints").is_dir() and (folder / "config.json").is_file()


def in_bucket(path: Path) -> bool:
    """Whether `path`, from `run_folder`, is an object or a prefix in a bucket."""
    return str(path).startswith(_BUCKET)


def absolute(path: Path) -> Path:
    """The absolute path, or the address."""
    return path if in_bucket(path) else path.resolve()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError, or for a bucket any error, into a NotSavedError that names `path`."""
    try:
        yield
    except storage_errors(path) as error:
        advice = "Once it can be, " if in_bucket(path) else "If the disk is full, make room; then "
        raise NotSavedError(
            f"{path} cannot be written: {error}. {advice}start the same line again: it goes on after "
            "what is saved."
        ) from error


def storage_errors(path: Path, *others: type[Exception]) -> tuple[type[Exception], ...]:
    """The errors of work on files there, and `others`; each layer of a bucket has its own classes."""
    return (Exception,) if in_bucket(path) else (OSError, *others)


def write_whole(path: Path, text: str) -> None:
    """Writes a file completely or not at all.

    Raises:
      NotSavedError: it could not be written; its former content remains.
    """
    with writing(path):
        if in_bucket(path):  # an object appears only when it is complete
            path.write_text(text, encoding="utf-8")
            return
        write_file(path, text)


class Growing:
    """A folder whose files grow: the run's folder or, for a run in a bucket, a copy on this disk.

    Objects in a bucket cannot be appended to. So growing files are written to `folder`, and `upload`
    writes all of them again, under the same names, to the folder of the run.
    """

    def __init__(self, target: Path):
        """Takes the run's folder; of a bucket, begins with an empty one."""
        self.target, self.remote = target, in_bucket(target)
        self.folder = Path(tempfile.mkdtemp(prefix="bias_clip_")) if self.remote else target
        self._uploaded = time.monotonic()

    def fetch(self, name: str) -> None:
        """Copies a file from the bucket to this disk, if it exists."""
        if not self.remote:
            return
        with writing(self.target / name):
            if (self.target / name).exists():
                (self.folder / name).write_bytes((self.target / name).read_bytes())

    def upload(self, *, after: float = 0.0) -> None:
        """Writes all files to the bucket if the last upload is `after` seconds ago; no-op on a disk.

        Raises:
          NotSavedError: a file could not be written.
        """
        # monotonic: the wall clock of a host may jump.
        if not self.remote or time.monotonic() - self._uploaded < after:
            return
        # All files again: objects have no append. Sorted, so that an error names the same file each time.
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
