"""Images in and out: encoded bytes, uint8 arrays, and Pillow's images between operations."""

import functools
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bias_clip.data.bad_records import record_fault
from bias_clip.data.image.exif import upright
from bias_clip.data.image.samples import eight_bit

Pixels = UInt8[np.ndarray, "h w c"]
MODES = {3: "RGB", 4: "RGBA"}

# Pillow opens some forty formats; most of their readers are hardly tested on untrusted bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# 33 million: above what phones and most cameras store (24 million). An animated WebP takes the most
# memory while it is decoded, 17 bytes per pixel: 570 MB per thread.
MAX_PIXELS = 2**25
MAX_BYTES = 2**28
# 4096 x 4096: the most that an operation may return, or hold between two passes over an image.
MAX_BETWEEN = 2**24
# Progressive JPEG has ten scans; each costs a pass over the whole image, and an empty one 16 bytes.
_MAX_SCANS, _SCAN = 100, b"\xff\xda"
_STARTS_A_PROGRAM = frozenset({"EPS"})  # Pillow runs Ghostscript on the bytes
_TILE_SIDES = (322, 323)  # tags of TIFF: a tile is decoded whole, however small the image is


def decode(
    image: bytes | np.ndarray,
    at_least: int | None = None,
    *,
    formats: Sequence[str] = FORMATS,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    exif: bool = True,
) -> Pixels:
    """Decodes an encoded image to RGB, or to RGBA if it has transparency; arrays pass unchanged.

    Of several frames the first is used. Samples wider than 8 bits are scaled to 8, see `eight_bit`.

    Args:
      at_least: a JPEG whose sides both have at least twice as many pixels is decoded at 1/2, 1/4 or 1/8
        of its size: the smallest at which both sides still have `at_least` pixels. The decoder computes
        means over blocks from the coefficients, at a fraction of the full cost.
      formats: Pillow's names of the formats to read, recognised by content; no other is opened.
      max_pixels, max_bytes: of one image; the header is checked before memory is allocated.
      exif: turns the image by its Exif orientation. Published recipes differ: false gives the
        stored pixels (a TIFF file is always turned, by Pillow).

    Returns: a uint8 array [h,w,3 or 4].
    Raises: ValueError if the bytes are not a complete image of one of `formats` within the bounds,
      whatever Pillow raises; if an array has another type or shape; if `at_least` is below 1; or if
      `formats` has an unknown name, or one whose reader starts a program.
    """
    if at_least is not None and at_least < 1:
        raise ValueError(f"decode got at_least={at_least}, expected at least 1.")
    if isinstance(image, np.ndarray):
        return _checked(image)
    if not isinstance(image, bytes | bytearray | memoryview):
        raise ValueError(f"decode got {type(image).__name__}, expected bytes or a uint8 array.")
    # Cheap checks of the arguments and of the size come before Pillow looks at the bytes.
    known = _known_formats(tuple(formats))
    if len(image) > max_bytes:
        raise ValueError(f"an image of {len(image)} bytes, more than max_bytes={max_bytes}.")
    what = f"cannot decode an image of {len(image)} bytes"
    with record_fault(what), _open(image, known) as opened:
        _check_header(opened, max_pixels)
        # Counted in the bytes before `load`, which would already spend the time.
        if opened.format in ("JPEG", "MPO") and (scans := bytes(image).count(_SCAN)) > _MAX_SCANS:
            raise ValueError(f"a JPEG of {scans} scans, expected {_MAX_SCANS} at most")
        if at_least is not None:
            opened.draft(opened.mode, (at_least, at_least))  # does nothing for other formats
        opened.load()
        pil = eight_bit(opened)
        if exif:
            # Exif of `opened`: after `eight_bit` the image may be a new one, which has none.
            pil = upright(pil, opened.info.get("exif"))
        mode = "RGBA" if pil.has_transparency_data else "RGB"
        # `convert` copies even if there is nothing to convert.
        return np.asarray(pil if pil.mode == mode else pil.convert(mode))


def encode_png(image: Pixels) -> bytes:
    """Encodes a uint8 array [h,w,3 or 4] losslessly as PNG.

    Returns: the bytes of the file.
    Raises: ValueError if `image` is not a uint8 array of three or four channels.
    """
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def to_pil(image: Pixels) -> Image.Image:
    """Returns the array as a Pillow image, RGB or RGBA; raises ValueError for another shape."""
    h, w, c = _checked(image).shape
    # A crop or a flip is a view with strides, and `frombuffer` reads memory in order.
    pixels = np.ascontiguousarray(image)
    # 0: no padding between rows; 1: the first row is the top.
    return Image.frombuffer(MODES[c], (w, h), pixels, "raw", MODES[c], 0, 1)


def check_pixels(name: str, height: int, width: int, max_pixels: int = MAX_BETWEEN) -> None:
    """Raises ValueError if operation `name` would hold more than `max_pixels` pixels."""
    if height * width > max_pixels:
        raise ValueError(
            f"{name} would hold {height}x{width} pixels, more than max_pixels={max_pixels}: the image "
            "is too large or too narrow; crop or resize first, or leave it out."
        )


def _open(image: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(image), formats=formats)
    except Image.UnidentifiedImageError as error:  # its message has an address
        raise ValueError(f"no known format, expected one of {list(formats)}") from error


def _check_header(opened: Image.Image, max_pixels: int) -> None:
    """Raises ValueError for an image or a tile with too many pixels, before they are decoded."""
    sides = [opened.size]
    if tags := getattr(opened, "tag_v2", None):  # only TIFF has tags
        sides.append((int(tags.get(_TILE_SIDES[0], 1)), int(tags.get(_TILE_SIDES[1], 1))))
    for width, height in sides:
        if not 0 < width * height <= max_pixels:
            raise ValueError(
                f"{height}x{width} pixels, expected 1 to {max_pixels}: leave it out, or raise "
                "max_pixels of decode"
            )


@functools.cache
def _known_formats(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names in upper case; raises ValueError for an unknown or a dangerous one."""
    if formats != FORMATS:
        Image.init()  # imports all readers, which registers their names
    for name in formats:
        if formats != FORMATS and name.upper() not in Image.OPEN:
            raise ValueError(f"decode got format {name!r}, expected some of {sorted(Image.OPEN)}.")
        if name.upper() in _STARTS_A_PROGRAM:
            raise ValueError(f"decode reads no {name}: its reader starts a program; convert it.")
    return tuple(name.upper() for name in formats)


def _checked(image: np.ndarray) -> Pixels:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in MODES:
        raise ValueError(
            f"got an array {image.dtype}{list(image.shape)}, expected uint8 [h, w, 3 or 4]."
        )
    return image
