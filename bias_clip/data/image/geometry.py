"""Operations on the shape of an image: resize, crops, flip, affine."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bias_clip.data.image.checks import check_number, check_range_of
from bias_clip.data.image.codec import MAX_BETWEEN, Pixels, check_pixels, to_pil
from bias_clip.data.image.color import parse_color

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LONGER = ("nearest", "below")
_MIDDLE = ("below", "even")


def resize(
    image: Pixels,
    size: int | Sequence[int],
    width: int | None = None,
    *,
    method: str = "bilinear",
    antialias: bool = False,
    max_pixels: int = MAX_BETWEEN,
) -> Pixels:
    """Resizes the image to `size` x `size` (or `size`, `width`), with half-pixel centres.

    The aspect ratio may change. Without antialias: two-tap bilinear interpolation at
    `(i + 0.5) * h_in / h_out - 0.5`, clamped, as in TensorFlow and JAX; the result is truncated to
    uint8. With antialias the triangle widens by the reduction, and the result is rounded.

    Raises: ValueError for an unknown method, or a method other than bilinear without antialias; for
      an image with more than `max_pixels`, between the passes or as the result.
    Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, use the form
      without antialias.
    """
    height, width = _height_width(size, width)
    if method not in _FILTERS:
        raise ValueError(f"resize got method={method!r}, expected one of {sorted(_FILTERS)}.")
    if not antialias and method != "bilinear":
        raise ValueError(f"resize with method={method!r} needs antialias=True.")
    if image.shape[:2] == (height, width):
        return image
    check_pixels("resize", height, width, max_pixels)
    pil = to_pil(image)
    if antialias:
        # Pillow resamples along rows first: a column of a million pixels becomes a wide image.
        check_pixels("resize", image.shape[0], width, max_pixels)
        return np.asarray(pil.resize((width, height), _FILTERS[method]))
    # Pillow's `resize` always widens its filter when it reduces; a transform takes two taps.
    whole = (0, 0, image.shape[1], image.shape[0])
    extent = Image.Transform.EXTENT
    return np.asarray(pil.transform((width, height), extent, whole, _FILTERS[method]))


def resize_small(
    image: Pixels,
    smaller: int,
    *,
    method: str = "bilinear",
    antialias: bool = False,
    longer: str = "nearest",
    max_pixels: int = MAX_BETWEEN,
) -> Pixels:
    """Resizes so that the shorter side is `smaller`, keeping the aspect ratio.

    The longer side is `smaller * long / short`, rounded to the "nearest" integer or to the one "below"
    (`longer`). CLIP's published processors round down, which changes half of all images by a pixel.

    Raises: ValueError for an unknown `longer`, and what `resize` raises.
    """
    if longer not in _LONGER:
        raise ValueError(f"resize_small got longer={longer!r}, expected one of {list(_LONGER)}.")
    _height_width(smaller, None)
    h, w = image.shape[:2]
    if longer == "below":
        # Integers throughout: a float quotient just below an integer would lose a pixel.
        height, width = (smaller * side // min(h, w) for side in (h, w))
    else:
        ratio = smaller / min(h, w)
        # A rounded product may fall short of `smaller` by one; then the crop after it would fail.
        height, width = (max(smaller, round(side * ratio)) for side in (h, w))
    return resize(image, height, width, method=method, antialias=antialias, max_pixels=max_pixels)


def resize_inside(
    image: Pixels, size: int, *, method: str = "bicubic", fill: str = "black"
) -> Pixels:
    """Resizes with antialias so that the longer side is `size`, and pads to `size` x `size`.

    The image keeps its aspect ratio and is centred; an odd pixel of padding is at the right or the
    bottom. `fill` is a colour, see `parse_color`; padding is opaque.

    Raises: ValueError for a size below 1, and what `resize` and `parse_color` raise.
    """
    _height_width(size, None)
    h, w = image.shape[:2]
    ratio = max(h, w) / size
    # At least a pixel: the short side of a very narrow image would round to 0.
    height, width = (max(1, round(side / ratio)) for side in (h, w))
    inside = resize(image, height, width, method=method, antialias=True)
    # 255 in all channels first: this is the alpha of the padding, if the image has alpha.
    canvas = np.full((size, size, image.shape[2]), 255, np.uint8)
    canvas[..., :3] = parse_color(fill)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = inside
    return canvas


def central_crop(
    image: Pixels, size: int | Sequence[int], width: int | None = None, *, middle: str = "below"
) -> Pixels:
    """Crops the central `size` x `size` (or `size`, `width`).

    If the number of spare pixels is odd, the window starts at half of it, rounded down ("below") or to
    an even number ("even"; `middle`). The latter is the rule of torchvision and therefore of open_clip.

    Raises: ValueError if the image is smaller; for an unknown `middle`.
    """
    if middle not in _MIDDLE:
        raise ValueError(f"central_crop got middle={middle!r}, expected one of {list(_MIDDLE)}.")
    height, width = _height_width(size, width)
    spare = _spare("central_crop", image, height, width)
    # Python rounds halves to the even integer.
    top, left = (round(s / 2) if middle == "even" else s // 2 for s in spare)
    return _cut(image, top, left, height, width)


def random_crop(
    image: Pixels,
    size: int | Sequence[int],
    width: int | None = None,
    *,
    rng: np.random.Generator,
) -> Pixels:
    """Crops a window of `size` x `size` (or `size`, `width`) at a uniformly random position.

    Raises: ValueError if the image is smaller.
    """
    height, width = _height_width(size, width)
    rows, columns = _spare("random_crop", image, height, width)
    top, left = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
    return _cut(image, top, left, height, width)


def inception_crop(
    image: Pixels,
    size: int | Sequence[int] | None = None,
    width: int | None = None,
    *,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (0.75, 4 / 3),
    antialias: bool = False,
    rng: np.random.Generator,
) -> Pixels:
    """Crops a window of random area and aspect ratio, then resizes to `size` if given.

    The share of the area is uniform in `area`, the ratio width / height log-uniform in `aspect`;
    after ten draws that do not fit, the whole image is taken.

    Raises: ValueError for an `area` or `aspect` that is not two positive numbers in order, or an
      area above 1.
    Reference: Szegedy et al., Going Deeper with Convolutions, 2015.
    """
    check_range_of("inception_crop.area", area, 1.0)
    check_range_of("inception_crop.aspect", aspect)
    top, left, h, w = _inception_window(image.shape[0], image.shape[1], area, aspect, rng)
    image = _cut(image, top, left, h, w)
    return image if size is None else resize(image, size, width, antialias=antialias)


def flip_lr(
    image: Pixels, probability: float = 0.5, *, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
    """Mirrors left to right with the given probability.

    Raises: ValueError for a probability that is not in [0, 1].
    """
    check_number("flip_lr.probability", probability, 0, 1)
    return image[:, ::-1] if rng.random() < probability else image


def affine(
    image: Pixels,
    size: int | Sequence[int] | None = None,
    width: int | None = None,
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    rotate: float = 0.0,
    fill: str = "corner",
    rng: np.random.Generator,
) -> Pixels:
    """Zooms, shifts and rotates the image about its centre, and resizes, in one interpolation.

    The zoom is log-uniform in `scale` (2 makes things twice as large), the shift uniform in
    `[-shift, shift]` of each side, the angle uniform in `[-rotate, rotate]` degrees. Pixels from outside
    the image are transparent if the image has transparency. Otherwise they are `fill`: a colour, or
    "corner" for that of the first pixel. Bilinear, without antialias: with `size` it replaces `resize`.

    Raises: ValueError for a scale that is not two positive numbers in order, a shift below 0, or a
      number that is not finite.
    """
    check_range_of("affine.scale", scale)
    check_number("affine.shift", shift, 0)
    check_number("affine.rotate", rotate)
    height, width = image.shape[:2] if size is None else _height_width(size, width)
    # Always four draws, also for arguments that are off: then turning one on leaves the others as they were.
    matrix = _affine_matrix(image.shape[:2], (height, width), scale, shift, rotate, rng.random(4))
    kind, method = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    # A later `background` fills what is transparent, as it does elsewhere in the image.
    outside = (0, 0, 0, 0) if image.shape[2] == 4 else _fill_color(image, fill)
    pil = to_pil(image)
    return np.asarray(pil.transform((width, height), kind, matrix, method, fillcolor=outside))


def _height_width(size: int | Sequence[int], width: int | None) -> tuple[int, int]:
    pair = (
        tuple(size) if isinstance(size, list | tuple) else (size, size if width is None else width)
    )
    if len(pair) != 2 or not all(isinstance(x, int) and x > 0 for x in pair):
        raise ValueError(
            f"got size={size!r}, width={width!r}, expected one or two positive integers."
        )
    return pair[0], pair[1]


def _spare(name: str, image: Pixels, height: int, width: int) -> tuple[int, int]:
    h, w = image.shape[:2]
    if h < height or w < width:
        raise ValueError(f"{name} got {h}x{w}, expected at least {height}x{width}: resize first.")
    return h - height, w - width


def _cut(image: Pixels, top: int, left: int, height: int, width: int) -> Pixels:
    return image[top : top + height, left : left + width]


def _inception_window(
    h: int,
    w: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    for _ in range(10):
        # The draws come in a fixed order: area, ratio, top, left. Changing it changes every training stream.
        target = h * w * rng.uniform(*area)
        # Uniform in the logarithm, so that 3:4 and 4:3 are equally likely.
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        height, width = round(math.sqrt(target / ratio)), round(math.sqrt(target * ratio))
        if 0 < height <= h and 0 < width <= w:
            top, left = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
            return top, left, height, width
    return 0, 0, h, w


def _fill_color(image: Pixels, fill: str) -> tuple[int, ...]:
    return tuple(image[0, 0].tolist()) if fill == "corner" else parse_color(fill)


def _affine_matrix(
    source: tuple[int, int],
    target: tuple[int, int],
    scale: tuple[float, float],
    shift: float,
    rotate: float,
    draws: np.ndarray,
) -> tuple[float, ...]:
    """Pillow's six numbers, which map output to input points (x, y), with half-pixel centres."""
    u, v, turn, zoom = draws.tolist()
    (h, w), (height, width) = source, target
    factor = scale[0] * (scale[1] / scale[0]) ** zoom
    angle = math.radians(rotate) * (2 * turn - 1)
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    # In units of input pixels: output centre -> undo the shift -> turn and zoom -> input centre.
    x_step, y_step = w / width, h / height
    x0 = -w / 2 - w * shift * (2 * u - 1)
    y0 = -h / 2 - h * shift * (2 * v - 1)
    return (
        cos * x_step,
        -sin * y_step,
        cos * x0 - sin * y0 + w / 2,
        sin * x_step,
        cos * y_step,
        sin * x0 + cos * y0 + h / 2,
    )
