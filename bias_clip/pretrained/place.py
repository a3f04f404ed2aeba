"""Where a checkpoint is: a file, a folder, a bucket, or a repository of the Hugging Face Hub."""

import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.core.storage import in_bucket, run_folder

WEIGHTS = (".safetensors", ".npz", ".bin", ".pt", ".pth")
INDEX = ".safetensors.index.json"

# The order of preference if a folder has several; that of open_clip's own reader.
_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    f"model{INDEX}",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "pytorch_model.bin",
)
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(rf"hf://(?P<repo>{_NAME}/{_NAME})(@(?P<revision>[^@]+))?")


class Place(NamedTuple):
    """A folder of files, on a disk or elsewhere.

    Attributes:
      label: the path as the user wrote it.
      names: of the files.
      fetch: returns the local path of a file, by its name.
      chosen: the file that the user named, if any.
      facts: what identifies this version, such as a revision.
      address: from a local path of a fetched file to the path by which a config can name it later.
    """

    label: str
    names: tuple[str, ...]
    fetch: Callable[[str], Path]
    chosen: str | None
    facts: dict[str, str]
    address: Callable[[str], str] = str


def split_tower(path: str) -> tuple[str, str | None]:
    """The path, and the tower that a suffix ":img" or ":txt" chooses."""
    found = re.fullmatch(r"(.+):(img|txt)", path)
    return (found[1], found[2]) if found else (path, None)


def open_place(path: str, stack: ExitStack) -> Place:
    """The folder of `path`; copies of remote files are deleted with `stack`, or stay in the Hub's cache.

    Raises:
      ValueError: nothing is found, the address is not understood, or a package is not installed.
    """
    if path.startswith("hf://"):
        return _hub(path)
    where = run_folder(path)
    if in_bucket(where):
        return _bucket(path, where, stack)
    if where.is_dir():
        # Sorted, so that the choice among several files does not depend on the file system.
        names = tuple(sorted(file.name for file in where.iterdir() if file.is_file()))
        return Place(path, names, lambda name: where / name, None, {})
    if where.is_file():
        names = tuple(sorted(file.name for file in where.parent.iterdir() if file.is_file()))
        return Place(path, names, lambda name: where.parent / name, where.name, {})
    raise ValueError(
        f"There is no file or folder {path}; expected one, or gs://bucket/folder, or hf://owner/name."
    )


def find_weights(place: Place) -> list[str]:
    """The names of files that may be the weights, or the index of their shards; one if a name decides.

    Raises:
      ValueError: there is none.
    """
    if place.chosen is not None:
        return [place.chosen]
    names = [name for name in place.names if name.endswith((*WEIGHTS, INDEX))]
    # Shards are read through their index, which says which belong together.
    shards = re.compile(r"-\d{5}-of-\d{5}\.")
    single = [name for name in names if not shards.search(name)]
    preferred = [name for name in _PREFERRED if name in single]
    if preferred or len(single) == 1:
        return (preferred or single)[:1]
    if not single:
        raise ValueError(
            f"{place.label} holds no weights; expected a file that ends in one of {', '.join(WEIGHTS)}."
        )
    return single


def _bucket(path: str, where: Any, stack: ExitStack) -> Place:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bias_clip_")))
    chosen = None
    if not where.is_dir():
        if not where.exists():
            raise ValueError(f"There is no object or folder {path}.")
        where, chosen = where.parent, where.name

    def fetch(name: str) -> Path:
        copy = folder / name
        # Each file once, however many readers ask for it.
        if not copy.exists():
            with (where / name).open("rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 2**24)
        return copy

    names = tuple(sorted(file.name for file in where.iterdir() if not file.is_dir()))

    def address(local: str) -> str:
        inside = Path(local).is_relative_to(folder)
        return str(where / Path(local).relative_to(folder)) if inside else local

    return Place(path, names, fetch, chosen, {}, address)


def _hub(path: str) -> Place:
    found = _HUB.fullmatch(path)
    if found is None:
        raise ValueError(f"got {path!r}; expected hf://owner/name or hf://owner/name@revision.")
    if find_spec("huggingface_hub") is None:
        raise ValueError(
            f"got {path!r}, which is read by huggingface_hub, and that is not installed: pip install "
            "huggingface_hub, or the extra hub of this package."
        )
    import huggingface_hub
    from huggingface_hub.errors import HTTPError  # of the hub's own HTTP library, whichever that is

    repo, revision = found["repo"], found["revision"]
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision)
    except (HTTPError, OSError) as error:  # refused, or no network
        raise ValueError(f"The Hub does not give {path}: {error}.") from error
    commit = info.sha or revision or "main"

    def fetch(name: str) -> Path:
        # All files of one commit, even if another is pushed meanwhile.
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=commit))

    names = tuple(
        sorted(file.rfilename for file in info.siblings or () if "/" not in file.rfilename)
    )
    return Place(path, names, fetch, None, {"commit": commit})
