"""The result of an evaluator, and the images that it shows."""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bias_clip.data.image import encode_png, make_image_fn

THUMBNAIL_OPS = "decode|background(white)|resize(64, antialias=True)"


class EvalResult(NamedTuple):
    """Numbers to follow over training, and data for the report.

    Attributes:
      metrics: numbers by short flat names; NaN if a number does not exist.
      details: any JSON values; `details["kind"]` is the evaluator's name.
    """

    metrics: dict[str, float]
    details: dict[str, Any]


def first_image(record: Mapping[str, Any]) -> bytes | np.ndarray:
    """The image on which a record is evaluated: the first if it has several equivalent ones."""
    image = record["image"]
    return image[0] if isinstance(image, tuple) else image


def thumbnail(record: Mapping[str, Any]) -> str:
    """The record's image on white, 64 pixels wide, as base64 of a PNG."""
    ops = make_image_fn(THUMBNAIL_OPS)
    # The operations take a generator, but none of these is random.
    pixels = np.asarray(ops(first_image(record), np.random.default_rng(0)))
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return base64.b64encode(encode_png(pixels)).decode("ascii")


def spread(n: int, count: int, *, seed: int) -> np.ndarray:
    """`count` random numbers out of 0..n-1 (all if there are fewer), sorted."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:count])


def or_none(value: float) -> float | None:
    """The value, or None for NaN, which JSON cannot hold."""
    return None if np.isnan(value) else float(value)
