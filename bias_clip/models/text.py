"""The text tower: SigLIP's transformer over tokens, no mask, the last token pooled."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bias_clip.models import initializers, layers, vit

POOLS = ("last", "gap", "map")


class TextTransformer(nnx.Module):
    """Tokens `[b, length]` to `[b, out_dim or width]`, full attention over all `length` tokens.

    Text tower of SigLIP at `variant="B", vocab_size=32_000, length=64, out_dim=768`. Padding is
    attended to like any token: pooling the last one relies on every text being padded to `length`.
    A token outside the vocabulary gives NaN, so that it cannot pass unseen.

    Raises:
      ValueError: an unknown name, a variant with a patch, or a size that is not positive.
    """

    def __init__(
        self,
        *,
        variant: str,
        vocab_size: int,
        length: int = 64,
        pool: str = "last",
        out_dim: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        mlp_dim: int | None = None,
        num_heads: int | None = None,
        remat: str = "none",
        scan: bool = True,
        attention: str = "xla",
    ):
        sizes, patch = vit.parse_variant(
            variant, width=width, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads
        )
        if patch is not None:
            raise ValueError(f"A text tower has no patch: got {variant!r}, expected e.g. 'B'.")
        if min(vocab_size, length) < 1:
            raise ValueError(
                f"vocab_size and length must be positive: got {vocab_size} and {length}."
            )
        self.length, self.pool = length, vit.choose("pool", pool, POOLS)
        # Normal with deviation 1 / sqrt(width), one row per token.
        self.embedding = initializers.normal((vocab_size, sizes.width), sizes.width**-0.5)
        self.pos_embedding = layers.positions(length, sizes.width)
        self.encoder = layers.Encoder(
            **sizes._asdict(), remat=remat, scan=scan, attention=attention
        )
        heads = (sizes.width, sizes.mlp_dim, sizes.num_heads)
        self.map = layers.MapHead(*heads) if pool == "map" else None
        self.head = layers.head(sizes.width, out_dim)

    def __call__(self, text: Int[Array, "b l"], dtype: str = "float32") -> Float[Array, "b d"]:
        """Pooled and projected, not yet normalised."""
        x = jnp.take(self.embedding[...], text, axis=0, mode="fill", fill_value=jnp.nan)
        x = self.encoder((x + self.pos_embedding[...]).astype(dtype))
        if self.map is not None:
            x = self.map(x)
        else:
            x = x[:, -1] if self.pool == "last" else jnp.mean(x, axis=1)
        return x if self.head is None else self.head(x)
