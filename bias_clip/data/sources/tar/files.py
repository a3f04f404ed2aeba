"""The files of a path: a file, a folder, a glob, a brace pattern or a list, on a disk or in a bucket."""

import itertools
import os
import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path, PurePath
from typing import NamedTuple

from bias_clip.core.remote import describe, find, is_remote

Paths = str | PurePath | Sequence[str | PurePath]

_MOST = 10_000_000  # files of one pattern; more is a typing error
SHOWN = 5


class File(NamedTuple):
    """A file to read.

    Attributes:
      path: on a disk, or its address.
      name: its path below the folder that all files share.
      size: in bytes.
      stamp: changes when the file is written again: time of change in ns, or etag.
    """

    path: str
    name: str
    size: int
    stamp: str


def find_files(path: Paths, *, endings: Sequence[str]) -> list[File]:
    """Returns the files that `path` means, in its order; those of a folder or glob by name.

    "{00000..00041}" counts with leading zeros, also downwards; "{a,b}" lists; "x::y" joins two patterns.

    Args:
      path: one or several of those.
      endings: of the files to take from a folder, such as ".tar".

    Raises:
      ValueError: nothing is found, files of a brace pattern are missing, or a file occurs twice.
      RemoteError: a bucket or a web server does not answer, or denies access.
    """
    parts = [path] if isinstance(path, str | PurePath) else list(path)
    patterns = [
        p for part in parts for p in (part.split("::") if isinstance(part, str) else [str(part)])
    ]
    found = [file for pattern in patterns for file in _find(str(pattern), endings)]
    if not found:
        raise ValueError(f"got path={path!r}, which names no files.")
    _check_once([file[0] for file in found])
    if len({is_remote(file[0]) for file in found}) > 1:
        raise ValueError(f"got path={path!r}, on a disk and elsewhere; mix two sources instead.")
    folder = common_folder([file[0] for file in found])
    return [File(p, p[len(folder) :].lstrip("/"), size, stamp) for p, size, stamp in found]


def common_folder(paths: Sequence[str]) -> str:
    """The longest folder or prefix that all paths share."""
    parents = [
        path.rpartition("/")[0].split("/") for path in {p.rpartition("/")[0] + "/" for p in paths}
    ]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parents, strict=False))
    return "/".join(names[0] for names in shared)


def expand_braces(pattern: str) -> list[str]:
    """All strings that a pattern with braces stands for; the last brace changes fastest."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    values = _values(found[1], pattern)
    if values is None:  # a brace that is part of the name
        return [before + "{" + found[1] + "}" + rest for rest in expand_braces(after)]
    words = [word for value in values for word in expand_braces(before + value + after)]
    return list(dict.fromkeys(words))  # nested braces give some strings twice


def _values(inside: str, pattern: str) -> list[str] | None:
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if span is None:
        return inside.split(",") if "," in inside else None
    first, last = int(span[1]), int(span[2])
    if abs(last - first) >= _MOST:
        raise ValueError(f"{pattern!r} means {abs(last - first) + 1} files; expected fewer.")
    # "{0..10}" counts without zeros; "{00..10}" and "{000..10}" to the width that was written.
    padded = any(len(word) > 1 and word[0] == "0" for word in span.groups())
    width = max(map(len, span.groups())) if padded else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _find(pattern: str, endings: Sequence[str]) -> list[tuple[str, int, str]]:
    if is_remote(pattern):
        return _find_remote(pattern, endings)
    if Path(pattern).is_dir():
        paths = sorted(p for p in Path(pattern).iterdir() if p.name.endswith(tuple(endings)))
    elif Path(pattern).is_file():  # an existing file, even with * in its name
        paths = [Path(pattern)]
    elif any(c in pattern for c in "*?["):
        names = [n for one in expand_braces(pattern) for n in sorted(glob(one, recursive=True))]
        paths = [Path(name) for name in names if Path(name).is_file()]
    else:
        paths = [Path(one) for one in expand_braces(pattern)]
        _check_there(pattern, [str(p) for p in paths if not p.is_file()], len(paths))
    if not paths:
        raise ValueError(
            f"nothing at {pattern!r}: expected files that end in one of {list(endings)}."
        )
    stats = [(path, path.stat()) for path in paths]
    return [(os.path.abspath(p), stat.st_size, str(stat.st_mtime_ns)) for p, stat in stats]


def _find_remote(pattern: str, endings: Sequence[str]) -> list[tuple[str, int, str]]:
    globs = pattern.startswith(("gs:", "s3:")) and any(c in pattern for c in "*?[")
    # Named objects need no listing, which many accounts may not do.
    if pattern.partition("?")[0].endswith(tuple(endings)) and not globs:
        return list(
            describe(expand_braces(pattern))
        )  # a signed address may end in "?signature=..."
    files = [file for one in expand_braces(pattern) for file in find(one)]
    kept = [file for file in files if globs or file.address.endswith(tuple(endings))]
    if not kept:
        raise ValueError(
            f"nothing at {pattern!r}: expected objects that end in one of {list(endings)}."
        )
    return list(kept)


def _check_there(pattern: str, missing: Sequence[str], count: int) -> None:
    if missing:
        raise ValueError(
            f"{len(missing)} of the {count} files that {pattern!r} names are not there, such as "
            f"{list(missing[:SHOWN])}; complete them, or name those that are."
        )


def _check_once(paths: Sequence[str]) -> None:
    if len(set(paths)) < len(paths):
        twice = sorted({path for path in paths if paths.count(path) > 1})[:SHOWN]
        raise ValueError(f"files come twice: {twice}; name each once. A mixture repeats a source.")
