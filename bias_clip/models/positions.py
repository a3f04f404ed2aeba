"""Position tables at another length, resampled as in each reference library.

A new position is a weighted mean of old ones, along each axis separately: `weights @ table`. The libraries
differ in the weights. Let `c = (i + 1/2) old / new - 1/2` be the coordinate of new position `i` among the old
ones (half-pixel centres), and `s = max(1, old / new)` with antialiasing, else 1:

| rule | weight of old position `j` | as in |
|---|---|---|
| "corners" | `max(0, 1 - abs(j - i (old - 1) / (new - 1)))` | big_vision |
| "bicubic" | cubic kernel of -0.75 at `j - c`, borders repeated | Hugging Face SigLIP, CLIP |
| "bicubic_antialias" | cubic kernel of -0.5 at `(j - c) / s`, of sum 1 | open_clip, timm |
| "linear_antialias" | triangle at `(j - c) / s`, of sum 1 | NaFlex, in both libraries |
| "linear" | triangle at `j - c`, borders repeated | texts in open_clip |
"""

import numpy as np
from jaxtyping import Float

RULES = ("corners", "bicubic", "bicubic_antialias", "linear_antialias", "linear")


def resample_grid(
    table: Float[np.ndarray, "l d"], *, old: int, new: int, rule: str
) -> Float[np.ndarray, "m d"]:
    """Resamples the positions of an `old` x `old` grid, row by row, to a `new` x `new` grid, in float32."""
    weights = line_weights(old, new, rule)
    grid = table.reshape(old, old, -1).astype(np.float64)
    # [old, old, d] to [new, new, d], the same weights along rows and columns.
    grid = np.einsum("ai,bj,ijd->abd", weights, weights, grid, optimize=True)
    return grid.reshape(new * new, -1).astype(np.float32)


def resample_line(
    table: Float[np.ndarray, "l d"], *, new: int, rule: str
) -> Float[np.ndarray, "m d"]:
    """Resamples the positions of a text to `new` tokens, in float32."""
    return (line_weights(len(table), new, rule) @ table.astype(np.float64)).astype(np.float32)


def grid_weights(old: int, new: int, rule: str) -> Float[np.ndarray, "m l"]:
    """The matrix of `resample_grid`, for a table that is known only when a program runs."""
    weights = line_weights(old, new, rule)
    return np.kron(weights, weights).astype(np.float32)


def line_weights(old: int, new: int, rule: str) -> Float[np.ndarray, "m l"]:
    """The share of each of the `old` positions in each of the `new` ones, along one axis."""
    if rule not in RULES:
        raise ValueError(f"Unknown rule of resampling: got {rule!r}, expected one of {RULES}.")
    i = np.arange(new)[:, None]
    if rule == "corners":
        return _triangle(np.arange(old) - i * (old - 1) / max(1, new - 1))
    centre = (i + 0.5) * old / new - 0.5
    if rule.endswith("antialias"):
        spread = max(1.0, old / new)
        kernel = _triangle if rule.startswith("linear") else _cubic(-0.5)
        # Wider by the reduction, so that every old position has a share: this is the antialiasing.
        weights = kernel((np.arange(old) - centre) / spread)
        # At the borders the kernel reaches out of the grid; the rest is scaled to a sum of 1.
        return weights / np.sum(weights, axis=1, keepdims=True)
    kernel = _triangle if rule == "linear" else _cubic(-0.75)
    # Positions beyond the border take the border's value: their weights are added to its weight.
    # [new, 4]: the four old positions around each new one, which a cubic kernel reaches.
    places = np.floor(centre).astype(int) + np.arange(-1, 3)
    weights = np.zeros((new, old))
    np.add.at(weights, (i, np.clip(places, 0, old - 1)), kernel(places - centre))
    return weights


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(a: float):
    """Keys' kernel: piecewise cubic, 1 at 0 and 0 at the other integers, with slope `a` at 1."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return kernel
