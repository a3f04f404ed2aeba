"""Tensors as views of their file: values are read only when they are used."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """A tensor in a file.

    Attributes:
      file: the file's name in messages.
      shape: in the file.
      dtype: in the file.
      array: returns the values; mostly a view, whose pages are read when they are used.
    """

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    array: Callable[[], np.ndarray]


class Mapped:
    """A file that is memory-mapped for as long as a view of it exists."""

    def __init__(self, path: Path):
        """Maps `path`.

        Raises:
          ValueError: the file is empty.
        """
        self.path, self.name = path, path.name
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.size == 0:
                raise ValueError(f"{path} is empty; expected weights. Download it again.")
            # The map stays open without the file: views of it outlive this block.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def bytes(self, start: int, size: int) -> bytes:
        """A copy of `size` bytes from `start` on, or fewer if the file ends before."""
        return self._map[start : start + size]

    def view(
        self,
        dtype: np.dtype,
        shape: tuple[int, ...],
        start: int,
        strides: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """An array over the file's bytes from `start` on; the caller must check that the file has them."""
        return np.ndarray(shape, dtype, buffer=self._map, offset=start, strides=strides)

    def release(self) -> None:
        """Releases the memory of all pages that were read; views stay valid and read pages again.

        Otherwise the pages would count as memory of the process, in addition to the arrays made of them.
        """
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)


def as_tensor(file: str, array: np.ndarray) -> Tensor:
    """A tensor with the values of `array`."""
    return Tensor(file, array.shape, array.dtype, lambda: array)
