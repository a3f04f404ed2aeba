"""Measures of the quality of image-text pairs: numbers per record, as a table that filters read.

width, height, aspect            pixels, and the longer side over the shorter
characters, words, repetition    of the record's longest caption; repetition is the share of its words
                                 that occurred before in it
language                         of that caption, by the library py3langid, such as "en"
image_copies, near_copies, caption_copies
                                 records with the same file, a similar image, the same first caption;
                                 1 is this record alone
image_first, near_first, caption_first
                                 1 for the first record of its copies, else 0
similarity, utility              cosine of image and first caption by a model; and the same, at least 0
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.core.hashing import make_key
from bias_clip.core.visible import visible_text
from bias_clip.curation.quality.duplicates import copies_of, near_groups
from bias_clip.curation.sharded_table import Columns, read_parts, read_range, write_sharded
from bias_clip.data.bad_records import captions
from bias_clip.data.image.fingerprints import exact_hash, image_size, perceptual_hash
from bias_clip.data.records import Record, Source, text_array
from bias_clip.data.tables import KEY, Table, join
from bias_clip.data.tables.embeddings import Embeddings, chunks

KIND = "measures"
PARTS = ("size", "captions", "language", "duplicates", "near")
_HASHES = {"image": "image_hash", "near": "near_hash", "caption": "caption_hash"}  # of the shards
_ROWS = 65536  # embeddings that are read at a time

Measure = Callable[[Record], dict[str, Any]]


def measure_source(
    source: Source,
    path: str | Path,
    parts: Sequence[str],
    *,
    about: Mapping[str, Any],
    similarity: Embeddings | None = None,
    bits: int = 4,
    shard_rows: int = 65536,
    max_broken: int = 0,
    on_rows: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Writes the table of measures of all records of a source, and returns its manifest.

    Args:
      source: records with unique ids.
      path: path of the table; a finished table of the same plan is not written again.
      parts: which measures, some of `PARTS`; "near" needs the library imagehash, "language" py3langid.
      about: entry of the manifest about the source: its arguments.
      similarity: embeddings of images and texts of this source, for the last two measures. A record that
        could not be embedded, such as one without a caption, has similarity NaN and utility 0.
      bits: near copies differ by at most this many of 64 bits; chains of them are one group.
      shard_rows, max_broken, on_rows: see `write_sharded`.

    Raises: ValueError for an unknown measure, none at all, embeddings that lack a record or a modality;
      as `write_sharded`. ModuleNotFoundError without the extra `quality`.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not (parts or similarity):
        raise ValueError(
            f"got the measures {list(parts)}; expected some of {list(PARTS)}, or embeddings."
        )
    # Made before the first record, so that a missing extra fails at once.
    measures = [_MEASURES[part]() for part in parts]
    if similarity is not None:
        _check_embedded(similarity, len(source))
    scores = None if similarity is None else pair_similarity(similarity)
    plan = {
        "source": dict(about),
        "examples": len(source),
        "measures": list(parts),
        "near_bits": bits if "near" in parts else None,
        "similarity": None if similarity is None else similarity.manifest["plan"],
    }

    def make(rows: range) -> tuple[Columns, dict[str, str]]:
        found = read_range(source, rows, lambda record: _measured(record, measures))
        return _columns(found.taken), found.broken

    def finish(shards: Sequence[Path]) -> Iterator[Columns]:
        return _finish(shards, bits, scores)

    return write_sharded(
        path,
        plan,
        make,
        kind=KIND,
        records=len(source),
        shard_rows=shard_rows,
        max_broken=max_broken,
        verb="measure",
        finish=finish,
        on_rows=on_rows,
    )


def pair_similarity(embeddings: Embeddings) -> Mapping[str, np.ndarray]:
    """Returns `id` and `similarity`, the cosine of each example's image and first caption.

    Raises: ValueError for embeddings without images or without texts.
    """
    # Embeddings have unit norm: the dot product of row n of both is the cosine.
    parts = [
        np.einsum("nd,nd->n", image, text)
        for image, text in zip(
            chunks(embeddings, "image", _ROWS), chunks(embeddings, "text", _ROWS), strict=True
        )
    ]
    return {KEY: np.asarray(embeddings.ids), "similarity": np.concatenate(parts)}


def _measured(record: Record, measures: Sequence[Measure]) -> dict[str, Any]:
    found = {KEY: record[KEY]}
    captions(record)  # raises for a record whose captions are not strings
    for measure in measures:
        found |= measure(record)
    return found


def _columns(taken: Sequence[Mapping[str, Any]]) -> Columns:
    if not taken:
        return {}
    found = {name: [row[name] for row in taken] for name in taken[0]}
    # Hashes need all 64 bits: NumPy would make float64 of integers beyond int64 beside smaller ones.
    whole = {name: np.asarray(values) for name, values in found.items() if name != "language"}
    hashes = {n: np.asarray(found[n], np.uint64) for n in _HASHES.values() if n in found}
    language = {n: text_array(found[n]) for n in ("language",) if n in found}
    return {**whole, **hashes, **language}


def _finish(
    shards: Sequence[Path], bits: int, scores: Mapping[str, np.ndarray] | None
) -> Iterator[Columns]:
    """Adds what needs all records: only their hashes, 8 bytes each, are in memory together."""
    hashes: dict[str, list[np.ndarray]] = {}
    for columns in read_parts(shards, KIND):
        for what, name in _HASHES.items():
            if name in columns:
                hashes.setdefault(what, []).append(columns[name])
    copies = {}
    for what, parts in hashes.items():
        values = np.concatenate(parts)
        copies[what] = copies_of(near_groups(values, bits=bits) if what == "near" else values)
    start = 0
    # A second pass over the shards, because copies are known only after all hashes were seen.
    for columns in read_parts(shards, KIND):
        stop = start + len(columns[KEY])
        # Hashes only served to find copies; the table has the counts.
        kept = {k: v for k, v in columns.items() if k not in _HASHES.values()}
        for what, (count, first) in copies.items():
            kept[f"{what}_copies"] = count[start:stop]
            kept[f"{what}_first"] = first[start:stop].astype(np.int8)
        yield kept | _scored(columns[KEY], scores)
        start = stop


def _scored(ids: np.ndarray, scores: Mapping[str, np.ndarray] | None) -> Columns:
    """Similarity NaN and utility 0 for a record without a row among the embeddings."""
    if scores is None:
        return {}
    found = np.full(len(ids), np.nan)
    has = np.isin(ids, scores[KEY])
    if has.any():
        whole = Table(dict(scores), {"kind": "embeddings"})
        found[has] = join(whole, ids[has])["similarity"]
    return {"similarity": found, "utility": np.where(has, np.maximum(found, 0), 0.0)}


def _check_embedded(similarity: Embeddings, records: int) -> None:
    """Records that could not be embedded have no row; any other difference is another source."""
    have, broken = len(similarity.ids), len(similarity.manifest["broken"])
    if have + broken != records:
        raise ValueError(
            f"the embeddings have {have} rows and {broken} records that could not be embedded; the source "
            f"has {records} records. Embed this source."
        )


def _size() -> Measure:
    def measure(record: Record) -> dict[str, Any]:
        width, height = image_size(_image(record))
        return {
            "width": width,
            "height": height,
            "aspect": max(width, height) / max(1, min(width, height)),
        }

    return measure


def _captions() -> Measure:
    def measure(record: Record) -> dict[str, Any]:
        text = _longest(record)
        words = text.casefold().split()
        distinct = len(set(words))
        return {
            "characters": len(text),
            "words": len(words),
            "repetition": 1 - distinct / len(words) if words else 0.0,
        }

    return measure


def _language() -> Measure:
    import py3langid  # an extra, and its model takes a second to load

    def measure(record: Record) -> dict[str, Any]:
        text = _longest(record)
        return {"language": str(py3langid.classify(text)[0]) if text else ""}

    return measure


def _duplicates() -> Measure:
    def measure(record: Record) -> dict[str, Any]:
        texts = captions(record)
        # Boilerplate is written in several cases and spacings; records without a caption are not copies.
        text = " ".join(visible_text(texts[0]).casefold().split()) if texts else ""
        caption = make_key("caption", text) if text else make_key("none", record[KEY])
        return {"image_hash": exact_hash(_image(record)), "caption_hash": int(caption)}

    return measure


def _near() -> Measure:
    return lambda record: {"near_hash": perceptual_hash(_image(record))}


_MEASURES: Mapping[str, Callable[[], Measure]] = {
    "size": _size,
    "captions": _captions,
    "language": _language,
    "duplicates": _duplicates,
    "near": _near,
}


def _image(record: Record) -> bytes | np.ndarray:
    image = record["image"]
    return image[0] if isinstance(image, tuple) else image


def _longest(record: Record) -> str:
    return max((visible_text(text).strip() for text in captions(record)), key=len, default="")
