"""Files of tensors as views of the file itself: nothing is read until its numbers are used."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """A tensor in a file.

    Attributes:
      file: its name in messages.
      shape: as it lies there.
      dtype: as it lies there.
      array: gives the numbers; mostly a view, whose pages are read when they are used.
    """

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    array: Callable[[], np.ndarray]


class Mapped:
    """A file in the address space of this process, for as long as a view of it lives."""

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
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def bytes(self, start: int, size: int) -> bytes:
        """A copy of `size` bytes from `start` on, or fewer where the file ends."""
        return self._map[start : start + size]

    def view(
        self,
        dtype: np.dtype,
        shape: tuple[int, ...],
        start: int,
        strides: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """An array over the file's bytes from `start` on; the caller has checked that they are there."""
        return np.ndarray(shape, dtype, buffer=self._map, offset=start, strides=strides)

    def release(self) -> None:
        """Gives back the memory of all pages that were read; views stay valid and read them again.

        Otherwise the process would seem to hold the file beside what was made of it.
        """
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)


def as_tensor(file: str, array: np.ndarray) -> Tensor:
    """The tensor whose numbers are `array`."""
    return Tensor(file, array.shape, array.dtype, lambda: array)
