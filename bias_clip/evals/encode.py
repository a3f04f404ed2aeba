"""From pictures and strings to embeddings: the only part of an evaluation that runs the model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bias_clip.data.sources import Source
from bias_clip.evals.ranking import unit
from bias_clip.evals.results import first_picture


class Encode(NamedTuple):
    """One checkpoint as its evaluators see it.

    Attributes:
      images: source to float32 [n, d] of unit norm, row i for record i.
      texts: strings to float32 [n, d] of unit norm.
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
    num_threads: int = 2,
) -> Callable[[Any, float, float], Encode]:
    """Returns `encoder(params, scale, bias) -> Encode`, to be called once per checkpoint.

    An `Encode` remembers each source (by identity) and each string, so that evaluators which share
    them embed them once. All batches have `batch_size` rows, so the model compiles once: the last
    is filled up with its last row, and what comes back for the filling is dropped.

    Args:
      embed_image: (params, float [batch_size, h, w, 3]) to embeddings that this process can read
        whole; it may spread the batch over devices and hosts, since every process sends the same.
      embed_text: (params, int [batch_size, l]) to embeddings, likewise.
      image_fn: from `make_image_fn`; its generator is a function of the record's index alone.
      text_fn: from `make_text_fn`.
      batch_size: rows embedded at a time.
      num_threads: threads that decode the next batch while the model embeds this one.

    Raises:
      ValueError: batch_size or num_threads below 1; from an `Encode`: nothing to embed, a picture
        that cannot be read (named by its record), embeddings that are not finite.
    """
    if batch_size < 1 or num_threads < 1:
        raise ValueError(f"{batch_size=}, {num_threads=}; expected both to be at least 1.")

    def encoder(params: Any, scale: float, bias: float) -> Encode:
        image_memo: dict[int, tuple[Source, np.ndarray]] = {}
        text_memo: dict[str, np.ndarray] = {}

        def images(source: Source) -> np.ndarray:
            if id(source) not in image_memo:
                batches = _image_batches(source, image_fn, batch_size, num_threads)
                z = _embed(lambda x: embed_image(params, x), batches, batch_size, "image")
                image_memo[id(source)] = (source, z)  # held, so that its id is not given away
            return image_memo[id(source)][1]

        def texts(strings: Sequence[str]) -> np.ndarray:
            new = [text for text in dict.fromkeys(strings) if text not in text_memo]
            if new or not strings:
                batches = _text_batches(new, text_fn, batch_size)
                z = _embed(lambda x: embed_text(params, x), batches, batch_size, "text")
                text_memo.update(zip(new, z, strict=True))
            return np.stack([text_memo[text] for text in strings])

        return Encode(images, texts, float(scale), float(bias))

    return encoder


def _embed(
    embed: Callable[[np.ndarray], Any], batches: Iterable[np.ndarray], batch_size: int, what: str
) -> Float[np.ndarray, "n d"]:
    parts = [np.asarray(embed(_filled(x, batch_size)), np.float32)[: len(x)] for x in batches]
    if not parts:
        raise ValueError(f"got no {what} to embed; expected a source or list with at least one.")
    z = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(z)} {what} embeddings are not finite, first row {bad[0]}; "
            "the parameters have diverged: go back to an earlier checkpoint."
        )
    return unit(z)


def _filled(batch: np.ndarray, batch_size: int) -> np.ndarray:
    missing = batch_size - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch


def _image_batches(
    source: Source, image_fn: Callable, batch_size: int, num_threads: int
) -> Iterator[np.ndarray]:
    """Yields stacks of prepared pictures; the threads are one batch ahead of the caller."""
    with ThreadPoolExecutor(num_threads) as pool:

        def start(first: int) -> list[Future]:
            last = min(first + batch_size, len(source))
            return [pool.submit(_picture, source, image_fn, i) for i in range(first, last)]

        pending = start(0)
        for first in range(batch_size, len(source) + batch_size, batch_size):
            current, pending = pending, start(first)
            yield np.stack([future.result() for future in current])


def _picture(source: Source, image_fn: Callable, index: int) -> np.ndarray:
    record = source[index]
    rng = np.random.Generator(np.random.Philox(key=index))
    try:
        return image_fn(first_picture(record), rng)
    except ValueError as error:
        raise ValueError(
            f"the picture of record {record['id']!r} (index {index}) cannot be read: {error}; "
            "an evaluation scores every record, so repair or remove it."
        ) from error


def _text_batches(
    strings: Sequence[str], text_fn: Callable[[str], np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
    for first in range(0, len(strings), batch_size):
        yield np.stack([text_fn(text) for text in strings[first : first + batch_size]])
