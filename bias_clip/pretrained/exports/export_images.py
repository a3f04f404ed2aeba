"""Image operations of ours as the preprocessing files of transformers and open_clip.

What their processors cannot say is refused by name; where theirs differs slightly, a note says how.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bias_clip.data.image import read_ops

_PILLOW = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
_PUBLISHED = "decode|drop_alpha|resize({size},method=bilinear)|value_range(-1.0,1.0)"


class Written(NamedTuple):
    """Files of an export.

    Attributes:
      files: by name, as bytes or as tables of JSON.
      notes: what a user of the export should know.
    """

    files: dict[str, Any]
    notes: tuple[str, ...]


class _Images(NamedTuple):
    resize: str  # "squash", "shortest" or "longest"
    shortest: int  # before the crop
    size: int
    method: str
    fill: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]


def hugging_face_images(ops: str, *, size: int) -> Written:
    """Returns `preprocessor_config.json`.

    Args:
      ops: from the encoded image to what the model takes, an op-string.
      size: height and width of the model's input.

    Raises:
      ValueError: the operations do not end in that size, or transformers has no processor for one.
    """
    images = _read(ops, size)
    # transformers has no processor that pads to a square.
    if images.resize == "longest":
        raise _refused("hugging_face", "resize_inside")
    square = {"height": size, "width": size}
    squash = images.resize == "squash"
    # CLIP's processor shortens and crops; SigLIP's does not.
    shape = {
        "do_center_crop": True,
        "crop_size": square,
        "size": {"shortest_edge": images.shortest},
    }
    config = {
        "image_processor_type": "SiglipImageProcessor" if squash else "CLIPImageProcessor",
        "do_resize": True,
        "resample": _PILLOW[images.method],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        **({"size": square} if squash else shape),
    }
    return Written({"preprocessor_config.json": config}, images.notes)


def open_clip_images(ops: str, *, size: int) -> Written:
    """Returns `preprocess_cfg` of `open_clip_config.json`, under that name.

    Args: as `hugging_face_images`.

    Raises:
      ValueError: the operations do not end in that size, or open_clip cannot say one of them.
    """
    images = _read(ops, size)
    # open_clip has one number for the resize and for the crop.
    if images.shortest != size:
        raise _refused("open_clip", f"resize_small to {images.shortest} before a crop to {size}")
    if images.method == "lanczos":
        raise _refused("open_clip", "method=lanczos")
    config: dict[str, Any] = {
        "size": [size, size],
        "mode": "RGB",
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.method,
        "resize_mode": images.resize,
    }
    if images.resize == "longest":
        config["fill_color"] = _levels(images.fill)
    return Written({"preprocess_cfg": config}, images.notes)


def big_vision_images(ops: str, *, size: int) -> Written:
    """Returns no file, as the layout has none, and a note where the operations are not its SigLIP's.

    Args: as `hugging_face_images`.

    Raises:
      ValueError: an operation is unknown.
    """
    if read_ops(ops) == read_ops(_PUBLISHED.format(size=size)):
        return Written({}, ())
    return Written({}, (f"The layout has no file of preprocessing: give images as `{ops}` does.",))


def _read(ops: str, size: int) -> _Images:
    """The parts of an op-string that processors have: decode, alpha, resize, crop, scaling."""
    found: dict[str, Any] = {"fill": "black", "mean": None}
    notes: list[str] = []
    # In order: a crop after a resize overrides the size of the result.
    for name, given in read_ops(ops):
        if name not in _READERS:
            raise _refused("the processors'", name)
        found |= _READERS[name](given, notes)
    missing = {"resize": "a resize", "mean": "value_range or normalize"}
    for key, what in missing.items():
        if found.get(key) is None:
            raise ValueError(
                f"The image operations {ops!r} have no {what}, which an export states."
            )
    if found["size"] != size:
        raise ValueError(
            f"The image operations {ops!r} end in {found['size']} pixels; the model takes {size}."
        )
    return _Images(**{"shortest": size, **found, "notes": tuple(notes)})


def _decode(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    return {}


def _background(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    notes.append(
        f"The model saw transparent images on {given['color']}, which no processor says: put them on it "
        "before. Opaque images need nothing."
    )
    return {}


def _resize(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    if given["width"] not in (None, given["size"]):
        raise _refused("the processors'", f"a resize to {given['size']} x {given['width']}")
    _note_antialias(given, notes)
    return {"resize": "squash", "size": given["size"], "method": given["method"]}


def _resize_small(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    _note_antialias(given, notes)
    if given["longer"] != "below":
        notes.append("The processors cut the longer side to an integer; this model saw it rounded.")
    small = given["smaller"]
    return {"resize": "shortest", "shortest": small, "size": small, "method": given["method"]}


def _resize_inside(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    kept = {name: given[name] for name in ("size", "method", "fill")}
    return {"resize": "longest", **kept}


def _central_crop(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    return {"size": given["size"]}


def _value_range(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    # x * (high - low) + low = (x - mean) / std, so std = 1 / (high - low) and mean = -low * std.
    std = 1 / (given["high"] - given["low"])
    return {"mean": (0.0 - given["low"] * std,) * 3, "std": (std,) * 3}


def _normalize(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    def three(value: Any) -> tuple[float, ...]:
        return (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))

    return {name: three(given[name]) for name in ("mean", "std")}


_READERS = {
    "decode": _decode,
    "drop_alpha": _decode,
    "background": _background,
    "resize": _resize,
    "resize_small": _resize_small,
    "resize_inside": _resize_inside,
    "central_crop": _central_crop,
    "value_range": _value_range,
    "normalize": _normalize,
}


def _note_antialias(given: Mapping[str, Any], notes: list[str]) -> None:
    if not given["antialias"]:
        notes.append(
            "This model saw images resized without antialias, as big_vision does; the processors here "
            "have no such filter. Pixels of reduced images differ, mostly in fine texture."
        )


def _levels(fill: str) -> list[int] | int:
    return (
        list(bytes.fromhex(fill[1:])) if fill.startswith("#") else {"black": 0, "white": 255}[fill]
    )


def _refused(layout: str, what: str) -> ValueError:
    return ValueError(
        f"The image operation {what} has no place in {layout} preprocessing. Export to another layout, or "
        "leave the preprocessing out."
    )
