"""Embeds images and strings: the only part of an evaluation that runs the model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.data.bad_records import record_fault
from bias_clip.data.sources import Source
from bias_clip.evals.ranking import unit
from bias_clip.evals.results import first_image


class Encode(NamedTuple):
    """One checkpoint as its evaluators see it.

    Attributes:
      images: maps a source to unit-norm float32 [n, d], row i for record i.
      texts: maps strings to unit-norm float32 [n, d].
      scale: multiplies the cosine.
      bias: is added to the logit.
    """

    images: Callable[[Source], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]
    scale: float
    bias: float


def make_encoder(
    *,
    embed_image: Callable[[Any, np.ndarray], Any],
    embed_text: Callable[[Any, np.ndarray], Any],
    image_fn: Callable[[Any, np.random.Generator], np.ndarray],
    text_fn: Callable[[str], np.ndarray],
    batch_size: int,
    rows: Sequence[int] | None = None,
    num_threads: int = 2,
    finish: Callable[[np.ndarray], np.ndarray] = unit,
) -> Callable[[Any, float, float], Encode]:
    """Returns `encoder(params, scale, bias) -> Encode`, to be called once per checkpoint.

    An `Encode` caches each source (by identity) and each string, so evaluators that share them embed
    them once. All batches have `batch_size` rows, so the model compiles once. The last batch is
    padded with copies of its last row, whose results are dropped.

    Args:
      embed_image: maps (params, float [batch_size, h, w, 3]) to embeddings that this process can read
        completely. It may spread the batch over devices and hosts: all processes send equal batches.
      embed_text: maps (params, int [batch_size, l]) to embeddings in the same way.
      image_fn: from `make_image_fn`; its generator depends only on the record's index.
      text_fn: from `make_text_fn`.
      batch_size: rows embedded at the same time.
      rows: the rows of an image batch that this process prepares; the others stay zero. None for all.
      num_threads: threads that decode the next batch while the model embeds this one.
      finish: applied to all rows together at the end. Embeddings have unit norm; see `concat` for
        features that do not.

    Raises:
      ValueError: batch_size or num_threads below 1; from an `Encode`: nothing to embed, an image
        that cannot be read (named by its record), embeddings that are not finite.
    """
    if batch_size < 1 or num_threads < 1:
        raise ValueError(f"{batch_size=}, {num_threads=}; expected both to be at least 1.")

    own = range(batch_size) if rows is None else rows

    def encoder(params: Any, scale: float, bias: float) -> Encode:
        image_memo: dict[int, tuple[Source, np.ndarray]] = {}
        text_memo: dict[str, np.ndarray] = {}

        def images(source: Source) -> np.ndarray:
            if id(source) not in image_memo:
                batches = _image_batches(source, image_fn, batch_size, own, num_threads)
                z = finish(_embed(lambda x: embed_image(params, x), batches, len(source), "image"))
                # Keeps the source alive, so that its id() is not reused.
                image_memo[id(source)] = (source, z)
            return image_memo[id(source)][1]

        def texts(strings: Sequence[str]) -> np.ndarray:
            # Each string once: class names and captions repeat, within a call and between evaluators.
            new = [text for text in dict.fromkeys(strings) if text not in text_memo]
            if new or not strings:
                batches = _text_batches(new, text_fn, batch_size)
                z = finish(_embed(lambda x: embed_text(params, x), batches, len(new), "text"))
                text_memo.update(zip(new, z, strict=True))
            return np.stack([text_memo[text] for text in strings])

        return Encode(images, texts, float(scale), float(bias))

    return encoder


def _embed(
    embed: Callable[[np.ndarray], Any], batches: Iterable[np.ndarray], count: int, what: str
) -> Float[np.ndarray, "n d"]:
    if not count:
        raise ValueError(f"got no {what} to embed; expected a source or list with at least one.")
    z = np.concatenate([np.asarray(embed(batch), np.float32) for batch in batches])[:count]
    # After the padding is cut, so that the row that is named is one of the source.
    bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(z)} {what} embeddings are not finite, first row {bad[0]}; "
            "the parameters have diverged: use an earlier checkpoint."
        )
    return z


def filled(batch: np.ndarray, batch_size: int) -> np.ndarray:
    """The rows, padded to `batch_size` with copies of the last one."""
    missing = batch_size - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch


def _image_batches(
    source: Source, image_fn: Callable, batch_size: int, rows: Sequence[int], num_threads: int
) -> Iterator[np.ndarray]:
    """Yields stacks of prepared images; the threads are one batch ahead of the caller."""
    last = len(source) - 1
    with ThreadPoolExecutor(num_threads) as pool:

        def start(first: int) -> dict[int, Future]:
            # Rows beyond the last record repeat it: every process sends a full batch.
            wanted = {min(first + row, last) for row in rows} if first <= last else set()
            return {i: pool.submit(_image, source, image_fn, i) for i in sorted(wanted)}

        pending = start(0)
        for first in range(0, len(source), batch_size):
            # The next batch starts before this one is awaited, so decoding and the model overlap.
            current, pending = pending, start(first + batch_size)
            made = {i: future.result() for i, future in current.items()}
            # The shape is known once an image is prepared. Rows of other processes stay zero: they fill them.
            example = next(iter(made.values()))
            batch = np.zeros((batch_size, *example.shape), example.dtype)
            for row in rows:
                batch[row] = made[min(first + row, last)]
            yield batch


def _image(source: Source, image_fn: Callable, index: int) -> np.ndarray:
    record = source[index]
    # Random ops are those of the record, whatever the batch size and the order of the threads.
    rng = np.random.Generator(np.random.Philox(key=index))
    try:
        with record_fault():
            return image_fn(first_image(record), rng)
    except ValueError as error:
        raise ValueError(
            f"the image of record {record['id']!r} (index {index}) cannot be read: {error}; "
            "an evaluation scores every record, so repair or remove it."
        ) from error


def _text_batches(
    strings: Sequence[str], text_fn: Callable[[str], np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
    for first in range(0, len(strings), batch_size):
        made = np.stack([text_fn(text) for text in strings[first : first + batch_size]])
        yield filled(made, batch_size)
