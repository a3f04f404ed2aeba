"""The columns of an index of tar shards, memory-mapped, and how they are written.

Bytes on disk: 3 to 17 and its key per sample, 2 to 16 per member, by the smallest types that hold them;
36 per sample with 1e6 samples of three members and keys of nine characters.
"""

import bisect
import contextlib
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bias_clip.core.json_object import read_object
from bias_clip.core.write import PARTIAL, whole_file
from bias_clip.data.bad_records import file_fault

KIND = "index of tar shards"
VERSION = 1
MANIFEST = "manifest.json"
_AGAIN = "it is damaged: delete it, it is made again"
COLUMNS = ("member", "layout", "key_end", "keys", "offset", "size")
SOUND: dict[str, Any] = {"troubles": {}, "named": {}, "damages": []}  # a shard's report


class Index(NamedTuple):
    """Samples of all shards, one shard after another; arrays are memory-mapped.

    Attributes:
      first: the first sample of each shard, and their number.
      member: [samples + 1], the first member of each sample.
      layout: [samples], its entry in `layouts`.
      key_end: [samples + 1], where its key begins in `keys`, uint8.
      offset, size: [members], of their data in the shard.
      layouts: fields of a sample, in the order of its members.
      manifest: shards, counts of troubles and damages.
    """

    first: list[int]
    member: np.ndarray
    layout: np.ndarray
    key_end: np.ndarray
    keys: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    layouts: list[tuple[str, ...]]
    manifest: dict[str, Any]

    def shard_of(self, sample: int) -> int:
        """The shard that a sample is in."""
        return bisect.bisect_right(self.first, sample) - 1

    def key(self, sample: int) -> bytes:
        """The key of a sample, with NUL and a number if the shard has the key before."""
        return self.keys[self.key_end[sample] : self.key_end[sample + 1]].tobytes()


def load(place: Path) -> Index:
    """Opens a finished index.

    Raises:
      ValueError: it has another version, or is damaged.
    """
    manifest = read_object(place / MANIFEST, advice=_AGAIN)
    if manifest.get("kind") != KIND or manifest.get("version") != VERSION:
        raise ValueError(f"{place} is not an index of this version; delete it, it is made again.")
    columns = {}
    with file_fault(place, advice=_AGAIN):
        for name in COLUMNS:
            # A plain array over the map: np.memmap's own indexing costs ten times as much.
            columns[name] = np.asarray(
                np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            )
            if len(columns[name]) != manifest["lengths"][name]:
                raise ValueError(f"{place}/{name}.npy is cut; delete {place}, it is made again.")
        # A list of Python integers: bisect on it is faster than searchsorted for one number.
        first = list(itertools.accumulate(manifest["samples"], initial=0))
        layouts = [tuple(fields) for fields in manifest["layouts"]]
    return Index(first, **columns, layouts=layouts, manifest=manifest)


def short_hash(value: Any) -> str:
    """A short name that identifies JSON values."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def whole(path: Path) -> contextlib.AbstractContextManager[Path]:
    """A path to write to, which is renamed to `path` at the end; several processes may do so."""
    # Processes that index the same shards write equal files; the last one to finish replaces the others.
    return whole_file(path, suffix=f".{os.getpid()}{PARTIAL}")
