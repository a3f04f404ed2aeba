"""The example at a position of the training stream: a pure function of (seed, position)."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Float32, Int32

from bias_clip.data.bad_records import record_fault, visible_captions
from bias_clip.data.image import ImageFn
from bias_clip.data.records import Record, Source, read_many, read_record
from bias_clip.data.text import TextFn

# Draws before a position without a good record is an error; 2^-64 when half the records are bad.
_MAX_DRAWS = 64
# grain's cipher uses blocks of at least 2^16: 5 ms per index for 21 records, 6 us for 1,000.
_TABLE = 2**16


class Example(NamedTuple):
    """One row of a batch, and the bad records that were replaced on the way to it."""

    image: Float32[np.ndarray, "h w 3"]
    text: Int32[np.ndarray, " l"]
    record: int
    bad: tuple[tuple[str, str], ...]


class Order(NamedTuple):
    """Which records a stream visits; pure functions, safe to call from threads.

    Attributes:
      at: maps a position to the record there.
      another: maps a position and a generator to a record that can replace a bad one there.
    """

    at: Callable[[int], int]
    another: Callable[[int, np.random.Generator], int]


def make_examples_fn(
    source: Source,
    *,
    image_fn: ImageFn,
    text_fn: TextFn,
    seed: int,
    first_caption: float = 0.0,
    order: Order | None = None,
) -> Callable[[Sequence[int]], list[Example]]:
    """Makes the function from positions of the stream to their examples, each independent of the others.

    The records of all positions are requested together, so that a remote source reads them concurrently.
    The record is the one that the epoch's shuffle puts there. If it is bad, others are drawn until one is
    good. A record is bad if reading it, its image or its caption raises anything except an error of
    storage or memory, see `record_fault`; it is then counted and named. All draws come from
    `Philox(key=(seed, position))`: first the image, then the caption, then the augmentation, so that
    another augmentation does not change the pairs.

    Args:
      source: of the records.
      image_fn, text_fn: map an image and a caption to arrays.
      seed: of all draws.
      first_caption: share of visits that take the record's first caption, which is its name or its
        original text; the others draw one of all captions.
      order: of the records; None: a shuffle of all of them.

    Returns: the function; pure, and safe to call from threads. It raises ValueError after 64
      consecutive bad records.
    Raises: ValueError for a share outside [0, 1].
    """
    check_first_caption(first_caption)
    order = order or shuffled(len(source), seed)

    def make_examples(positions: Sequence[int]) -> list[Example]:
        indices = [order.at(position) for position in positions]
        # A record at several positions is read once; the dictionary keeps the order of requests.
        once = list(dict.fromkeys(indices))
        records = dict(zip(once, read_many(source, once), strict=True))
        return [
            make_example(p, index, records) for p, index in zip(positions, indices, strict=True)
        ]

    def make_example(
        position: int, index: int, records: Mapping[int, Record | ValueError]
    ) -> Example:
        # A 128-bit key: the seed below, the position above. No two (seed, position) share a stream.
        rng = np.random.Generator(np.random.Philox(key=seed | position << 64))
        bad: list[tuple[str, str]] = []
        for _ in range(_MAX_DRAWS):
            name = f"record {index}"
            try:
                record = records[index] if index in records else read_record(source, index)
                if isinstance(record, ValueError):
                    raise record
                # The id is known only now; until then errors name the number.
                name = f"{record['id']} (record {index})"
                with record_fault():
                    given = _draw_image(record, rng)
                    caption = _draw_caption(record, rng, first_caption)
                    image = image_fn(given, rng)
                    return Example(image, text_fn(caption), index, tuple(bad))
            except ValueError as error:
                bad.append((name, str(error)))
                index = order.another(position, rng)
        raise ValueError(
            f"{_MAX_DRAWS} records drawn for position {position} were all bad, such as "
            + "; ".join(f"{name}: {reason}" for name, reason in bad[:5])
        )

    return make_examples


def check_first_caption(share: float) -> None:
    """Raises ValueError for a share outside [0, 1]."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"got first_caption={share}, expected a share between 0 and 1.")


def make_example_fn(source: Source, **arguments: Any) -> Callable[[int], Example]:
    """Makes the function from one position to its example, see `make_examples_fn`."""
    make_examples = make_examples_fn(source, **arguments)
    return lambda position: make_examples([position])[0]


def shuffled(length: int, seed: int) -> Order:
    """The order that visits all records in each epoch, see `shuffled_index`."""
    return Order(
        lambda position: shuffled_index(position, length, seed),
        lambda position, rng: int(rng.integers(length)),
    )


def shuffled_index(position: int, length: int, seed: int) -> int:
    """The record at a position: every epoch, `position // length`, has its own permutation.

    The permutation of a large source is a cipher, which computes single indices and takes no memory;
    that of a small source is a table.
    """
    epoch, place = divmod(position, length)
    if length <= _TABLE:
        return int(_epoch_table(seed, epoch, length)[place])
    key = int.from_bytes(_epoch_key(seed, epoch)[:4], "little")
    return grain.experimental.index_shuffle(place, max_index=length - 1, seed=key, rounds=4)


@functools.lru_cache(maxsize=8)
def _epoch_table(seed: int, epoch: int, length: int) -> np.ndarray:
    # Sort raw words, because NumPy guarantees only their stream across versions.
    key = int.from_bytes(_epoch_key(seed, epoch), "little")
    return np.argsort(np.random.Philox(key=key).random_raw(length), kind="stable")


@functools.lru_cache(maxsize=64)
def _epoch_key(seed: int, epoch: int) -> bytes:
    # A hash and not seed + epoch, with which run 1 would begin with the second epoch of run 0.
    return hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=16).digest()


def _draw_image(record: Record, rng: np.random.Generator) -> Any:
    images = record["image"]
    if not isinstance(images, tuple):
        return images
    if not images:
        raise ValueError("no image")
    return images[int(rng.integers(len(images)))]


def _draw_caption(record: Record, rng: np.random.Generator, first: float) -> str:
    captions = visible_captions(record)
    if not captions:
        raise ValueError("no caption, or empty ones only")
    # No draw if the share is 0: the default's stream is then the same as without this option.
    if first and rng.random() < first:
        return captions[0]
    return captions[int(rng.integers(len(captions)))]
