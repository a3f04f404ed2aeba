"""The text tower: a transformer over tokens, unmasked as in SigLIP or causal as in CLIP."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bias_clip.models import initializers, layers, vit
from bias_clip.models.encoder import Encoder, MapHead

POOLS = ("last", "gap", "map", "argmax", "eos")


class TextTransformer(nnx.Module):
    """Tokens `[b, length]` to `[b, out_dim or width]`, attention over all `length` tokens.

    With `variant="B", vocab_size=32_000, length=64, out_dim=768` this is the text tower of SigLIP.
    Padding is attended to like any token: pooling the last token requires every text to be padded to
    `length`. A token outside the vocabulary gives NaN, so that the error is noticed. The text tower of
    CLIP has `mask="causal", pool="argmax", head_bias=False, epsilon=1e-5` and an `activation`.

    Args:
      pool: "last" takes the last token, "gap" the mean of all, "map" attends with a learned probe,
        "argmax" takes the token with the largest id (the end of text, if that is the last id of the
        vocabulary), "eos" the first token equal to `eos_id` (the first token of all, if none is).
      eos_id: the end of text, only for pool "eos".
      mask: one of `attention.MASKS`.
      head_bias: whether the projection has a bias.
      activation: of the MLPs, one of `activations.ACTIVATIONS`.
      epsilon: of every norm.

    Raises:
      ValueError: an unknown name, a variant with a patch, a size that is not positive, or an `eos_id`
        that is missing, outside the vocabulary, or given for another pool.
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
        eos_id: int | None = None,
        mask: str = "none",
        head_bias: bool = True,
        activation: str = "gelu_tanh",
        epsilon: float = layers.EPSILON,
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
        self.eos_id = _checked_eos(eos_id, pool, vocab_size)
        # Normal with deviation 1 / sqrt(width), one row per token.
        self.embedding = initializers.normal((vocab_size, sizes.width), sizes.width**-0.5)
        self.pos_embedding = layers.positions(length, sizes.width)
        same: dict[str, Any] = {"activation": activation, "epsilon": epsilon}
        self.encoder = Encoder(
            **sizes._asdict(), **same, mask=mask, remat=remat, scan=scan, attention=attention
        )
        heads = (sizes.width, sizes.mlp_dim, sizes.num_heads)
        self.map = MapHead(*heads, **same) if pool == "map" else None
        self.head = layers.head(sizes.width, out_dim, bias=head_bias)

    def __call__(
        self, text: Int[Array, "b l"], dtype: str = "float32", length: int | None = None
    ) -> Float[Array, "b d"]:
        """Returns the pooled and projected features, not yet normalised.

        With a `length` below that of the tower, only the first tokens are read, and the one that is pooled:
        with pool "last" the last one at its own position; with "argmax" and "eos" the end of the text,
        which takes the place of the last token that is left if it came later.
        """
        table = self.pos_embedding[...]
        if length is not None and length < self.length:
            text, table = self._cut(text, table, length)
        # Plain indexing would clamp a token outside of the table to its last row, without an error.
        x = jnp.take(self.embedding[...], text, axis=0, mode="fill", fill_value=jnp.nan)
        # The sum in float32, and only then in the dtype of the products.
        x = (x + table).astype(dtype)
        if self.pool in ("argmax", "eos"):
            # Pooled before the last norm: it then runs on one token of each text, and not on all.
            x = self.encoder(x, lambda x: _at(x, self._end(text)))
            return x if self.head is None else self.head(x)
        x = self.encoder(x)
        if self.map is not None:
            x = self.map(x)
        else:
            x = x[:, -1] if self.pool == "last" else jnp.mean(x, axis=1)
        return x if self.head is None else self.head(x)

    def _cut(
        self, text: Int[Array, "b l"], table: Float[Array, "1 l d"], length: int
    ) -> tuple[Int[Array, "b m"], Float[Array, "1 m d"]]:
        """The tokens that a shorter text keeps, and their positions."""
        if self.pool == "last":
            rest = text[:, : length - 1], table[:, : length - 1]
            ends = text[:, -1:], table[:, -1:]
            tokens, places = (jnp.concatenate(two, axis=1) for two in zip(rest, ends, strict=True))
            return tokens, places
        short = text[:, :length]
        if self.pool in ("argmax", "eos"):
            end = self._end(text)
            token = jnp.take_along_axis(text, end[:, None], axis=1)[:, 0]
            short = short.at[:, -1].set(jnp.where(end < length, short[:, -1], token))
        return short, table[:, :length]

    def _end(self, text: Int[Array, "b l"]) -> Int[Array, " b"]:
        """The position where each text ends; of several equal tokens, argmax takes the first."""
        # "argmax": in CLIP's vocabulary the end of a text has the largest id.
        return jnp.argmax(text if self.pool == "argmax" else text == self.eos_id, axis=1)


def _at(x: Float[Array, "b l d"], place: Int[Array, " b"]) -> Float[Array, "b d"]:
    return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]


def _checked_eos(eos_id: int | None, pool: str, vocab_size: int) -> int | None:
    if pool == "eos" and (eos_id is None or not 0 <= eos_id < vocab_size):
        raise ValueError(
            f"pool 'eos' needs an eos_id in the vocabulary of {vocab_size}: got {eos_id}."
        )
    if pool != "eos" and eos_id is not None:
        raise ValueError(f"eos_id is for pool 'eos': got eos_id {eos_id} with pool {pool!r}.")
    return eos_id
