"""The image tower: a Vision Transformer with attention or mean pooling."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from bias_clip.models import initializers, layers, positions
from bias_clip.models.activations import gelu_tanh
from bias_clip.models.encoder import Encoder, MapHead


class Sizes(NamedTuple):
    """The sizes that a variant name stands for."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int


VARIANTS = {
    "mu": Sizes(32, 1, 128, 2),
    "Ti": Sizes(192, 12, 768, 3),
    "S": Sizes(384, 12, 1536, 6),
    "M": Sizes(512, 12, 2048, 8),
    "B": Sizes(768, 12, 3072, 12),
    "L": Sizes(1024, 24, 4096, 16),
    "So400m": Sizes(1152, 27, 4304, 16),
    "H": Sizes(1280, 32, 5120, 16),
    "g": Sizes(1408, 40, 6144, 16),
    "g-opt": Sizes(1536, 40, 6144, 16),
    "G": Sizes(1664, 48, 8192, 16),
    "G-opt": Sizes(1536, 48, 8192, 16),
    "e": Sizes(1792, 56, 15360, 16),
}
"""Scaling Vision Transformers, table 2 (Zhai et al., 2022); So400m: SigLIP (Zhai et al., 2023)."""

LARGEST = (
    8_192  # pixels of a side: above it is a slip, and the memory of an image grows with its square
)
_EXACT = jax.lax.Precision.HIGHEST  # else a TPU multiplies float32 in bfloat16

POOLS = ("map", "gap", "gap_norm", "class")
POSEMBS = ("learned", "sincos2d")
STEMS = ("patch", "conv")


def check_size(size: int) -> None:
    """Raises ValueError unless a side has 1 to `LARGEST` pixels."""
    if not 1 <= size <= LARGEST:
        raise ValueError(f"Image size is {size}: expected 1 to {LARGEST}.")


def choose(what: str, got: str, valid: tuple[str, ...]) -> str:
    """Returns `got` if it is one of the `valid` names of `what`; else raises ValueError that lists them."""
    if got not in valid:
        raise ValueError(f"Unknown {what}: got {got!r}, expected one of {', '.join(valid)}.")
    return got


def parse_variant(
    variant: str,
    *,
    width: int | None = None,
    depth: int | None = None,
    mlp_dim: int | None = None,
    num_heads: int | None = None,
) -> tuple[Sizes, int | None]:
    """Returns the sizes and the patch of "B/16"; the patch is None for a plain "B".

    Each given size overrides the variant's. A new width without a new mlp_dim sets mlp_dim to `4 * width`.

    Raises:
      ValueError: an unknown variant, or a patch that is not a positive integer.
    """
    name, slash, patch = variant.partition("/")
    sizes = VARIANTS[choose("variant", name, tuple(VARIANTS))]
    if slash and not (patch.isdecimal() and int(patch) > 0):
        raise ValueError(f"Bad patch in variant {variant!r}: expected a form like '{name}/16'.")
    # Most variants have this ratio.
    if width is not None and mlp_dim is None:
        mlp_dim = 4 * width
    given = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}
    sizes = sizes._replace(**{key: size for key, size in given.items() if size is not None})
    if min(sizes) < 1:
        raise ValueError(f"Sizes must be positive: got {sizes._asdict()}.")
    return sizes, int(patch) if slash else None


