"""Tables of names: where each of our parameters is in a file, and with which axes. Loading and export use them.

An `Entry` says how a file holds one parameter. `axes` lists, for each axis of the file's tensor, which of our
axes are merged into it: our query kernel `[in, heads, size]` is the file's matrix `[heads * size, in]` by
`((1, 2), (0,))`. Reading therefore splits axes and then transposes, which NumPy does without a copy; writing
transposes and then merges.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Axes = tuple[tuple[int, ...], ...]

TURNED: Axes = ((1,), (0,))  # [in, out] as [out, in]
HEADS: Axes = ((1, 2), (0,))  # [in, heads, size] as [heads * size, in]
HEADS_BIAS: Axes = ((0, 1),)  # [heads, size] as [heads * size]
OUT: Axes = ((2,), (0, 1))  # [heads, size, out] as [out, heads * size]
PATCH: Axes = ((3,), (2,), (0,), (1,))  # [row, column, channel, out] as [out, channel, row, column]
FLAT_PATCH: Axes = ((3,), (0, 1, 2))  # the same as [out, row * column * channel]
FLAT_PATCH_FIRST: Axes = ((0, 1, 2), (3,))
POSITIONS: Axes = ((0, 1), (2,))  # [1, length, width] as [length, width]
TOKEN: Axes = ((0, 1, 2),)  # [1, 1, width] as [width]
ONE: Axes = ((),)  # a number as [1]

BLOCKS = "encoder/blocks/"  # in a path of ours: the first axis is the layer


class Entry(NamedTuple):
    """One parameter of ours in a file.

    Attributes:
      ours: its path, "img/embedding/kernel".
      theirs: its name in the file; with "{i}" there is one tensor per layer, else one for all layers.
      axes: see above; None where they are the same.
      part, parts: the number of this part among equal parts of the tensor's first axis, and their count.
      plus: a second tensor to add, if the file has it.
    """

    ours: str
    theirs: str
    axes: Axes | None = None
    part: int = 0
    parts: int = 1
    plus: str | None = None


def linear(ours: str, theirs: str, axes: Axes = TURNED, bias: Axes | None = None) -> list[Entry]:
    """A linear map of torch: `.weight` and `.bias`."""
    return [
        Entry(f"{ours}/kernel", f"{theirs}.weight", axes),
        Entry(f"{ours}/bias", f"{theirs}.bias", bias),
    ]


def norm(ours: str, theirs: str) -> list[Entry]:
    """A LayerNorm of torch."""
    return [Entry(f"{ours}/scale", f"{theirs}.weight"), Entry(f"{ours}/bias", f"{theirs}.bias")]


def joined(ours: str, names: Sequence[str], weight: str, bias: str) -> list[Entry]:
    """Several projections to heads, such as query, key and value, which torch stores in one matrix."""
    found = []
    for part, name in enumerate(names):
        found += [
            Entry(f"{ours}/{name}/kernel", weight, HEADS, part, len(names)),
            Entry(f"{ours}/{name}/bias", bias, HEADS_BIAS, part, len(names)),
        ]
    return found


def layers(ours: str, theirs: str) -> Callable[[str, str], tuple[str, str]]:
    """Names inside a block: `layers("img", "h.{i}")("norm1", "ln_1")` are "img/encoder/..." and "h.{i}.ln_1"."""
    return lambda inner, name: (f"{ours}/{BLOCKS}{inner}", f"{theirs}.{name}")


def is_layered(entry: Entry) -> bool:
    """Whether our parameter is a stack over depth."""
    return BLOCKS in entry.ours


def names_in_file(entry: Entry, depth: int) -> list[str]:
    """The names of the file's tensors that make up our parameter."""
    if "{i}" not in entry.theirs:
        return [entry.theirs]
    return [entry.theirs.replace("{i}", str(i)) for i in range(depth)]


def file_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the file of our parameter of `shape`; that of one layer if each layer has its own tensor."""
    lead, own = _split_layer(entry, shape)
    merged = (
        own
        if entry.axes is None
        else tuple(math.prod(own[axis] for axis in group) for group in entry.axes)
    )
    if entry.parts > 1:
        merged = (merged[0] * entry.parts, *merged[1:])
    return (*lead, *merged)


def from_file(entry: Entry, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our parameter of `shape` as a view of the file's tensor."""
    if entry.parts > 1:
        # A slice of the first axis is a view: no part is copied here.
        size = array.shape[0] // entry.parts
        array = array[entry.part * size : (entry.part + 1) * size]
    lead, own = _split_layer(entry, shape)
    if entry.axes is None:
        return array.reshape(shape)
    order = [axis for group in entry.axes for axis in group]
    # The inverse of `order`: where each of our axes is among those of the split tensor.
    places = [*range(len(lead)), *(len(lead) + order.index(axis) for axis in range(len(own)))]
    return array.reshape((*lead, *(own[axis] for axis in order))).transpose(places)


def to_file(entry: Entry, array: np.ndarray) -> np.ndarray:
    """The file's tensor, or its part, from our parameter: undoes `from_file`."""
    lead, own = _split_layer(entry, array.shape)
    if entry.axes is None:
        return array
    order = [axis for group in entry.axes for axis in group]
    turned = array.transpose((*range(len(lead)), *(len(lead) + axis for axis in order)))
    merged = (math.prod(own[axis] for axis in group) for group in entry.axes)
    return turned.reshape((*lead, *merged))


def _split_layer(entry: Entry, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Splits off the layer axis, if the file has it too; `axes` counts the remaining axes from 0."""
    lead = 1 if is_layered(entry) and "{i}" not in entry.theirs else 0
    return shape[:lead], shape[lead:]
