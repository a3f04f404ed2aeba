"""Which files make up a data set of Parquet or Arrow: a folder, a pattern, or one of several splits."""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from bias_clip.core.json_object import read_object
from bias_clip.core.remote import find, is_remote
from bias_clip.data.bad_records import file_fault

_ENDINGS = (".parquet", ".pq", ".arrow", ".feather")
_NUMBERED = re.compile(r"(?:(.+?)[-_.])?(\d{4,})-of-(\d{4,})$")
_SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")


def find_shards(path: str | Sequence[str], split: str | None) -> list[str]:
    """The files of a data set in order.

    Args:
      path: a file, a folder (also one of `save_to_disk`), a pattern, or a list of those. Addresses of
        files, and of prefixes and patterns in buckets, are valid too.
      split: which split to read, if names or folders distinguish several.

    Raises: ValueError if nothing is found, a shard is missing (of "00001-of-00003"), the split is
      unknown, or there are several splits and none is named: nobody should train on evaluation data
      by accident.
    """
    names = [str(path)] if isinstance(path, str | Path) else [str(name) for name in path]
    files = [file for name in names for file in (_remote(name) or map(str, _files(Path(name))))]
    if not files:
        raise ValueError(f"nothing at {names}: expected files, or a folder of {list(_ENDINGS)}.")
    splits = [_split_of(Path(file)) for file in files]
    there = sorted({name for name in splits if name})
    if split is not None and split not in there:
        raise ValueError(f"{names} has no split {split!r}, it has {there}.")
    if split is None and len(there) > 1:
        raise ValueError(f"{names} has the splits {there}; name the one to read by `split`.")
    if split is not None:
        files = [file for file, own in zip(files, splits, strict=True) if own == split]
    _check_whole([Path(file) for file in files])
    return files


def _remote(name: str) -> list[str]:
    if not is_remote(name):
        return []
    if name.endswith(_ENDINGS) and not has_magic(name):
        return [name]
    return [file.address for file in find(name) if file.address.endswith(_ENDINGS)]


def _files(path: Path) -> list[Path]:
    if has_magic(str(path)) and not path.exists():
        return sorted(Path(name) for name in glob(str(path), recursive=True))
    if not path.is_dir():
        return [path] if path.is_file() else []
    # Folders of `save_to_disk` say what belongs to them: the splits here, the files of a split below.
    if (path / "dataset_dict.json").is_file():
        with file_fault(path / "dataset_dict.json"):
            found = _read_json(path / "dataset_dict.json").get("splits", [])
            splits = [_inside(path, name) for name in found]
        return [file for name in splits for file in _files(name)]
    if (path / "state.json").is_file():
        with file_fault(path / "state.json"):
            found = _read_json(path / "state.json")["_data_files"]
            return [_inside(path, entry["filename"]) for entry in found]
    inner = [file.relative_to(path) for file in sorted(path.rglob("*"))]
    # Hidden files, and names with an underscore, such as _SUCCESS and _metadata of other tools.
    shown = [f for f in inner if not any(part.startswith((".", "_")) for part in f.parts)]
    # One of the two forms: a folder that holds both would give its rows twice.
    for endings in (_ENDINGS[:2], _ENDINGS[2:]):
        found = [path / file for file in shown if file.suffix.lower() in endings]
        if found:
            return found
    return []


def _split_of(file: Path) -> str | None:
    found = _NUMBERED.match(file.stem)
    # "train-00000-of-00002" names its split, "data-00000-of-00002" does not.
    if found and found[1] and found[1] != "data":
        return found[1]
    return next((part for part in (file.stem, *reversed(file.parts[:-1])) if part in _SPLITS), None)


def _check_whole(files: Sequence[Path]) -> None:
    groups = dict[tuple[str, ...], set[int]]()
    for file in files:
        found = _NUMBERED.match(file.stem)
        if found:
            groups.setdefault((str(file.parent), found[1] or "", found[3]), set()).add(
                int(found[2])
            )
    for (folder, name, count), there in groups.items():
        lost = sorted(set(range(int(count))) - there)
        # One shard alone was chosen on purpose, and is not a folder with a hole.
        if lost and len(there) > 1:
            raise ValueError(
                f"{folder}: of the {count} shards of {name!r}, {lost[:5]} are missing."
            )


def _inside(folder: Path, name: str) -> Path:
    """A file that the data set names; raises ValueError unless it is in its own folder."""
    if name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"it names {name!r}; expected a name in its own folder")
    return folder / name


def _read_json(path: Path) -> dict[str, Any]:
    return read_object(path, advice="copy it again")
