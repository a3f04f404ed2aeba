"""A model under audit: two functions, or tables of embeddings, with a cache on disk."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.data.bad_records import record_fault
from bias_clip.data.records import Source, column, read_record
from bias_clip.data.tables.embeddings import chunks, open_embeddings
from bias_clip.data.tables.embeddings_writer import Shard, write_embeddings
from bias_clip.evals.audit.functions import Strings, function_shards
from bias_clip.evals.audit.provenance import Provenance
from bias_clip.evals.concat import Stage
from bias_clip.evals.embed_rows import make_embed_rows
from bias_clip.evals.encode import Encode
from bias_clip.evals.ranking import unit
from bias_clip.evals.results import first_image
from bias_clip.evals.suites.layouts.data import Rows

Say = Callable[[str], None]
SHARD_ROWS = 2048  # what an interruption may cost
# Part of what names a cache. Raise it whenever the same images would be embedded in another way, such as
# with another decoding: an older cache would otherwise be used in silence.
CACHE_VERSION = 2
SAMPLE = 16  # images that tell data of equal ids apart


class AuditModel(NamedTuple):
    """What an audit needs of a model.

    Attributes:
      name: on the page.
      images: maps a source, and what identifies its data, to unit embeddings [n, d].
      texts: maps strings to unit embeddings.
      identity: what tells this model from others, as JSON.
      notes: what a reader should know, such as that embeddings were normalised; may grow.
      provenance: which model it is, for readers.
    """

    name: str
    images: Callable[[Source, Mapping[str, Any]], Float[np.ndarray, "n d"]]
    texts: Callable[[Sequence[str]], Float[np.ndarray, "m d"]]
    identity: Mapping[str, Any]
    notes: list[str]
    provenance: Provenance


def audit_encode(model: AuditModel, about: Mapping[str, Any]) -> Encode:
    """The model as suites see it; parts of one source are embedded once, as a whole.

    Args:
      model: under audit.
      about: what identifies the data, such as the layout and the folder.
    """

    def images(source: Source) -> np.ndarray:
        if isinstance(source, Rows):
            return model.images(source.source, about)[source.rows]
        return model.images(source, about)

    return Encode(images, model.texts, 1.0, 0.0)


def stage_model(
    name: str,
    stage: Stage,
    identity: Mapping[str, Any],
    *,
    provenance: Provenance,
    cache: Path,
    batch_size: int = 128,
    say: Say = lambda text: None,
) -> AuditModel:
    """A run or a checkpoint; see `Stage`.

    Args:
      name: on the page.
      stage: the model.
      identity: such as hashes of its parameters, and its preprocessing.
      provenance: which model it is, for readers.
      cache: folder of the embeddings; its folders are named by model and data.
      batch_size: records embedded at the same time.
      say: is told of progress.
    """

    def shards(source: Source, modality: str) -> Callable[[range], Shard]:
        return make_embed_rows(source, [stage], modalities=[modality], batch_size=batch_size)

    return _cached_model(name, shards, identity, provenance, cache, say)


def functions_model(
    name: str,
    encode_images: Callable[[Sequence[np.ndarray]], Any],
    encode_texts: Callable[[Sequence[str]], Any],
    *,
    identity: Mapping[str, Any],
    cache: Path,
    batch_size: int = 128,
    say: Say = lambda text: None,
) -> AuditModel:
    """Any model, of any framework, as two functions.

    Args:
      name: on the page.
      encode_images: maps a list of uint8 RGB images [h, w, 3] of any sizes to an array [n, d].
      encode_texts: maps a list of strings to an array [n, d].
      identity: what tells this model from others, such as a name and a version. Change it whenever
        the weights change: embeddings of an equal identity are taken from the cache.
      cache: folder of the embeddings.
      batch_size: images or strings per call.
      say: is told of progress.
    """

    def shards(source: Source, modality: str) -> Callable[[range], Shard]:
        function = encode_images if modality == "image" else encode_texts
        return function_shards(source, modality, function, batch_size=batch_size)

    given = ", ".join(f"{key}={value}" for key, value in identity.items())
    # Weights behind two functions cannot be seen: what is hashed is what the user says of them.
    digest = {"identity": _digest(dict(identity))}
    provenance = Provenance(given, "functions", "", None, None, digest)
    return _cached_model(name, shards, identity, provenance, cache, say)


def _cached_model(
    name: str,
    shards: Callable[[Source, str], Callable[[range], Shard]],
    identity: Mapping[str, Any],
    provenance: Provenance,
    cache: Path,
    say: Say,
) -> AuditModel:
    notes: list[str] = []
    memory: dict[str, np.ndarray] = {}
    known: dict[str, np.ndarray] = {}
    widths: dict[str, int] = {}

    def embedded(source: Source, modality: str, plan: Mapping[str, Any], what: str) -> np.ndarray:
        plan = {"version": CACHE_VERSION, **plan}
        digest = _digest({"model": dict(identity), "modality": modality, "data": plan})
        if digest not in memory:
            folder = cache / f"{_word(name)}-{modality}-{digest[:16]}"
            embed = shards(source, modality)
            about = {"model": dict(identity), "data": plan, "modalities": [modality]}
            memory[digest] = _read_or_embed(folder, embed, modality, len(source), about, what, say)
            widths[modality] = memory[digest].shape[1]
            notes.extend(n for n in same_note(memory[digest], modality) if n not in notes)
            if len(set(widths.values())) > 1:
                raise ValueError(
                    f"{name}: images have {widths['image']} numbers each and texts {widths['text']}; "
                    "expected one width: take both after their projections."
                )
        return memory[digest]

    def images(source: Source, about: Mapping[str, Any]) -> np.ndarray:
        ids = column(source, "id").astype(str)
        plan = {**about, "ids": _digest(ids.tolist()), "images": _sample_digest(source)}
        return embedded(source, "image", plan, f"{name}: {len(ids):,} images")

    def texts(strings: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(strings) if text not in known]
        if new:
            plan = {"texts": _digest(new)}
            z = embedded(Strings(new), "text", plan, f"{name}: {len(new):,} texts")
            known.update(zip(new, z, strict=True))
        return np.stack([known[text] for text in strings])

    return AuditModel(name, images, texts, identity, notes, provenance)


def all_same(z: Float[np.ndarray, "n d"]) -> bool:
    """Whether all of several rows are equal."""
    return len(z) > 1 and bool((z == z[0]).all())


def same_note(z: Float[np.ndarray, "n d"], modality: str) -> list[str]:
    """A note if all rows are equal: scores then tie, and numbers of ties look like any others."""
    if not all_same(z):
        return []
    return [
        f"all {len(z):,} {modality} embeddings are the same: no number says anything about the model."
    ]


def _read_or_embed(
    folder: Path,
    embed: Callable[[range], Shard],
    modality: str,
    number: int,
    about: Mapping[str, Any],
    what: str,
    say: Say,
) -> Float[np.ndarray, "n d"]:
    """The embeddings in the folder, which an interruption left whole up to a shard, or new ones."""

    def told(records: range) -> Shard:
        shard = embed(records)
        say(f"{what}: {records.stop:,} of {number:,} embedded")
        return shard

    for attempt in (0, 1):
        try:
            if (folder / "manifest.json").is_file():
                say(f"{what}: from {folder}")
            write_embeddings(
                folder, told, examples=number, about=about, shard_rows=min(SHARD_ROWS, number)
            )
            found = open_embeddings(folder)
            z = np.concatenate(list(chunks(found, modality, 65_536)))
            return unit(_checked(z, modality, found.ids))
        except (ValueError, OSError, EOFError) as error:
            # Only what was there before can be damaged; a fault of the data or of the model is told.
            if attempt or not (folder / "manifest.json").is_file():
                raise
            say(f"{folder} is damaged, or not of this model ({error}): embedding again")
            shutil.rmtree(folder)
    raise AssertionError("unreachable")


def _checked(z: np.ndarray, modality: str, ids: Sequence[str]) -> np.ndarray:
    zero = np.flatnonzero(~np.any(z, axis=1))
    if len(zero):
        raise ValueError(
            f"{len(zero)} of {len(z)} {modality} embeddings are zero, such as of {ids[zero[0]]!r}; "
            "a zero has no direction: check the model."
        )
    return z


def _sample_digest(source: Source) -> str:
    """A digest of a few images: a file that was written again has the same ids, not the same images."""
    digest = hashlib.sha256()
    for row in np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).astype(int).tolist():
        try:
            with record_fault():
                image = first_image(read_record(source, row))
        except ValueError:
            continue  # embedding names the records that cannot be read
        pixels = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else np.asarray(image)
        digest.update(f"{row}:{pixels.shape}{pixels.dtype},".encode() + pixels.tobytes())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _word(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)[:40] or "model"
