"""Joins the parts of an index, one per shard, into columns of the smallest types that hold them."""

import functools
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.data.sources.tar.columns import KIND, MANIFEST, SOUND, VERSION, whole
from bias_clip.data.sources.tar.files import File
from bias_clip.data.sources.tar.parts import Part, look, part_path
from bias_clip.data.sources.tar.samples import SHOWN
from bias_clip.data.sources.tar.scan import COMPRESSED, KINDS

_NAMED = 100  # damages in the manifest


def join(files: Sequence[File], parts: Path, place: Path) -> None:
    """Writes the columns to `place`, its manifest last.

    Raises:
      ValueError: shards are compressed, or none has a sample.
    """
    paths = [part_path(parts, file) for file in files]
    about = [look(path) for path in paths]
    _refuse_compressed(files, about)
    samples, members = sum(p.samples for p in about), sum(p.members for p in about)
    if not samples:
        raise ValueError(_nothing(files, about))
    layouts = {
        fields: n for n, fields in enumerate(dict.fromkeys(f for p in about for f in p.layouts))
    }
    place.mkdir(parents=True, exist_ok=True)
    key_bytes = sum(p.key_bytes for p in about)
    shapes = {
        "member": (samples + 1, members),
        "layout": (samples, len(layouts)),
        "key_end": (samples + 1, key_bytes),
        "keys": (key_bytes, 255),
        "offset": (members, max(p.offset for p in about)),
        "size": (members, max(p.size for p in about)),
    }
    counts = np.array([len(fields) for fields in layouts], np.uint64)
    for name, (length, largest) in shapes.items():
        with whole(place / f"{name}.npy") as partial:
            # Filled on the disk, part by part: the columns of a billion members do not fit in memory.
            column = np.lib.format.open_memmap(
                partial, "w+", np.min_scalar_type(largest), (length,)
            )
            _allocate(partial)
            _fill(name, column, paths, [[layouts[f] for f in p.layouts] for p in about], counts)
            column.flush()
    lengths = {name: length for name, (length, _) in shapes.items()}
    manifest = _manifest(files, about, list(layouts)) | {"lengths": lengths}
    with whole(place / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _allocate(path: Path) -> None:
    """Takes the blocks of a file now: writing to a map on a full disk would end the process by a signal."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _fill(
    name: str,
    column: np.ndarray,
    paths: Sequence[Path],
    numbers: Sequence[Sequence[int]],
    counts: np.ndarray,
) -> None:
    """Writes one column; `numbers` map each part's layouts to those of the whole index."""
    at = 0
    ends = name in ("member", "key_end")
    if ends:
        column[0] = 0
    for path, own in zip(paths, numbers, strict=True):
        with np.load(path, allow_pickle=False) as arrays:
            if name == "layout":
                # Each part numbers its layouts from 0; `own` maps them to the numbers of the whole index.
                values = np.array(own, np.uint64)[arrays["layout"]]
            elif name == "member":
                values = counts[np.array(own, np.int64)[arrays["layout"]]]
            else:
                values = arrays["key_size" if name == "key_end" else name]
        # Part by part the sizes become running ends, n + 1 of them, from 0.
        if ends:
            column[at + 1 : at + 1 + len(values)] = np.cumsum(values, dtype=np.uint64) + column[at]
        else:
            column[at : at + len(values)] = values
        at += len(values)


def _manifest(
    files: Sequence[File], about: Sequence[Part], layouts: Sequence[tuple[str, ...]]
) -> dict[str, Any]:
    damaged = [[f.name, *d] for f, p in zip(files, about, strict=True) for d in p.report["damages"]]
    troubles: Counter[str] = Counter()
    named: dict[str, list[str]] = {}
    for file, part in zip(files, about, strict=True):
        troubles.update(part.report["troubles"])
        for trouble, names in part.report["named"].items():
            whole = named.setdefault(trouble, [])
            whole += [f"{file.name}: {name}" for name in names[: SHOWN - len(whole)]]
    return {
        "kind": KIND,
        "version": VERSION,
        "shards": [list(file[1:]) for file in files],
        "samples": [part.samples for part in about],
        "layouts": layouts,
        "damages": dict(Counter(kind for _, kind, *_ in damaged)),
        "damaged": damaged[:_NAMED],
        "troubles": dict(troubles),
        "named": named,
        "counts": _wrong_counts(files, about),
        "reports": {str(n): part.report for n, part in enumerate(about) if part.report != SOUND},
    }


def _wrong_counts(files: Sequence[File], about: Sequence[Part]) -> list[str]:
    """Compares with sizes.json (open_clip) and <shard>_stats.json (img2dataset), if they exist."""
    wrong = []
    for file, part in zip(files, about, strict=True):
        for path, key in (
            (Path(file.path).with_name("sizes.json"), Path(file.path).name),
            (Path(file.path.removesuffix(".tar") + "_stats.json"), "successes"),
        ):
            expected = _read_counts(path).get(key)
            if isinstance(expected, int) and expected != part.samples:
                wrong.append(f"{file.name} has {part.samples} samples, {path.name} says {expected}")
    return wrong


@functools.lru_cache(maxsize=4)
def _read_counts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; correct or delete it.") from error
    return found if isinstance(found, dict) else {}


def _refuse_compressed(files: Sequence[File], about: Sequence[Part]) -> None:
    found = [
        (file, damage[0])
        for file, part in zip(files, about, strict=True)
        for damage in part.report["damages"]
        if damage[0] in COMPRESSED
    ]
    if found:
        file, kind = found[0]
        raise ValueError(
            f"{len(found)} shards are compressed, so that no sample can be read alone: "
            f"{[f.name for f, _ in found[:SHOWN]]}. Unpack each once, such as: {_unpack(file.path, kind)}"
        )


def _unpack(path: str, kind: str) -> str:
    program = {"gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd"}[kind]
    plain = path.removesuffix(".tgz").removesuffix(".tar").partition(".tar.")[0]
    # A compressed file that is called .tar must not be overwritten by the unpacked one.
    target = plain + ("_plain.tar" if path.endswith(".tar") else ".tar")
    return f"{program} -dc '{path}' > '{target}'"


def _nothing(files: Sequence[File], about: Sequence[Part]) -> str:
    said = [
        f"{file.name}: {', '.join(KINDS[d[0]] for d in part.report['damages']) or 'no members'}"
        for file, part in zip(files, about, strict=True)
    ]
    return f"{len(files)} shards have no samples. {'; '.join(said[:SHOWN])}. Download them again."
