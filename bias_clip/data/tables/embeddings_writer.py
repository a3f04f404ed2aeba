"""Writes embeddings shard by shard, so that an interrupted run goes on where it stopped.

A shard is whole once its table of rows is, and is never written again: the writer goes on after the
whole ones, and leaves the same bytes as one that was never interrupted.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.core.plans import claim_folder
from bias_clip.core.write import whole_file, write_file
from bias_clip.data.tables.embeddings import (
    KIND,
    SHARD_KIND,
    VERSION,
    check_finite,
    read_manifest,
    shard_path,
)
from bias_clip.data.tables.table import KEY, fingerprint, manifest_path, read_table, write_table

DTYPES = ("float32", "float16")
SHOWN = 3


class Shard(NamedTuple):
    """Consecutive examples, embedded.

    Attributes:
      ids: of those that could be read.
      features: by modality, [n, d] as the towers gave them, not normalised.
      broken: record to reason, of those that could not.
    """

    ids: Sequence[str]
    features: Mapping[str, Float[np.ndarray, "n d"]]
    broken: Mapping[str, str]


def write_embeddings(
    directory: str | Path,
    embed: Callable[[range], Shard],
    *,
    examples: int,
    about: Mapping[str, Any],
    dtype: str = "float32",
    shard_rows: int = 8192,
    max_broken: int = 0,
    notes: Mapping[str, Any] | None = None,
    on_kept: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Writes embeddings shard by shard, after those that are there already; returns the manifest.

    Args:
      directory: finished embeddings of the same plan are left as they are.
      embed: embeds the records of a range.
      examples: records in all.
      about: what is embedded by what, as JSON; what tells these embeddings from others.
      dtype: of the matrices on disk.
      shard_rows: records of a shard.
      max_broken: records that may be unreadable; they have no row, and the manifest names them.
      notes: for the manifest, what does not tell these embeddings from others, such as paths.
      on_kept: is told of how many records a shard is that was there already.

    Raises: ValueError for a directory of other embeddings, ids that come twice, features that are
      not finite, too many broken records.
    """
    if dtype not in DTYPES or shard_rows < 1 or examples < 1:
        raise ValueError(
            f"got {dtype=}, {shard_rows=}, {examples=}; expected one of {DTYPES}, and at least 1."
        )
    directory = Path(directory)
    own = {"version": VERSION, "dtype": dtype, "shard_rows": shard_rows, "examples": examples}
    plan = json.loads(json.dumps({**about, **own}))
    claim_folder(
        directory,
        plan,
        claim=f"{directory} holds other embeddings",
        advice="Delete it to embed again, or write elsewhere.",
    )
    if (directory / "manifest.json").is_file():
        on_kept(examples)
        return read_manifest(directory)
    seen, broken, sizes = dict[str, None](), dict[str, str](), list[int]()
    for number, start in enumerate(range(0, examples, shard_rows)):
        records = range(start, min(start + shard_rows, examples))
        path = shard_path(directory, "rows", number)
        if manifest_path(path).is_file():
            on_kept(len(records))
        else:
            shard = embed(records)
            _check_broken({**broken, **shard.broken}, max_broken)  # or a repaired record had no row
            _write_shard(directory, number, shard, dtype)
        table = read_table(path, kind=SHARD_KIND)
        _see(table.columns[KEY].tolist(), seen)
        broken |= table.manifest["broken"]
        sizes.append(len(table.columns[KEY]))
    about = {**table.manifest, "plan": plan, "notes": dict(notes or {}), "broken": broken}
    return _write_manifest(directory, about, list(seen), sizes)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array in NumPy's format, whole or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:  # a path would get ".npy"
        np.save(file, array, allow_pickle=False)


def _write_shard(directory: Path, number: int, shard: Shard, dtype: str) -> None:
    if not len(shard.ids):
        raise ValueError(
            f"no record of shard {number} can be read: {list(shard.broken.items())[:SHOWN]}."
        )
    columns: dict[str, np.ndarray] = {KEY: np.asarray(shard.ids)}
    width = 0
    for name, raw in shard.features.items():
        raw = np.asarray(raw, np.float32)
        check_finite(name, shard.ids, raw)
        norm, width = np.linalg.norm(raw, axis=1), raw.shape[1]
        z = (raw / np.where(norm > 0, norm, 1)[:, None]).astype(dtype)
        write_array(shard_path(directory, name, number), z)
        columns[f"{name}_norm"] = norm
    about = {"kind": SHARD_KIND, "broken": dict(shard.broken), "width": width}
    about["modalities"] = list(shard.features)
    write_table(shard_path(directory, "rows", number), columns, about)


def _write_manifest(
    directory: Path, about: Mapping[str, Any], ids: Sequence[str], sizes: Sequence[int]
) -> dict[str, Any]:
    manifest = {
        "kind": KIND,
        "version": VERSION,
        "rows": len(ids),
        "width": about["width"],
        "dtype": about["plan"]["dtype"],
        "modalities": about["modalities"],
        "norms": "rows are of unit norm; <modality>_norm is the length before, so norm * row is raw",
        "shards": list(sizes),
        "ids_sha256": fingerprint(ids),
        **{key: about[key] for key in ("broken", "plan", "notes")},
    }
    write_file(directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


def _see(ids: Sequence[str], seen: dict[str, None]) -> None:
    twice = [name for name in ids if name in seen]
    if twice:
        raise ValueError(
            f"{len(twice)} ids come twice, such as {twice[:SHOWN]}; every example needs its own id."
        )
    seen.update(dict.fromkeys(ids))


def _check_broken(broken: Mapping[str, str], most: int) -> None:
    if len(broken) > most:
        raise ValueError(
            f"{len(broken)} records cannot be read, {most} are allowed: "
            f"{dict(list(broken.items())[:SHOWN])}. Repair the data, or allow more."
        )
