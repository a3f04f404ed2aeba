"""The size of an image from its header, and numbers that equal or similar images share."""

import hashlib
import io

import numpy as np
from PIL import Image

from bias_clip.data.bad_records import record_fault
from bias_clip.data.image.codec import FORMATS, decode

Encoded = bytes | np.ndarray
_SIDE = 32  # pixels that the perceptual hash sees, four per coefficient


def image_size(image: Encoded) -> tuple[int, int]:
    """Returns (width, height) in pixels as stored, from the header alone.

    Raises: ValueError if the bytes do not begin as an image of a known format.
    """
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    what = f"the header of an image of {len(image)} bytes"
    with record_fault(what), Image.open(io.BytesIO(image), formats=FORMATS) as opened:
        return opened.size


def exact_hash(image: Encoded) -> int:
    """Returns 64 bits of the SHA-256 of the stored bytes: equal for copies of a file."""
    raw = image.tobytes() if isinstance(image, np.ndarray) else image
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "little")


def perceptual_hash(image: Encoded) -> int:
    """Returns 64 bits that differ little between images that look the same.

    The bits say which of the 64 lowest frequencies of the grey image are above their median: pHash, by
    the library imagehash. Scaling and compression flip a few bits; crops and mirrors most.

    Raises: ValueError for an image that cannot be decoded.
    """
    import imagehash  # an extra: only this measure needs it

    # The hash sees 32 x 32 pixels, so a large JPEG is decoded at a fraction of its size.
    pixels = decode(image, at_least=_SIDE)
    with record_fault("the perceptual hash"):
        bits = imagehash.phash(_on_white(pixels)).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _on_white(pixels: np.ndarray) -> Image.Image:
    """Transparent pixels have arbitrary colours, which must not decide the hash."""
    image = Image.fromarray(pixels)
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
