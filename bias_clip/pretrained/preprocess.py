"""How a published checkpoint preprocesses images: size, crop, interpolation, mean and deviation.

The result is an op-string of `bias_clip.data.image`, so that a config, an evaluation and a report name
it the same way. If no file states it, the defaults of the layout's library apply, and `stated` says so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.core.registry import look_up

Files = Mapping[str, Path | bytes]

# The files that `read_preprocess` looks at.
PREPROCESS_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "config.json",
    "open_clip_config.json",
)
# CLIP's statistics of its training images, which all its successors use.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Preprocess(NamedTuple):
    """How a checkpoint preprocesses an image.

    Attributes:
      ops: an op-string, from the encoded image to the image tower's input.
      size: height and width of the result.
      resize: "squash", "shortest" (and crop) or "longest" (and pad).
      interpolation: "bilinear", "bicubic" or "lanczos", with antialias except in big_vision's.
      mean, std: per channel, of images scaled to 0..1.
      stated: the files that state this, and what was assumed or overridden.
    """

    ops: str
    size: int
    resize: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stated: tuple[str, ...]


class _Rule(NamedTuple):
    size: int
    resize: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shortest: int  # before the crop
    fill: str
    middle: str  # see `central_crop`
    antialias: bool
    stated: tuple[str, ...]


def read_preprocess(files: Files, layout: str, *, family: str, size: int) -> Preprocess:
    """Reads the preprocessing that belongs to a checkpoint.

    Args:
      files: of the checkpoint's folder by name, as paths or bytes; `PREPROCESS_FILES` suffice.
      layout: "big_vision", "hugging_face" or "open_clip".
      family: "siglip" or "clip", for what no file says.
      size: of the image tower's input. If the files state another size, this one is used, and `stated`
        has both: the model then runs at another resolution than the published one.

    Raises: ValueError, with the file, for values of another type, or without an operation in this
      package; for an unknown layout or family.
    Reference: transformers 5.24 (SiglipImageProcessor, CLIPImageProcessor, Siglip2ImageProcessor),
      open_clip 3.3 (transform.py) and big_vision (configs/proj/image_text).

        read_preprocess({}, "big_vision", family="siglip", size=224).ops
        # "decode|drop_alpha|resize(224,method=bilinear)|value_range(-1.0,1.0)"
    """
    look_up("family", family, {"siglip": 0, "clip": 0})
    rule = look_up("layout", layout, _READERS)(files, family, size)
    if rule.size != size:
        said = f"size {size} in place of {rule.size}, as the model has it"
        # The share that the crop keeps stays the same.
        shortest = round(rule.shortest * size / rule.size)
        rule = rule._replace(size=size, shortest=shortest, stated=(*rule.stated, said))
    kept = {name: getattr(rule, name) for name in Preprocess._fields if name != "ops"}
    return Preprocess(ops=_ops(rule), **kept)


def read_table(files: Files, name: str) -> dict[str, Any] | None:
    """Returns a JSON file as a dict, or None if there is no file of that name.

    Raises: ValueError, with the name, when it is not JSON, or not a table.
    """
    if name not in files:
        return None
    given = files[name]
    try:
        found = json.loads(given if isinstance(given, bytes) else given.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {found!r:.40}, expected a table.")
    return found


def _big_vision(files: Files, family: str, size: int) -> _Rule:
    stated = ("the rule of big_vision's SigLIP configs, as the file does not say",)
    mean = std = _HALF
    return _Rule(size, "squash", "bilinear", mean, std, size, "black", "below", False, stated)


def _hugging_face(files: Files, family: str, size: int) -> _Rule:
    config = read_table(files, "preprocessor_config.json")
    name = "preprocessor_config.json"
    if config is None and "processor_config.json" in files:
        # Newer folders hold the image processor as a part of one file.
        name = "processor_config.json"
        config = (read_table(files, name) or {}).get("image_processor")
    stated: tuple[str, ...] = (
        (name,) if config else (f"the defaults of transformers for {family}: no {name}",)
    )
    config = config or {}
    is_naflex = (read_table(files, "config.json") or {}).get("model_type") == "siglip2"
    is_clip = family == "clip"
    if not config.get("do_resize", True) or not config.get("do_rescale", True):
        raise ValueError(
            f"{name} leaves images unresized or unscaled; expected do_resize, do_rescale."
        )
    # Configs state it with more or fewer digits, such as 0.003921569.
    if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise ValueError(f"{name}: rescale_factor is {config['rescale_factor']}, expected 1/255.")
    shortest, squash = _edges(name, config.get("size"), size, is_clip)
    crop = config.get("do_center_crop", is_clip)
    final = _edges(name, config.get("crop_size"), size, False)[0] if crop else shortest
    if not crop and not squash:
        raise ValueError(
            f"{name} resizes the shorter side and does not crop; the model takes squares."
        )
    if crop and squash and final != shortest:
        raise ValueError(
            f"{name} squashes to {shortest} and crops {final}; expected one of the two."
        )
    if is_naflex:
        final = shortest = _naflex_side(name, config, final)
        stated = (*stated, "the full square grid, of the grids that a NaFlex model takes")
    normalized = config.get("do_normalize", True)
    default_mean, default_std = (_CLIP_MEAN, _CLIP_STD) if is_clip else (_HALF, _HALF)
    return _Rule(
        size=final,
        resize="squash" if squash else "shortest",
        interpolation=_filter(name, config.get("resample", 2 if is_naflex else 3)),
        mean=_three(name, config.get("image_mean", default_mean)) if normalized else (0.0,) * 3,
        std=_three(name, config.get("image_std", default_std)) if normalized else (1.0,) * 3,
        shortest=shortest,
        fill="black",
        middle="below",
        antialias=True,
        stated=stated,
    )


def _naflex_side(name: str, config: Mapping[str, Any], default: int) -> int:
    """The side of the square image that fills a NaFlex model's sequence of patches."""
    if "max_num_patches" not in config or "patch_size" not in config:
        return default
    count, patch = config["max_num_patches"], config["patch_size"]
    side = math.isqrt(count) if type(count) is int and count > 0 else 0
    if type(patch) is not int or side == 0 or side * side != count:
        raise ValueError(
            f"{name}: max_num_patches is {count!r} of {patch!r} pixels; expected a square number, because only "
            "the full square grid of a NaFlex model is supported."
        )
    return _side(name, side * patch)


