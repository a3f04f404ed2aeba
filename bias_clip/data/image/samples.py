"""Scales samples wider than 8 bits to 8 bits."""

import numpy as np
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_INTEGER_TOPS = (255, 2**16 - 1, 2**31 - 1, 2**32 - 1)
_FLOAT_TOPS = (1.0, 255.0, 65535.0)


def eight_bit(image: Image.Image) -> Image.Image:
    """Returns a grey image of 16-bit, integer or float samples in 8 bits; any other unchanged.

    Pillow's own conversion clips at 255, so almost every such image becomes white.

    16-bit samples keep their upper byte, as in Pillow's 16-bit colour; 12-bit samples keep their upper
    eight bits. 32-bit integers and floats have no stated range. The range is then the smallest common
    one that holds all samples: up to 255, 65535, 2^31 - 1 or 2^32 - 1 for integers; up to 1, 255 or
    65535 for floats.

    Raises: ValueError for samples below 0, above all of these, or not finite.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = max(8, tags.get(_BITS_PER_SAMPLE, (16,))[0])
        grey = np.asarray(image) >> (bits - 8)
    elif image.mode == "I":
        grey = _scaled(_integers(image, tags), _INTEGER_TOPS)
    elif image.mode == "F":
        grey = _scaled(np.asarray(image), _FLOAT_TOPS)
    else:
        return image
    grey = grey.astype(np.uint8)
    # Pillow itself inverts only samples of 8 bits.
    return Image.fromarray(~grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey)


def _integers(image: Image.Image, tags: dict) -> np.ndarray:
    samples = np.asarray(image)
    wide = tags.get(_BITS_PER_SAMPLE, (0,))[0] == 32
    is_unsigned = wide and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    return samples.view(np.uint32) if is_unsigned else samples  # Pillow holds both as int32


def _scaled(samples: np.ndarray, tops: tuple[float, ...]) -> np.ndarray:
    low, high = samples.min(), samples.max()  # NaN if any sample is
    # NaN fails every comparison, here and below, and so ends in the error.
    top = next((top for top in tops if high <= top), None)
    if top is None or not low >= 0:
        raise ValueError(f"samples from {low} to {high}, expected 0 to one of {list(tops)}")
    # + 0.5, because the cast to uint8 that follows truncates.
    return samples * np.float32(255 / top) + np.float32(0.5)
