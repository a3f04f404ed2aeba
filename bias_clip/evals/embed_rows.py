"""Embeds a range of records: the features of their images and first captions."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from bias_clip.data.bad_records import record_fault, visible_captions
from bias_clip.data.records import Record, Source, read_record
from bias_clip.data.tables.embeddings import MODALITIES
from bias_clip.data.tables.embeddings_writer import Shard
from bias_clip.evals.concat import Stage, join
from bias_clip.evals.encode import filled
from bias_clip.evals.results import first_image

Inputs = dict[Any, np.ndarray]  # by the function that made them


class _Prepared(NamedTuple):
    row: int
    name: str
    inputs: Inputs
    reason: str  # why it cannot be embedded; "" where it can


def make_embed_rows(
    source: Source,
    stages: Sequence[Stage],
    *,
    form: str = "raw",
    modalities: Sequence[str] = MODALITIES,
    batch_size: int,
    num_threads: int = 2,
    on_rows: Callable[[int], None] = lambda count: None,
) -> Callable[[range], Shard]:
    """Returns `embed(records) -> Shard`, as `write_embeddings` takes it.

    A record is broken if it cannot be read, if its image cannot be decoded, or if it has no caption.
    All others are embedded in batches of `batch_size` rows; the last one is padded. So a model
    compiles once, and the features of a range do not depend on earlier ranges.

    Args:
      source: whose records are embedded.
      stages: one model, or several whose features are joined.
      form: how, see `join`.
      modalities: "image", "text" or both; the other modality is not read.
      batch_size: records that are embedded at the same time.
      num_threads: threads that prepare the next batch in the meantime.
      on_rows: called with the number of records embedded since its last call.

    Raises:
      ValueError: an unknown modality, or none; as `join`.
    """
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown or not modalities:
        raise ValueError(f"modalities are {modalities}; expected some of {list(MODALITIES)}.")
    join([np.zeros((1, 1))] * len(stages), form=form)  # says at once what is wrong

    def embed(records: range) -> Shard:
        ids: list[str] = []
        parts: dict[str, list[np.ndarray]] = {name: [] for name in modalities}
        broken: dict[str, str] = {}
        for batch in _batches(source, stages, modalities, records, batch_size, num_threads):
            good = [example for example in batch if not example.reason]
            broken |= {str(e.row): e.reason for e in batch if e.reason}
            ids += [example.name for example in good]
            for name in modalities if good else ():
                made = [_features(stage, name, good, batch_size) for stage in stages]
                parts[name].append(join(made, form=form))
            on_rows(len(batch))
        return Shard(ids, {k: np.concatenate(v) for k, v in parts.items() if v}, broken)

    return embed


def _features(
    stage: Stage, name: str, examples: Sequence[_Prepared], batch_size: int
) -> np.ndarray:
    make, run = (stage.image_fn, stage.image) if name == "image" else (stage.text_fn, stage.text)
    x = np.stack([example.inputs[make] for example in examples])
    # Padded to one size, because each other size would compile the model again.
    return np.asarray(run(filled(x, batch_size)), np.float32)[: len(x)]


def _batches(
    source: Source,
    stages: Sequence[Stage],
    modalities: Sequence[str],
    records: range,
    batch_size: int,
    num_threads: int,
) -> Iterator[list[_Prepared]]:
    """Yields prepared records; the threads are one batch ahead of the caller."""
    # Stages often share a preprocessing: each image is then prepared once, and not once per stage.
    images = dict.fromkeys(s.image_fn for s in stages) if "image" in modalities else {}
    strings = dict.fromkeys(s.text_fn for s in stages) if "text" in modalities else {}
    with ThreadPoolExecutor(num_threads) as pool:

        def start(first: int) -> list[Future]:
            # A range of a range: beyond the end it is empty, so that the last batch starts nothing.
            rows = records[first : first + batch_size]
            return [pool.submit(_prepare, source, row, images, strings) for row in rows]

        pending = start(0)
        for first in range(batch_size, len(records) + batch_size, batch_size):
            current, pending = pending, start(first)
            yield [future.result() for future in current]


def _prepare(source: Source, row: int, images: Any, strings: Any) -> _Prepared:
    name = ""
    try:
        record = read_record(source, row)
        name = record["id"]
        with record_fault():
            inputs = {make: make(_image(record), _rng(row)) for make in images}
            inputs |= {make: make(_caption(record)) for make in strings}
    except ValueError as error:  # what the pipeline counts and replaces
        return _Prepared(row, name, {}, f"{name!r}: {error}" if name else f"{error}")
    return _Prepared(row, name, inputs, "")


def _image(record: Record) -> Any:
    if isinstance(record["image"], tuple) and not record["image"]:
        raise ValueError("no image")
    return first_image(record)


def _caption(record: Record) -> str:
    """The first caption that is not blank, as in training."""
    captions = visible_captions(record)
    if not captions:
        raise ValueError("no caption, or empty ones only")
    return captions[0]


def _rng(row: int) -> np.random.Generator:
    # By the record alone, so that batch size and restarts do not change its features.
    return np.random.Generator(np.random.Philox(key=row))
