"""The orientation that a camera stores in Exif, and the image turned accordingly."""

from typing import Any, Literal

from PIL import Image

_ORIENTATION = 0x0112
_SIZES = {1: 1, 3: 2, 4: 4}  # bytes of the integer types of Exif: byte, short, long
_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


def upright(image: Image.Image, exif: Any) -> Image.Image:
    """Returns the image turned upright, see `orientation`; the same object if it already is upright."""
    turn = _TURNS.get(orientation(exif)) if isinstance(exif, bytes) else None
    return image if turn is None else image.transpose(turn)


def orientation(exif: bytes) -> int:
    """Returns the orientation, 1 (upright) to 8, that a block of Exif states.

    A damaged block, or one without an orientation, gives 1: the pixels are intact, and damaged Exif is
    common in web images. Pillow's reader is not used because it raises an error for such blocks.

    Reference: CIPA DC-008, Exif 2.32, section 4.6: a TIFF header, then entries of 12 bytes.
    """
    body = exif.removeprefix(b"Exif\x00\x00")
    if body[:4] not in (b"II*\x00", b"MM\x00*"):
        return 1
    order: Literal["little", "big"] = "little" if body[:1] == b"I" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(body[place : place + size], order)

    first = number(4, 4)
    # A damaged block may state more entries than it has bytes for.
    end = min(first + 2 + 12 * number(first, 2), len(body) - 11)
    for place in range(first + 2, end, 12):
        if number(place, 2) == _ORIENTATION:
            # A short fills only the first two of four bytes, so in big-endian order its size matters.
            found = number(place + 8, _SIZES.get(number(place + 2, 2), 0))
            return found if found in _TURNS else 1
    return 1