def sincos2d(side: int, width: int, temperature: float = 10_000.0) -> Float[np.ndarray, "l d"]:
    """Fixed sine and cosine positions of a `side` x `side` grid, as in MoCo v3.

    Raises:
      ValueError: the width does not divide by four (sine and cosine of two coordinates).
    """
    if width % 4 or width < 8:
        raise ValueError(f"sincos2d needs a width that divides by 4, at least 8: got {width}.")
    # width / 4 frequencies: sine and cosine of each, for x and for y. The last is 1 / temperature.
    omega = temperature ** -(np.arange(width // 4) / (width // 4 - 1))
    y, x = (grid.reshape(-1, 1) * omega for grid in np.mgrid[:side, :side])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


class ConvStem(nnx.Module):
    """Stride-2 3x3 convolutions, each with norm and GELU: an image as a smaller grid of features.

    `patch = 2 ** n` takes n convolutions; the last has `width / 2` channels, each one before it half
    as many (at least 8). Overlapping windows need fewer training images than one matrix per patch.
    Reference: Xiao et al., Early Convolutions Help Transformers See Better, 2021; here LayerNorm
    replaces their BatchNorm, so that the tower has no state.
    """

    def __init__(self, patch: int, width: int):
        num = patch.bit_length() - 1
        if patch < 2 or patch != 2**num:
            raise ValueError(f"stem 'conv' needs a patch that is a power of 2: got {patch}.")
        # Widths double towards the last convolution, which has half of the tower's width.
        channels = [3, *(max(8, width >> (num - i)) for i in range(num))]
        self.num, self.channels = num, channels[-1]
        for i in range(num):
            conv = layers.Linear((3, 3, channels[i]), (channels[i + 1],), start="lecun")
            setattr(self, f"conv{i}", conv)
            setattr(self, f"norm{i}", layers.LayerNorm(channels[i + 1]))

    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b h h k"]:
        """Maps the image to a grid that is smaller by the factor `patch`."""
        for i in range(self.num):
            x = getattr(self, f"conv{i}")(_windows(x))
            x = gelu_tanh(getattr(self, f"norm{i}")(x))
        return x


def _windows(x: Float[Array, "b s s c"]) -> Float[Array, "b h h 3 3 c"]:
    """The 3x3 windows around every second pixel: makes a convolution one matrix product."""
    side = x.shape[1] // 2
    # One pixel before and none after: with stride 2 the last window ends at the last pixel.
    x = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    rows = [[x[:, i::2, j::2][:, :side, :side] for j in range(3)] for i in range(3)]
    return jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=3)


def _patches(x: Float[Array, "b s s c"], patch: int) -> Float[Array, "b l p p c"]:
    """The image cut into squares, row by row: makes the patch convolution one matrix product."""
    b, side, c = x.shape[0], x.shape[1] // patch, x.shape[3]
    # [b, rows, patch, columns, patch * c] to [b, rows, columns, patch, patch * c]. A row of a patch moves
    # as one axis: as two, the last of three numbers, a TPU pads it and takes three times as long.
    x = x.reshape(b, side, patch, side, patch * c).transpose(0, 1, 3, 2, 4)
    return x.reshape(b, side * side, patch, patch, c)


class ViT(nnx.Module):
    """Vision Transformer: `[b, size, size, 3]` in [-1, 1] to `[b, out_dim or width]`.

    With `variant="B/16", size=224, pool="map", out_dim=None` this is the image tower of SigLIP. That of
    CLIP has `pool="class", class_token=True, pre_norm=True, patch_bias=False, head_bias=False,
    epsilon=1e-5`, an `out_dim` and an `activation`.

    Args:
      pool: "map" attends with a learned probe, "gap" is the mean of the patches after the last norm,
        "gap_norm" the norm of their mean, "class" the class token.
      class_token: puts a learned token in front of the patches, with a position of its own.
      pre_norm: adds a norm between the positions and the first block.
      patch_bias, head_bias: whether the patch embedding and the projection have a bias.
      activation: of the MLPs, one of `activations.ACTIVATIONS`.
      epsilon: of every norm.

    Raises:
      ValueError: an unknown name, a variant without a patch, a size that the patch does not divide, a
        class token that is pooled but absent, or that has no learned position.
    """

    def __init__(
        self,
        *,
        variant: str,
        size: int,
        pool: str = "map",
        posemb: str = "learned",
        stem: str = "patch",
        out_dim: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        mlp_dim: int | None = None,
        num_heads: int | None = None,
        class_token: bool = False,
        pre_norm: bool = False,
        patch_bias: bool = True,
        head_bias: bool = True,
        activation: str = "gelu_tanh",
        epsilon: float = layers.EPSILON,
        remat: str = "none",
        scan: bool = True,
        attention: str = "xla",
    ):
        sizes, patch = parse_variant(
            variant, width=width, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads
        )
        side = grid_side(variant, size, patch)
        width, heads = sizes.width, sizes.num_heads
        conv = choose("stem", stem, STEMS) == "conv"
        learned = choose("posemb", posemb, POSEMBS) == "learned"
        self.pool = choose("pool", pool, POOLS)
        _check_class_token(class_token, pool, posemb)
        if not learned:
            sincos2d(side, width)  # raises now, and not in apply, for a bad width
        # After the conv stem a grid cell is one token, so the embedding is a 1 x 1 patch.
        self.size, self.side, self.patch = size, side, 1 if conv else size // side
        self.stem = ConvStem(size // side, width) if conv else None
        inputs = (self.patch, self.patch, self.stem.channels if self.stem else 3)
        self.embedding = layers.Linear(inputs, (width,), start="lecun", bias=patch_bias)
        # As CLIP starts it.
        token = initializers.normal((1, 1, width), width**-0.5) if class_token else None
        self.class_token = token
        length = side * side + class_token
        self.pos_embedding = layers.positions(length, width) if learned else None
        self.pre_norm = layers.LayerNorm(width, epsilon=epsilon) if pre_norm else None
        same: dict[str, Any] = {"activation": activation, "epsilon": epsilon}
        self.encoder = Encoder(
            **sizes._asdict(), **same, remat=remat, scan=scan, attention=attention
        )
        self.map = MapHead(width, sizes.mlp_dim, heads, **same) if pool == "map" else None
        self.head = layers.head(width, out_dim, bias=head_bias)

    def __call__(
        self, image: Float[Array, "b s s 3"], kept: Int[Array, "b k"] | None = None
    ) -> Float[Array, "b d"]:
        """Returns the pooled and projected features, not yet normalised.

        Positions are resampled for an image of another size ("linear_antialias" of `positions`). Of its
        patches, numbered row by row, only those in `kept` become tokens; None: all.
        """
        x = image if self.stem is None else self.stem(image)
        x = self.embedding(_patches(x, self.patch))
        if self.class_token is not None:
            token = jnp.broadcast_to(self.class_token[...], (len(x), 1, x.shape[-1]))
            # The token comes first, as in CLIP: positions of published checkpoints count it as 0.
            x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
        if self.pos_embedding is None:
            table = jnp.asarray(sincos2d(self.side, x.shape[-1]))[None]
        else:
            table = self.pos_embedding[...]
        # The sum in float32, and with it the gradient's sum over the batch.
        x = (x + self._resampled(table, x.shape[1])).astype(x.dtype)
        if kept is not None:
            x = self._keep(x, kept)
        x = x if self.pre_norm is None else self.pre_norm(x)
        # In a matrix with a row per token, the batch axis can only be outermost. Otherwise XLA for GPUs
        # puts the batch innermost in all blocks, and each norm transposes what it reads. (A layout
        # constraint has the same effect on one GPU; on several, XLA gathers the whole batch for it.)
        x = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        x = self._pooled(x)
        return x if self.head is None else self.head(x)

    def _resampled(self, table: Float[Array, "1 l d"], length: int) -> Float[Array, "1 m d"]:
        """The positions of a grid of another size; the class token's does not change."""
        if length == table.shape[1]:
            return table
        first = 0 if self.class_token is None else 1
        side = math.isqrt(length - first)
        weights = positions.grid_weights(self.side, side, "linear_antialias")
        grid = jnp.einsum("ml,bld->bmd", weights, table[:, first:], precision=_EXACT)
        return jnp.concatenate([table[:, :first], grid], axis=1)

    def _keep(self, x: Float[Array, "b l d"], kept: Int[Array, "b k"]) -> Float[Array, "b m d"]:
        """The class token, and the patches that are kept."""
        first = 0 if self.class_token is None else 1
        rows = jnp.pad(kept + first, ((0, 0), (first, 0)))  # the class token is row 0
        # A product and not a gather, whose gradient would be a scatter, which is slow on TPUs. One factor
        # is 1 and the others 0, so the result is exact.
        picked = jax.nn.one_hot(rows, x.shape[1], dtype=x.dtype)
        return jnp.einsum("bkl,bld->bkd", picked, x, precision=_EXACT)

    def _pooled(self, x: Float[Array, "b l d"]) -> Float[Array, "b d"]:
        first = 0 if self.class_token is None else 1  # patch
        if self.pool == "class":
            # The pooling goes into the encoder: the last norm then runs on one row of each image, as in
            # CLIP.
            return self.encoder(x, lambda x: x[:, 0])
        if self.pool == "gap_norm":
            return self.encoder(x, lambda x: jnp.mean(x[:, first:], axis=1))
        x = self.encoder(x)
        return jnp.mean(x[:, first:], axis=1) if self.map is None else self.map(x)


def _check_class_token(class_token: bool, pool: str, posemb: str) -> None:
    if pool == "class" and not class_token:
        raise ValueError("pool 'class' needs class_token=True: got class_token=False.")
    if class_token and posemb != "learned":
        raise ValueError(
            f"A class token needs posemb 'learned', since it is not in the grid: got {posemb!r}."
        )


def grid_side(variant: str, size: int, patch: int | None) -> int:
    """Returns the patches of a side; raises ValueError for a size that the patch does not divide."""
    if patch is None:
        raise ValueError(f"An image tower needs a patch: got {variant!r}, expected e.g. 'B/16'.")
    check_size(size)
    if size < patch or size % patch:
        raise ValueError(
            f"Image size must divide by the patch: got size {size}, patch {patch}; "
            f"nearest sizes are {max(1, size // patch) * patch} and {(size // patch + 1) * patch}."
        )
    return size // patch
