"""What a file's layout says about the model in it, in a form common to all layouts."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.models.vit import VARIANTS, Sizes
from bias_clip.pretrained.files.tensors import Tensor
from bias_clip.pretrained.layouts.table import Entry

SIZES = Sizes._fields


class Described(NamedTuple):
    """What the weights, and the config beside them, say about a model.

    Attributes:
      layout: "big_vision", "hugging_face" or "open_clip".
      family: "siglip" or "clip".
      image, text: arguments of the towers, with the four sizes and the patch instead of a variant; None
        if the file has no such tower. Arguments that the files do not state are absent.
      bias: whether the logits have a bias.
      entries: where each parameter is.
      tensors: those of the file, if the layout had to convert them to the form of `entries`.
      ignored: a pattern of names that are not parameters.
      resampling: rules of `positions` for images and texts; None if the library does not resample.
      notes: what a user should know.
      source: the file that states what the weights do not show, for messages.
    """

    layout: str
    family: str
    image: dict[str, Any] | None
    text: dict[str, Any] | None
    bias: bool
    entries: list[Entry]
    tensors: dict[str, Tensor]
    ignored: str
    resampling: tuple[str | None, str | None]
    notes: tuple[str, ...]
    source: str


def read_json(path: Path) -> dict[str, Any]:
    """Reads a config.

    Raises:
      ValueError: the file is not a JSON table.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a table: {found!r:.40}.")
    return found


def section(config: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """A table inside a config, empty if it is absent.

    Raises:
      ValueError: the value is not a table.
    """
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{source}: {name} is {found!r:.40}; expected a table.")
    return found


def whole(values: Mapping[str, Any], name: str, source: str) -> int:
    """A positive integer of a config.

    Raises:
      ValueError: the value is not a positive integer.
    """
    if type(values[name]) is not int or not 0 < values[name] < 2**31:
        raise ValueError(f"{source}: {name} is {values[name]!r}; expected a positive integer.")
    return values[name]


def shape_of(tensors: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor, to read sizes from.

    Raises:
      ValueError: the tensor is missing, or has another rank.
    """
    if name not in tensors:
        some = next(iter(tensors.values()))
        raise ValueError(f"{some.file}: tensor {name!r} is missing.")
    tensor = tensors[name]
    if len(tensor.shape) != rank:
        raise ValueError(
            f"{tensor.file}: tensor {name!r} has shape {tensor.shape}; expected {rank} axes."
        )
    return tensor.shape


def depth_of(names: Iterable[str], pattern: str) -> int:
    """The number of layers, from the largest index in the names that match a pattern of one group."""
    numbers = (re.match(pattern, name) for name in names)
    # The largest index and not the count: a missing layer is then an error of its own.
    return max((int(found[1]) + 1 for found in numbers if found), default=0)


def square(count: int, name: str, file: str) -> int:
    """The side of a square grid of `count` patches.

    Raises:
      ValueError: the count is not a square.
    """
    side = round(count**0.5)
    if side < 1 or side * side != count:
        raise ValueError(
            f"{file}: {name!r} has {count} positions, which is not a square grid; other grids "
            "are not supported."
        )
    return side


def tower_arguments(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `ViT` or `TextTransformer`: sizes become a variant if one has them."""
    sizes = Sizes(*(raw[name] for name in SIZES))
    # A known name where there is one; any other stands for "B" with all four sizes overridden.
    named = [name for name, known in VARIANTS.items() if known == sizes]
    variant = named[0] if named else "B"
    if "patch" in raw:
        variant += f"/{raw['patch']}"
    rest = {name: value for name, value in raw.items() if name not in (*SIZES, "patch")}
    return {"variant": variant, **({} if named else sizes._asdict()), **rest}
