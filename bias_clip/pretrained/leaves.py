"""From a file's tensors to our parameters: checked first, then read part by part as they are placed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from bias_clip.models import positions
from bias_clip.pretrained.files.tensors import Tensor
from bias_clip.pretrained.layouts.table import (
    Entry,
    file_shape,
    from_file,
    is_layered,
    names_in_file,
)

CHUNK = 2**25  # bytes that are read before their pages are released
_ALIGNMENT = 64  # bytes; JAX on a CPU uses an array with this alignment without a copy

Index = tuple[slice, ...]


class Leaf(NamedTuple):
    """One of our parameters: `read(index)` returns a part of it in float32."""

    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]


def make_leaf(
    entry: Entry,
    shape: tuple[int, ...],
    tensors: Mapping[str, Tensor],
    release: Callable[[], None],
) -> Leaf:
    """The parameter of `entry`, which must have `shape`. Checks it, but reads no values.

    Raises:
      ValueError: a tensor is missing, has another shape, or does not hold floating-point numbers.
    """
    names = names_in_file(entry, shape[0] if is_layered(entry) else 1)
    listed = "{i}" in entry.theirs
    own = shape[1:] if listed else shape
    for name in names:
        _check(entry, name, own, tensors)

    def read(index: Index) -> np.ndarray:
        sizes = (len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True))
        out = _empty(tuple(sizes))
        if not listed:
            _copy(out, from_file(entry, tensors[names[0]].array(), own), index, release)
            return out
        # Our parameter is a stack over depth; the file has a tensor per layer. Only the wanted layers are
        # read.
        for row, layer in enumerate(range(*index[0].indices(shape[0]))):
            view = from_file(entry, tensors[names[layer]].array(), own)
            _copy(out[row], view, index[1:], release)
        return out

    if entry.plus is None:
        return Leaf(shape, read)
    more = make_leaf(entry._replace(theirs=entry.plus, plus=None), shape, tensors, release)
    # The sum of two tables of the file, part by part.
    return Leaf(shape, lambda index: read(index) + more.read(index))


def resampled(leaf: Leaf, *, what: str, class_token: bool, length: int, rule: str) -> Leaf:
    """A position table `[1, l, width]` at `length` positions; the class token's does not change."""
    first = 1 if class_token else 0
    width = leaf.shape[2]

    def read(index: Index) -> np.ndarray:
        # Resampling mixes all positions: the whole table is read, whatever part is asked for.
        table = leaf.read((slice(None),) * 3)[0]
        if what == "image":
            sides = (round((n - first) ** 0.5) for n in (len(table), length))
            old, new = sides
            grid = positions.resample_grid(table[first:], old=old, new=new, rule=rule)
            table = np.concatenate([table[:first], grid])
        else:
            table = positions.resample_line(table, new=length, rule=rule)
        return table[None][index]

    return Leaf((1, length, width), read)


def place(leaf: Leaf, sharding: Any | None) -> jax.Array:
    """The parameter as an array; each device reads its own part.

    Waits until the array is ready, so that the data of only one parameter is in memory at a time.
    """
    if sharding is None:
        whole = leaf.read((slice(None),) * len(leaf.shape))
        return jax.block_until_ready(jax.device_put(whole))
    parts: dict[Any, np.ndarray] = {}

    def part(index: Index | None) -> np.ndarray:
        index = (slice(None),) * len(leaf.shape) if index is None else index
        key = tuple(part.indices(size) for part, size in zip(index, leaf.shape, strict=True))
        if key not in parts:  # devices with the same part share one read
            parts[key] = leaf.read(index)
        return parts[key]

    array = jax.make_array_from_callback(leaf.shape, sharding, part, dtype=np.float32)
    return jax.block_until_ready(array)


def _check(entry: Entry, name: str, own: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
    if name not in tensors:
        file = next(iter(tensors.values())).file
        raise ValueError(f"{file}: tensor {name!r} is missing; our {entry.ours} is made of it.")
    tensor, expected = tensors[name], file_shape(entry, own)
    # A scalar may be stored as [] or as [1].
    if tensor.shape != expected and not (own == () and tensor.shape in ((), (1,))):
        raise ValueError(
            f"{tensor.file}: tensor {name!r} has shape {tensor.shape}; expected {expected}, from the other "
            "tensors or the config beside it."
        )
    if tensor.dtype.kind != "f" and tensor.dtype != ml_dtypes.bfloat16:
        raise ValueError(
            f"{tensor.file}: tensor {name!r} holds {tensor.dtype}; expected floating-point numbers."
        )


def _copy(out: np.ndarray, view: np.ndarray, index: Index, release: Callable[[], None]) -> None:
    """Copies in pieces along the first axis, and releases the file's pages after each piece."""
    # A part of a few columns may touch all pages of the tensor. For a small tensor, releasing would
    # take longer than reading.
    large = view.nbytes > CHUNK // 16
    view = view[index]
    if out.ndim == 0:
        out[...] = view
        return
    rows = max(1, CHUNK // max(1, out[:1].nbytes))
    for start in range(0, len(out), rows):
        out[start : start + rows] = view[start : start + rows]
        if large:
            release()


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An empty array with the alignment that JAX uses without a copy."""
    size = int(np.prod(shape, dtype=np.int64)) * 4
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    # The bytes up to the next multiple of the alignment.
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(shape)
