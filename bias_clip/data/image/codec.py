"""Pictures in and out: encoded bytes, uint8 arrays, and Pillow's images between operations."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

Pixels = UInt8[np.ndarray, "h w c"]
MODES = {3: "RGB", 4: "RGBA"}

# What Pillow raises on broken files; OSError covers truncated and unknown ones.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def decode(image: bytes | np.ndarray, at_least: int | None = None) -> Pixels:
    """Decodes an encoded picture to RGB, or to RGBA where it has transparency; arrays pass.

    With `at_least`, a JPEG whose sides are both twice that or more is decoded at 1/2, 1/4 or 1/8 of
    its size, the smallest of which both sides have `at_least` pixels: means over blocks, taken from the
    coefficients, which costs a fraction of all pixels. What follows then resizes less.

    Returns: a uint8 array [h,w,3 or 4].
    Raises: ValueError when the bytes are not a whole picture that Pillow reads, or an array has
      another type or shape; `at_least` is below 1.
    """
    if at_least is not None and at_least < 1:
        raise ValueError(f"decode got at_least={at_least}, expected at least 1.")
    if isinstance(image, np.ndarray):
        return _checked(image)
    if not isinstance(image, bytes | bytearray | memoryview):
        raise ValueError(f"decode got {type(image).__name__}, expected bytes or a uint8 array.")
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if at_least is not None:
                opened.draft(opened.mode, (at_least, at_least))  # of another format: does nothing
            return np.asarray(opened.convert("RGBA" if opened.has_transparency_data else "RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(
            f"cannot decode a picture of {len(image)} bytes: no known format"
        ) from error
    except _DECODE_ERRORS as error:
        raise ValueError(f"cannot decode a picture of {len(image)} bytes: {error}") from error


def encode_png(image: Pixels) -> bytes:
    """Encodes a uint8 array [h,w,3 or 4] as PNG, without loss.

    Returns: the bytes of the file.
    Raises: ValueError when `image` is not a uint8 array of three or four channels.
    """
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def to_pil(image: Pixels) -> Image.Image:
    """Returns the array as Pillow's image, RGB or RGBA; raises ValueError for another form."""
    h, w, c = _checked(image).shape
    pixels = np.ascontiguousarray(image)
    return Image.frombuffer(MODES[c], (w, h), pixels, "raw", MODES[c], 0, 1)


def _checked(image: np.ndarray) -> Pixels:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in MODES:
        raise ValueError(
            f"got an array {image.dtype}{list(image.shape)}, expected uint8 [h, w, 3 or 4]."
        )
    return image
