"""Embeddings of the user's own, as .npz, .npy with ids, or Parquet: read, checked, looked up by id."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from bias_clip.core.norms import unit_rows
from bias_clip.data.bad_records import file_fault
from bias_clip.data.records import Source, column
from bias_clip.data.tables.table import file_sha256
from bias_clip.evals.audit.model import AuditModel, same_note
from bias_clip.evals.audit.provenance import Provenance
from bias_clip.evals.suites.layouts.data import read_text

SHOWN = 3
TOLERANCE = 1e-3  # of a length of 1: half precision has 5e-4


class Table(NamedTuple):
    """Rows by key: the id of an image, or a text as it is."""

    keys: tuple[str, ...]
    rows: Float[np.ndarray, "n d"]
    notes: tuple[str, ...]


def table_model(name: str, paths: Sequence[Path]) -> AuditModel:
    """A model of which only embeddings are known.

    Forms: `.npz` with arrays ids and image, or texts and text, or all four; `.npy` with a file of the
    same name in `.txt` (a key per line) or `.json` (a list of keys) beside it; Parquet with a column id
    or text, and a column embedding of lists of numbers. The keys of texts are the strings themselves.

    Args:
      name: on the page.
      paths: one file with both, or one of images and one of texts; which is which is read from the
        names of arrays and columns, and of .npy from the order: images first.

    Raises:
      ValueError: a form that is not known, numbers that are not finite, zero rows, keys that come
        twice, or widths that differ.
    """
    found: dict[str, Table] = {}
    for place, path in enumerate(paths):
        for modality, table in read_tables(path, default=("image", "text")[min(place, 1)]).items():
            if modality in found:
                raise ValueError(
                    f"{path}: embeddings of {modality}s are given twice; give them once."
                )
            found[modality] = table
    lacking = [modality for modality in ("image", "text") if modality not in found]
    if lacking:
        raise ValueError(
            f"{[str(p) for p in paths]} hold no embeddings of {lacking[0]}s; an audit needs images "
            "and texts. List the texts that it asks for with --list-texts FILE, and embed them."
        )
    widths = {modality: table.rows.shape[1] for modality, table in found.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"{name}: embeddings of {[str(p) for p in paths]} have widths {widths}; expected one width "
            "for a cosine. Take both from the same model."
        )
    notes = [note for table in found.values() for note in table.notes]
    index = {m: {key: i for i, key in enumerate(table.keys)} for m, table in found.items()}

    def looked_up(modality: str, keys: Sequence[str], advice: str) -> np.ndarray:
        missing = [key for key in keys if key not in index[modality]]
        if missing:
            raise ValueError(
                f"{name}: {len(missing)} of {len(keys)} {modality}s have no embedding, such as "
                f"{missing[:SHOWN]}; the table has {len(index[modality])}, such as "
                f"{list(found[modality].keys[:SHOWN])}. {advice}"
            )
        return found[modality].rows[[index[modality][key] for key in keys]]

    def images(source: Source, about: Mapping[str, Any]) -> np.ndarray:
        ids = column(source, "id").astype(str).tolist()
        return looked_up("image", ids, "Give the ids that the data set has.")

    def texts(strings: Sequence[str]) -> np.ndarray:
        advice = "List the texts with --list-texts FILE, with all other arguments as they are now."
        return looked_up("text", list(strings), advice)

    sums = {str(path): file_sha256(Path(path)) for path in paths}
    provenance = Provenance(",".join(sums), "embeddings", "", None, None, sums)
    identity = {"embeddings": list(sums.values())}
    return AuditModel(name, images, texts, identity, notes, provenance)


def read_tables(path: Path, *, default: str = "image") -> dict[str, Table]:
    """Returns modality to table of one file.

    Args:
      path: of the file.
      default: modality of a `.npy`, which does not say it.

    Raises:
      ValueError: see `table_model`.
    """
    readers = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected one of {sorted(readers)}, got {path.suffix!r}.")
    if not path.is_file():
        raise ValueError(f"there is no {path}; give a file of embeddings.")
    with file_fault(path):
        raw = readers[path.suffix](path, default)
    return {modality: _table(path, modality, *pair) for modality, pair in raw.items()}


def _read_npz(path: Path, default: str) -> dict[str, tuple[list[str], np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or holds Python objects: {error}.") from error
    found = {}
    for modality, keys in (("image", "ids"), ("text", "texts")):
        if (modality in arrays) != (keys in arrays):
            raise ValueError(f"{path} has {sorted(arrays)}; expected {keys!r} beside {modality!r}.")
        if modality in arrays:
            found[modality] = (arrays[keys].astype(str).tolist(), arrays[modality])
    if not found:
        raise ValueError(f"{path} has {sorted(arrays)}; expected ids and image, or texts and text.")
    return found


def _read_npy(path: Path, default: str) -> dict[str, tuple[list[str], np.ndarray]]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or holds Python objects: {error}.") from error
    lines, listed = path.with_suffix(".txt"), path.with_suffix(".json")
    if listed.is_file():
        keys = json.loads(listed.read_text("utf-8"))
        if not isinstance(keys, list):
            raise ValueError(f"{listed} holds a {type(keys).__name__}; expected a list of keys.")
        return {default: ([str(key) for key in keys], rows)}
    if not lines.is_file():
        raise ValueError(f"{path} has neither {lines.name} nor {listed.name} beside it, its keys.")
    # Not stripped, and no line left out: the n-th key is that of the n-th row.
    keys = read_text(lines, "a key per line").removesuffix("\n").split("\n")
    return {default: (keys, rows)}


def _read_parquet(path: Path, default: str) -> dict[str, tuple[list[str], np.ndarray]]:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not Parquet: {error}.") from error
    names = table.column_names
    keys = [name for name in ("id", "text") if name in names]
    if len(keys) != 1 or "embedding" not in names:
        raise ValueError(f"{path} has columns {names}; expected embedding, and one of id and text.")
    lists = table["embedding"].to_pylist()
    widths = {len(row) if row is not None else None for row in lists}
    if len(widths) != 1 or None in widths:
        raise ValueError(
            f"{path}: rows have widths {sorted(map(str, widths))}; expected one width."
        )
    modality = {"id": "image", "text": "text"}[keys[0]]
    return {modality: ([str(k) for k in table[keys[0]].to_pylist()], np.array(lists, np.float64))}


def _table(path: Path, modality: str, keys: list[str], rows: np.ndarray) -> Table:
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or len(rows) != len(keys) or not len(rows):
        raise ValueError(
            f"{path}: {len(keys)} keys and an array {rows.dtype}{list(rows.shape)} of {modality}s; "
            "expected a row of numbers per key."
        )
    seen: set[str] = set()
    twice = [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    if twice:
        raise ValueError(f"{path}: {len(twice)} keys come twice, such as {twice[:SHOWN]}.")
    # Normalised in float64, because a file in it may hold numbers that a float32 cannot.
    rows = np.asarray(rows, np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{path}: {len(bad)} of {len(rows)} {modality} embeddings are not finite, such as of "
            f"{[keys[i] for i in bad[:SHOWN]]}; leave them out of the data, or embed them again."
        )
    unit, length = unit_rows(rows)
    if not length.all():
        raise ValueError(
            f"{path}: {int((length == 0).sum())} {modality} embeddings are zero, such as of "
            f"{keys[int(np.argmin(length))]!r}; a zero has no direction."
        )
    off = int(np.sum(np.abs(length - 1) > TOLERANCE))
    notes = same_note(rows, modality)
    if off:
        notes.append(
            f"{off:,} of {len(rows):,} {modality} embeddings had lengths from {length.min():.3g} to "
            f"{length.max():.3g}: they were normalised to 1."
        )
    return Table(tuple(keys), unit.astype(np.float32), tuple(notes))
