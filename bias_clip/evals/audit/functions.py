"""Shards of embeddings from plain functions on decoded images and on strings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bias_clip.data.bad_records import record_fault
from bias_clip.data.image import make_image_fn
from bias_clip.data.records import Record, Source, read_record
from bias_clip.data.tables.embeddings_writer import Shard
from bias_clip.evals.results import first_image

# Three channels of uint8, whatever the file holds. Transparency is dropped, as the processors of
# published models do, so that a model has the same numbers from its functions and from its weights.
DECODE = "decode|drop_alpha"


class Strings:
    """Strings as a source of captions, so that texts are embedded and cached as images are."""

    def __init__(self, strings: Sequence[str]):
        self.strings = list(strings)

    def __len__(self) -> int:
        return len(self.strings)

    def __getitem__(self, index: int) -> Record:
        return {"id": f"text {index}", "image": b"", "captions": (self.strings[index],)}


def function_shards(
    source: Source,
    modality: str,
    function: Callable[[Sequence[Any]], Any],
    *,
    batch_size: int,
) -> Callable[[range], Shard]:
    """Returns `embed(records) -> Shard`, as `write_embeddings` takes it.

    A record that cannot be read or decoded is broken. Whatever `function` itself raises is raised:
    the model's fault, not the record's.

    Raises:
      ValueError: from `embed`: a result that is not one row per input, of another width, not finite
        or zero.
    """
    decode = make_image_fn(DECODE)
    width: list[int] = []

    def embed(records: range) -> Shard:
        ids, broken, inputs = [], {}, []
        for row in records:
            try:
                record = read_record(source, row)
                with record_fault():
                    inputs.append(_input(record, modality, decode, row))
                ids.append(record["id"])
            except ValueError as error:
                broken[str(row)] = str(error)
        parts = []
        for start in range(0, len(inputs), batch_size):
            batch = inputs[start : start + batch_size]
            z = _vectors(function(batch), f"the function of {modality}s", len(batch), width)
            names = batch if modality == "text" else ids[start : start + batch_size]
            _check_directions(z, modality, names)
            width[:] = [z.shape[1]]
            parts.append(z)
        return Shard(ids, {modality: np.concatenate(parts)} if parts else {}, broken)

    return embed


def _vectors(given: Any, whose: str, number: int, width: Sequence[int]) -> np.ndarray:
    """What a function returned as float32 [number, d]; `width` holds d once it is known."""
    try:
        z = np.asarray(given)
        with np.errstate(over="ignore"):  # infinity is refused below, with the name of the input
            z = z if np.iscomplexobj(z) else z.astype(np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{whose} returned a {type(given).__name__} that is not a table of numbers ({error}); "
            f"expected an array of {number} rows, one per input."
        ) from error
    if np.iscomplexobj(z):
        raise ValueError(f"{whose} returned complex numbers; expected real ones.")
    good = z.ndim == 2 and len(z) == number and z.shape[1] > 0
    if not good or (width and z.shape[1] != width[0]):
        expected = f"({number}, {width[0] if width else 'd'})"
        raise ValueError(
            f"{whose} returned shape {z.shape} for {number} inputs; expected {expected}: one row per "
            "input, all of one width."
        )
    return z


def _check_directions(z: np.ndarray, modality: str, names: Sequence[str]) -> None:
    """Raises ValueError, before anything is written, for rows that are not finite or are zero."""
    faults = {
        "with NaN or infinity (in float32)": ~np.isfinite(z).all(axis=1),
        "of zeros (in float32), which have no direction": ~z.any(axis=1),
    }
    for fault, rows in faults.items():
        if rows.any():
            raise ValueError(
                f"the function of {modality}s returned {int(rows.sum())} of {len(z)} rows {fault}, such "
                f"as for {names[int(rows.argmax())][:60]!r}: check the model and its inputs."
            )


def _input(record: Record, modality: str, decode: Callable, row: int) -> Any:
    if modality == "text":
        return record["captions"][0]
    pixels = decode(first_image(record), np.random.default_rng(row))
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)
