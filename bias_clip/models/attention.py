"""Multi-head attention, and the kernels that compute it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bias_clip.models import pallas_attention
from bias_clip.models.layers import Linear

ATTENTIONS = ("xla", "cudnn", "pallas")
"""How self-attention is computed; see `attend`."""

MASKS = ("none", "causal")
"""What a query sees: every key, or those at its own place and before it."""


@jax.custom_vjp
def softmax(x: Float[Array, "*batch l"]) -> Float[Array, "*batch l"]:
    """Softmax over the last axis; reverse mode only: `dx = y * (dy - sum(dy * y))` in two passes."""
    return jax.nn.softmax(x, axis=-1)


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    y = jax.nn.softmax(x, axis=-1)
    # Only y is kept: the rule needs neither the logits nor their maximum.
    return y, y


def _softmax_backward(y: Array, dy: Array) -> tuple[Array]:
    return (y * (dy - jnp.sum(dy * y, axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)


def attend(
    q: Float[Array, "b q h k"],
    k: Float[Array, "b l h k"],
    v: Float[Array, "b l h k"],
    *,
    kind: str = "xla",
    mask: str = "none",
) -> Float[Array, "b q h k"]:
    """`softmax(q kᵀ / sqrt(size)) v` of each head of `size` numbers; softmax in float32.

    With mask "causal", which needs as many queries as keys, each query sees the keys up to its own
    position.

    * "xla": two matrix products with a softmax between them, on any device; `[b, h, q, l]` numbers in
      float32 pass through memory.
    * "cudnn": cuDNN's fused kernel, which never writes these numbers; needs an NVIDIA GPU from Ampere
      on, bfloat16, and an even number of tokens.
    * "pallas": the same for TPUs, `pallas_attention.attend`; needs as many queries as keys.

    Remat policies do not see a kernel's result as a matrix product: all except "none" recompute it.

    Raises:
      ValueError: an odd number of tokens with "cudnn".
    """
    causal = mask == "causal"
    if kind == "cudnn":
        if k.shape[1] % 2:
            raise ValueError(
                f"attention 'cudnn' needs an even number of tokens: got {k.shape[1]}; choose "
                "another size, or attention 'xla'."
            )
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
    if kind == "pallas":
        return pallas_attention.attend(q, k, v, causal=causal)
    q = q * q.shape[-1] ** -0.5  # scaled here because the logits are many more numbers
    # Scores in float32 even of bfloat16 queries: their differences go through exp.
    logits = jnp.einsum("bqhk,blhk->bhql", q, k, preferred_element_type=jnp.float32)
    if causal:
        seen = jnp.tri(q.shape[1], k.shape[1], dtype=bool)
        logits = jnp.where(seen, logits, -jnp.inf)  # no row is all -inf: each query sees itself
    # Weights in the dtype of the values, so that both factors of the product have one.
    return jnp.einsum("bhql,blhk->bqhk", softmax(logits).astype(v.dtype), v)


class Attention(nnx.Module):
    """Multi-head attention of `queries` over `x`; for `kind` and `mask` see `attend`."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        kind: str = "xla",
        mask: str = "none",
        stack: tuple[int, ...] = (),
    ):
        for what, got, valid in (("attention", kind, ATTENTIONS), ("mask", mask, MASKS)):
            if got not in valid:
                raise ValueError(
                    f"Unknown {what}: got {got!r}, expected one of {', '.join(valid)}."
                )
        if width % num_heads:
            raise ValueError(
                f"width must divide by num_heads: got width {width}, num_heads {num_heads}; "
                "override num_heads or width."
            )
        self.kind, self.mask = kind, mask
        heads = (num_heads, width // num_heads)
        self.query = Linear((width,), heads, stack=stack)
        self.key = Linear((width,), heads, stack=stack)
        self.value = Linear((width,), heads, stack=stack)
        self.out = Linear(heads, (width,), stack=stack)

    def __call__(
        self, queries: Float[Array, "bq d"], x: Float[Array, "bl d"], *, num: int
    ) -> Float[Array, "bq d"]:
        """Mixes the tokens `x` of each of `num` examples for each of its queries."""
        if self.kind == "pallas":
            return self.out(self._by_kernel(x, num))
        q, k, v = self.query(queries), self.key(x), self.value(x)
        # [tokens, heads, size] to [examples, tokens, heads, size], which kernels and masks need.
        q, k, v = (y.reshape(num, -1, *y.shape[1:]) for y in (q, k, v))
        y = attend(q, k, v, kind=self.kind, mask=self.mask)
        return self.out(y.reshape(-1, *y.shape[2:]))

    def _by_kernel(self, x: Float[Array, "bl d"], num: int) -> Float[Array, "bl h k"]:
        """Self-attention by the kernel for TPUs, which makes the gradients of the biases, too."""
        maps, (heads, size) = (self.query, self.key, self.value), self.query.outputs
        rows = pallas_attention.attend_rows(
            *(m.multiply(x) for m in maps),
            *(m.flat_bias() for m in maps),
            len(x) // num,
            size,
            self.mask == "causal",
        )
        return rows.reshape(-1, heads, size)
