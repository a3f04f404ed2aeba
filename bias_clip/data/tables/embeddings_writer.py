"""Writes embeddings shard by shard, so that an interrupted run continues where it stopped.

A shard is complete once its table of rows is complete, and it is never written again. The writer
continues after the complete shards and produces the same bytes as one that was never interrupted.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.core.norms import unit_rows
from bias_clip.core.plans import claim_folder
from bias_clip.core.write import whole_file, write_file
from bias_clip.data.tables.embeddings import (
    KIND,
    SHARD_KIND,
    VERSION,
    check_finite,
    read_manifest,
    shard_path,
    shard_sums,
)
from bias_clip.data.tables.table import (
    KEY,
    file_sha256,
    fingerprint,
    manifest_path,
    read_table,
    write_table,
)

DTYPES = ("float32", "float16")
SHOWN = 3


class Shard(NamedTuple):
    """Consecutive examples, embedded.

    Attributes:
      ids: ids of the readable records.
      features: outputs of the towers by modality, [n, d], not normalised.
      broken: the unreadable records, mapped to the reason.
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
    """Writes embeddings shard by shard, after existing complete shards; returns the manifest.

    Args:
      directory: output folder; finished embeddings of the same plan are not written again.
      embed: embeds the records of a range.
      examples: total number of records.
      about: data and model as JSON; it identifies these embeddings.
      dtype: dtype of the matrices on disk.
      shard_rows: records per shard.
      max_broken: largest number of unreadable records; they get no row, and the manifest names them.
      notes: entries of the manifest that do not identify the embeddings, such as paths.
      on_kept: called with the number of records of each shard that already existed.

    Raises: ValueError for a directory with other embeddings, duplicate ids, features that are not
      finite or longer than the largest float32, or too many broken records.
    """
    if dtype not in DTYPES or shard_rows < 1 or examples < 1:
        raise ValueError(
            f"got {dtype=}, {shard_rows=}, {examples=}; expected one of {DTYPES}, and at least 1."
        )
    directory = Path(directory)
    own = {"version": VERSION, "dtype": dtype, "shard_rows": shard_rows, "examples": examples}
    # Through JSON, so that tuples compare equal to the lists that the file gives back.
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
    seen, broken = dict[str, None](), dict[str, str]()
    sizes, sums = list[int](), list[dict[str, str]]()
    for number, start in enumerate(range(0, examples, shard_rows)):
        records = range(start, min(start + shard_rows, examples))
        path = shard_path(directory, "rows", number)
        # The shard's manifest is its last file: where it exists, the matrices are complete too.
        if manifest_path(path).is_file():
            on_kept(len(records))
        else:
            shard = embed(records)
            _check_broken({**broken, **shard.broken}, max_broken)  # or a repaired record had no row
            _write_shard(directory, number, shard, dtype)
        # Kept and new shards alike are read from disk, so that an interrupted run checks what it did not
        # write.
        table = read_table(path, kind=SHARD_KIND)
        _see(table.columns[KEY].tolist(), seen)
        broken |= table.manifest["broken"]
        sizes.append(len(table.columns[KEY]))
        sums.append({"rows": file_sha256(path), **table.manifest["sums"]})
    about = {**table.manifest, "plan": plan, "notes": dict(notes or {}), "broken": broken}
    return _write_manifest(directory, about, list(seen), sizes, sums)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array in NumPy's format, completely or not at all."""
    with (
        whole_file(path) as partial,
        partial.open("wb") as file,
    ):  # np.save would append ".npy" to a path
        np.save(file, array, allow_pickle=False)


def _write_shard(directory: Path, number: int, shard: Shard, dtype: str) -> None:
    if not len(shard.ids):
        raise ValueError(
            f"no record of shard {number} can be read: {list(shard.broken.items())[:SHOWN]}."
        )
    columns: dict[str, np.ndarray] = {KEY: np.asarray(shard.ids)}
    width = 0
    for name, raw in shard.features.items():
        # Norms are taken in float32, also where the matrix is stored as float16.
        raw = np.asarray(raw, np.float32)
        check_finite(name, shard.ids, raw)
        width = raw.shape[1]
        z, norm = unit_rows(raw)  # a row of zeros stays zero instead of NaN
        _check_norms(name, shard.ids, norm)
        write_array(shard_path(directory, name, number), z.astype(dtype))
        columns[f"{name}_norm"] = norm
    about = {"kind": SHARD_KIND, "broken": dict(shard.broken), "width": width}
    about["modalities"] = list(shard.features)
    # With the table, which makes the shard whole: a run that goes on need not read it again.
    about["sums"] = shard_sums(directory, number, list(shard.features))
    write_table(shard_path(directory, "rows", number), columns, about)


def _check_norms(what: str, ids: Sequence[str], norm: Float[np.ndarray, " n"]) -> None:
    """Raises ValueError, naming some of the ids, for lengths that the table cannot hold."""
    bad = np.flatnonzero(~np.isfinite(norm))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(norm)} {what} embeddings are longer than the largest float32, 3.4e38, such "
            f"as of {[ids[i] for i in bad[:SHOWN]]}; divide all by one number, or check the model."
        )


def _write_manifest(
    directory: Path,
    about: Mapping[str, Any],
    ids: Sequence[str],
    sizes: Sequence[int],
    sums: Sequence[Mapping[str, str]],
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
        "sums": list(sums),
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
