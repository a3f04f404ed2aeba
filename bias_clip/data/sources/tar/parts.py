"""Scans each tar shard into a part of the index, so that an interrupted scan keeps finished shards."""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from bias_clip.core.remote import is_remote, read_range
from bias_clip.data.sources.tar.columns import MANIFEST, SOUND, load, short_hash, whole
from bias_clip.data.sources.tar.files import File
from bias_clip.data.sources.tar.samples import Shard, group
from bias_clip.data.sources.tar.scan import Damage, Read, scan

_WINDOW, _REMOTE_WINDOW = 4096, 1 << 21  # bytes of one read
_REMOTE_SHARDS = 16  # scanned at the same time


class Part(NamedTuple):
    """A part without its arrays: counts, largest values, layouts and troubles."""

    samples: int
    members: int
    key_bytes: int
    offset: int
    size: int
    layouts: list[tuple[str, ...]]
    report: dict[str, Any]


def part_path(parts: Path, file: File) -> Path:
    """The path of a shard's part, for the shard's current version."""
    return parts / f"{short_hash(file)}.npz"


def make_parts(files: Sequence[File], parts: Path, older: Sequence[Path]) -> None:
    """Makes the part of each shard; unchanged shards are taken from older indices."""
    parts.mkdir(parents=True, exist_ok=True)
    # By name, size and stamp: a shard that changed is not among them and is scanned.
    known = {tuple(s): (p, n) for p in older for n, s in enumerate(_shards(p))}
    due = [file for file in files if not part_path(parts, file).is_file()]

    def make(file: File) -> None:
        shard = _slice(*known[file[1:]]) if file[1:] in known else _scan(file)
        _write_part(part_path(parts, file), shard)

    remote = any(is_remote(file.path) for file in due)
    # On a disk one at a time: scanning is Python code, which threads do not speed up.
    with ThreadPoolExecutor(_REMOTE_SHARDS if remote else 1) as pool:
        done = tqdm(pool.map(make, due), "indexing", len(due), unit=" shards", disable=None)
        try:
            for _ in done:
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or the error would wait for all others
            raise


def _scan(file: File) -> Shard:
    with _reading(file) as (read, window):
        try:
            shard = group(scan(read, file.size, window=window))
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from error
    if not shard.keys and not shard.damages:
        shard.damages.append(Damage("no_members", 0, file.size))
    return shard


@contextlib.contextmanager
def _reading(file: File) -> Iterator[tuple[Read, int]]:
    if is_remote(file.path):

        def read(offset: int, count: int) -> bytes:
            stop = min(offset + count, file.size)
            return read_range(file.path, offset, stop) if stop > offset else b""

        yield read, _REMOTE_WINDOW
        return
    with open(file.path, "rb") as opened:
        # pread has no position of its own, so jumping over members' data costs no seek.
        yield lambda offset, count: os.pread(opened.fileno(), count, offset), _WINDOW


def _write_part(path: Path, shard: Shard) -> None:
    about = shard._asdict()
    arrays = {name: about.pop(name) for name in ("layout", "offset", "size")}
    keys = about.pop("keys")
    arrays["keys"] = np.frombuffer(b"".join(keys), np.uint8)
    arrays["key_size"] = np.fromiter(map(len, keys), np.uint64, len(keys))
    # JSON in the same file as the arrays: a part is then whole or absent.
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with whole(path) as partial:
        partial.write_bytes(buffer.getvalue())


def _shards(place: Path) -> list[list]:
    return json.loads((place / MANIFEST).read_text(encoding="utf-8"))["shards"]


def _slice(place: Path, number: int) -> Shard:
    """The part of an index that belongs to one shard."""
    index = load(place)
    a, b = (int(n) for n in index.first[number : number + 2])
    member = slice(*(int(n) for n in index.member[[a, b]]))
    report = index.manifest["reports"].get(str(number), SOUND)
    layout = np.asarray(index.layout[a:b], np.uint32)
    return Shard(
        [index.key(sample) for sample in range(a, b)],
        layout,
        np.asarray(index.offset[member], np.uint64),
        np.asarray(index.size[member], np.uint64),
        index.layouts,
        report["troubles"],
        report["named"],
        report["damages"],
    )


def look(path: Path) -> Part:
    """Reads a part without its arrays."""
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        offset, size = arrays["offset"], arrays["size"]
        return Part(
            len(arrays["layout"]),
            len(offset),
            len(arrays["keys"]),
            int(offset.max(initial=0)),
            int(size.max(initial=0)),
            [tuple(fields) for fields in about["layouts"]],
            {name: about[name] for name in SOUND},
        )
