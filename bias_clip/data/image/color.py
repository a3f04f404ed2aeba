"""Operations on the colours of an image: background, jitter, grey, range."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from bias_clip.data.image.checks import check_number
from bias_clip.data.image.codec import Pixels, check_pixels, to_pil

_COLORS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def background(
    image: Pixels, color: str = "white", probability: float = 1.0, *, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Composites an image with transparency over one colour; an opaque image passes unchanged.

    `alpha * image + (1 - alpha) * color`, rounded. `color` is "white", "black", "#rrggbb" (quoted in
    an op-string), or "random": uniform in RGB for a share `probability` of the images, white for
    the rest.

    Raises: ValueError for another colour, or a probability that is not in [0, 1].
    """
    check_number("background.probability", probability, 0, 1)
    # Draw first, so that later operations see the same random stream for every image.
    fill = _random_color(rng, probability) if color == "random" else parse_color(color)
    if image.shape[2] == 3:
        return image
    canvas = Image.new("RGB", (image.shape[1], image.shape[0]), fill)
    pil = to_pil(image)
    # The image is its own mask: Pillow takes the alpha channel of it.
    canvas.paste(pil, mask=pil)
    return np.asarray(canvas)


def color_jitter(
    image: Pixels,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    *,
    rng: np.random.Generator,
) -> Pixels:
    """Scales brightness, contrast and saturation by factors uniform in `[1 - x, 1 + x]`.

    Brightness scales towards black, contrast towards the mean grey of the image, saturation
    towards each pixel's grey, in this order; alpha does not change.

    Raises: ValueError for a number that is not in [0, 1]: above 1 some factors would be negative.
    """
    for name, x in (
        ("brightness", brightness),
        ("contrast", contrast),
        ("saturation", saturation),
    ):
        check_number(f"color_jitter.{name}", x, 0, 1)
    check_pixels("color_jitter", *image.shape[:2])  # several float arrays of 12 bytes per pixel
    widths = np.array([brightness, contrast, saturation], np.float32)
    # Three draws, also for widths of 0: turning one on leaves the others as they were.
    factors = 1 + widths * (2 * rng.random(3, dtype=np.float32) - 1)
    color = image[..., :3] * factors[0]
    # The mean of the image after its brightness changed: operations apply one after the other.
    mean = np.float32((color @ _LUMA).mean())
    color = (color - mean) * factors[1] + mean
    grey = (color @ _LUMA)[..., None]
    color = (color - grey) * factors[2] + grey
    return _with_color(image, color)


def gray(image: Pixels, probability: float = 1.0, *, rng: np.random.Generator) -> Pixels:
    """Makes a share `probability` of the images grey; alpha does not change.

    `grey = 0.299 r + 0.587 g + 0.114 b` in all three channels.

    Raises: ValueError for a probability that is not in [0, 1].
    """
    check_number("gray.probability", probability, 0, 1)
    if rng.random() >= probability:
        return image
    check_pixels("gray", *image.shape[:2])
    return _with_color(image, (image[..., :3] @ _LUMA)[..., None])


def value_range(
    image: Pixels, low: float = -1.0, high: float = 1.0
) -> Float32[np.ndarray, "h w 3"]:
    """Maps 0..255 to `low`..`high`: `image * (high - low) / 255 + low` in float32.

    Raises: ValueError if the image still has transparency, or as `check_range`.
    """
    check_range(low, high)
    check_pixels("value_range", *image.shape[:2])
    return to_range(opaque(image), low, high)


def normalize(
    image: Pixels,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> Float32[np.ndarray, "h w 3"]:
    """Maps 0..255 to `(image / 255 - mean) / std` in float32; one number, or one per channel.

    Raises: ValueError if the image still has transparency; for a number that is not finite, a
      `std` of 0 or below, or a count other than one or three.
    """
    check_pixels("normalize", *image.shape[:2])
    middle, spread = _channels("mean", mean), _channels("std", std)
    if not (spread > 0).all():
        raise ValueError(f"normalize got std={std}, expected positive numbers.")
    return to_normal(opaque(image), middle, spread)


def drop_alpha(image: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    """Drops the alpha channel, so that the colours beneath it show, as published processors do."""
    return image[..., :3]


def opaque(image: Pixels) -> Pixels:
    """Returns the image unchanged; raises ValueError if it still has transparency."""
    if image.shape[2] != 3:
        raise ValueError(
            f"got {image.shape[2]} channels, expected 3: put background(white) or drop_alpha before "
            "value_range or normalize."
        )
    return image


def check_range(low: float, high: float) -> None:
    """Raises ValueError unless `low` is below `high` and float32 holds both: else all images are equal."""
    most = float(np.finfo(np.float32).max) / 2  # so that it holds the difference, too
    if not -most < low < high < most:
        raise ValueError(f"value_range got {low} to {high}, expected a lower and a higher number.")


def to_range(image: Any, low: float, high: float) -> Any:
    """Returns `image * (high - low) / 255 + low` in float32, for uint8 arrays of NumPy or JAX."""
    # Constants of float32: uint8 times a Python float is float64, twice the memory.
    return image * np.float32((high - low) / 255) + np.float32(low)


def to_normal(image: Any, mean: Any, std: Any) -> Any:
    """Returns `(image / 255 - mean) / std` in float32, for uint8 arrays of NumPy or JAX."""
    return (image / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def _channels(name: str, value: float | Sequence[float]) -> np.ndarray:
    numbers = np.asarray(value, np.float32)
    if numbers.shape not in ((), (3,)) or not np.isfinite(numbers).all():
        raise ValueError(f"normalize got {name}={value}, expected one or three finite numbers.")
    return numbers


def parse_color(color: str) -> tuple[int, ...]:
    """Returns the three bytes of "white", "black" or "#rrggbb"; raises ValueError for another."""
    if color in _COLORS:
        return _COLORS[color]
    # Not `bytes.fromhex` alone, which skips blanks.
    if re.fullmatch("#[0-9a-fA-F]{6}", color):
        return tuple(bytes.fromhex(color[1:]))
    raise ValueError(
        f"got the colour {color!r}, expected 'white', 'black', 'random' (background only), "
        "'corner' (affine only) or '#rrggbb'."
    )


def _random_color(rng: np.random.Generator, probability: float) -> tuple[int, ...]:
    # Four draws in any case, so that later operations get the same numbers for every image.
    draws = rng.random(4)
    is_random = draws[3] < probability
    return tuple((draws[:3] * 256).astype(int).tolist()) if is_random else _COLORS["white"]


def _with_color(image: Pixels, color: np.ndarray) -> Pixels:
    out = image.copy()
    # Assigning to uint8 truncates, so + 0.5 rounds. Without the clip, numbers beyond 255 would wrap around.
    out[..., :3] = np.clip(color + 0.5, 0, 255)
    return out
