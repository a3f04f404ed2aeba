"""Which columns a batch has, and their shapes and dtypes."""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from bias_clip.data.stream.examples import Example

Batch = dict[str, np.ndarray]

CELLS, WEIGHTS = "cells", "weights"
ATTRIBUTES: dict[str, type] = {
    "labels": np.int32,
    "bias_labels": np.int32,
    CELLS: np.int32,
    "prior": np.float32,
    WEIGHTS: np.float32,
}
"""The columns that a run may have besides image and text: one number per row, of this dtype."""

ROW_KEYS = ("text_id", *ATTRIBUTES)
"""What a term of the objective may read: one number per row."""


class Column(NamedTuple):
    """One array of a batch: the shape per row, and the dtype."""

    shape: tuple[int, ...]
    dtype: type


def attributes_of(
    *, columns: Collection[str], balance: Mapping[str, Any] | None, cells: Any
) -> tuple[str, ...]:
    """Returns the attribute columns that the batches of a run have.

    Args:
      columns: keys of `make_columns`.
      balance: arguments of `make_plan`, or None; weights in the loss are a column.
      cells: arguments of `make_cells_plan`, or None.
    """
    weighted = balance is not None and balance["use"] == "weight"
    given = ((WEIGHTS, weighted), (CELLS, cells is not None))
    return (*columns, *(key for key, present in given if present))


def batch_columns(*, size: int, length: int, attributes: Iterable[str]) -> dict[str, Column]:
    """Returns the columns that the device receives, by name.

    The host's batch also has `index`, the record in the source, which stays on the host; an image
    that the host already brought to its value range is float32.

    Args:
      size: height and width of the images, in pixels.
      length: of the texts, in tokens.
      attributes: from `attributes_of`.
    """
    return {
        "image": Column((size, size, 3), np.uint8),
        "text": Column((length,), np.int32),
        "text_id": Column((), np.int32),
    } | {key: Column((), ATTRIBUTES[key]) for key in attributes}


def check_example(example: Example) -> None:
    """Raises ValueError unless image and text have the form that a batch can hold."""
    image, text = example.image, example.text
    if image.dtype not in (np.uint8, np.float32) or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"the image operations give {image.dtype}{list(image.shape)}, expected "
            "uint8 or float32 [h, w, 3]."
        )
    if text.dtype != np.int32 or text.ndim != 1:
        raise ValueError(f"text_fn gives {text.dtype}{list(text.shape)}, expected int32 [length].")


def collate(
    examples: Sequence[Example], columns: Mapping[str, np.ndarray]
) -> tuple[Batch, list[tuple[tuple[str, str], ...]]]:
    """Returns (the batch of some examples, the bad records that were found on the way).

    Args:
      examples: the rows, in order.
      columns: for each attribute an array with an entry per record; its `index`, if given, replaces the
        record's number in the phase by its number in the source.

    Raises:
      ValueError: the images have different shapes.
    """
    # Checked before `np.stack`, whose error would not say what to change.
    shapes = {e.image.shape for e in examples}
    if len(shapes) > 1:
        raise ValueError(
            f"images of different shapes in one batch: {sorted(shapes)}; expected one: end the "
            "image operations with a resize or crop to a fixed size."
        )
    text = np.stack([e.text for e in examples])
    # int64 on the host alone: devices get no index, and JAX has no 64 bits by default.
    index = np.fromiter((e.record for e in examples), np.int64, len(examples))
    batch = {
        "image": np.stack([e.image for e in examples]),
        "text": text,
        "text_id": np.fromiter((_text_id(t) for t in text), np.int32, len(text)),
        "index": index,
    }
    # After `index`, which a thinned phase replaces by the number in the whole source.
    batch |= {key: values[index] for key, values in columns.items()}
    return batch, [e.bad for e in examples if e.bad]


def _text_id(tokens: Int32[np.ndarray, " l"]) -> int:
    # A hash of the tokens and not of the string: captions that differ only beyond the cut are the same
    # text to the model. 31 bits: in one of four batches of 32,768, two captions collide, harmlessly.
    return zlib.crc32(tokens.tobytes()) & 0x7FFFFFFF