def _open_clip(files: Files, family: str, size: int) -> _Rule:
    name = "open_clip_config.json"
    whole = read_table(files, name)
    config = (whole or {}).get("preprocess_cfg") or {}
    stated = (name,) if config else ("the defaults of open_clip: no preprocess_cfg",)
    resize = config.get("resize_mode", "shortest")
    look_up(f"resize_mode in {name}", resize, dict.fromkeys(("shortest", "longest", "squash")))
    final = _edges(name, config.get("size"), size, False)[0]
    return _Rule(
        size=final,
        resize=resize,
        # Any other word than "bilinear" is bicubic at evaluation there.
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        # Null and 0, but not [0, 0, 0], are the default there.
        mean=_three(name, config.get("mean") or _CLIP_MEAN),
        std=_three(name, config.get("std") or _CLIP_STD),
        shortest=final,
        fill=_color(name, config.get("fill_color", 0)),
        middle="even",
        antialias=True,
        stated=stated,
    )


_READERS = {"big_vision": _big_vision, "hugging_face": _hugging_face, "open_clip": _open_clip}


def _ops(rule: _Rule) -> str:
    method = f"method={rule.interpolation}"
    smooth = f"{method},antialias=True" if rule.antialias else method
    resize = {
        "squash": f"resize({rule.size},{smooth})",
        "shortest": (
            f"resize_small({rule.shortest},{smooth},longer=below)"
            f"|central_crop({rule.size},middle={rule.middle})"
        ),
        "longest": f"resize_inside({rule.size},{method},fill={rule.fill!r})",
    }[rule.resize]
    # Published processors use Pillow's conversion to RGB, which shows the colours beneath transparency.
    return f"decode|drop_alpha|{resize}|{_scaling(rule.mean, rule.std)}"


def _scaling(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """`value_range` if all channels are equal, because a device can apply it; else `normalize`."""
    if len(set(mean)) == len(set(std)) == 1 and (mean[0], std[0]) in ((0.5, 0.5), (0.0, 1.0)):
        # (x - mean) / std maps 0 to -mean / std and 1 to (1 - mean) / std.
        return f"value_range({0 - mean[0] / std[0]},{(1 - mean[0]) / std[0]})"
    return f"normalize({mean},{std})"


def _edges(name: str, given: Any, default: int, shortest: bool) -> tuple[int, bool]:
    """Returns (side, whether height and width are both given), from any form that configs use."""
    if given is None:
        return default, not shortest
    if isinstance(given, Mapping) and "shortest_edge" in given:
        return _side(name, given["shortest_edge"]), False
    # A bare number means both sides for SigLIP, and the shorter one for CLIP.
    squash = not shortest or not isinstance(given, int)
    if isinstance(given, Mapping):
        given = [given.get("height"), given.get("width")]
    sides = list(given) if isinstance(given, list | tuple) else [given]
    if not sides or len(sides) > 2 or len(set(map(str, sides))) > 1:
        raise ValueError(f"{name}: got the size {given}, expected one number, or a square.")
    return _side(name, sides[0]), squash


def _side(name: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= 4096:
        raise ValueError(f"{name}: got the side {given!r}, expected an integer from 1 to 4096.")
    return given


def _filter(name: str, given: Any) -> str:
    # True is 1, and would be taken as "lanczos".
    if isinstance(given, bool) or given not in _FILTERS:
        raise ValueError(f"{name}: got resample={given!r}, expected one of {_FILTERS}.")
    return _FILTERS[given]


def _three(name: str, given: Any) -> tuple[float, ...]:
    numbers = [given] * 3 if isinstance(given, int | float) else given
    is_list = isinstance(numbers, Sequence) and not isinstance(numbers, str) and len(numbers) == 3
    if not is_list or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
        raise ValueError(f"{name}: got mean or std {given!r}, expected three finite numbers.")
    return tuple(map(float, numbers))


def _color(name: str, given: Any) -> str:
    levels = [given] * 3 if isinstance(given, int) else given
    is_list = isinstance(levels, list | tuple) and len(levels) == 3
    if not is_list or not all(isinstance(x, int) and 0 <= x <= 255 for x in levels):
        raise ValueError(
            f"{name}: got fill_color {given!r}, expected one or three levels of 0..255."
        )
    return "#" + bytes(levels).hex()
