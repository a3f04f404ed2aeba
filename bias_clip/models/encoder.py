"""The transformer encoder of both towers, and its pooling by attention."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bias_clip.models import initializers
from bias_clip.models.attention import Attention
from bias_clip.models.layers import (
    EPSILON,
    NORM_STATISTICS,
    LayerNorm,
    Mlp,
    Statistics,
    row_statistics,
)
from bias_clip.models.pallas_attention import keep_rows

REMAT_POLICIES = ("none", "minimal", "dots", "full")
"""From most memory to most recomputation; see `remat_block`."""


def remat_block(body: Callable[..., Any], policy: str, scan: bool) -> Callable[..., Any]:
    """Wraps one block so that the backward pass recomputes what `policy` does not keep.

    * "none": everything is kept, nothing is recomputed; but see `Mlp` for unrolled layers in bfloat16.
    * "minimal": results of all matrix products are kept, everything between them is recomputed.
    * "dots": only products with a weight matrix are kept; attention is recomputed.
    * "full": only the input of each block is kept.

    All but the first also keep the statistics of norms, two numbers per token and norm.

    Args:
      scan: whether `body` is the body of a `lax.scan`.

    Returns:
      `body`, or `body` under `jax.checkpoint`.

    Raises:
      ValueError: the policy is not one of `REMAT_POLICIES`.
    """
    policies = jax.checkpoint_policies
    keep = {
        "minimal": policies.dots_saveable,
        "dots": policies.dots_with_no_batch_dims_saveable,
        "full": policies.nothing_saveable,
    }
    statistics = policies.save_only_these_names(NORM_STATISTICS)
    if policy == "none":
        return body
    if policy not in keep:
        raise ValueError(
            f"Unknown remat policy: got {policy!r}, expected one of {', '.join(REMAT_POLICIES)}."
        )
    kept = policies.save_from_both_policies(keep[policy], statistics)
    # Inside scan the loop itself keeps XLA from merging the recomputation with the forward pass.
    return jax.checkpoint(body, policy=kept, prevent_cse=not scan)


class Block(nnx.Module):
    """Pre-norm transformer block: `x += attention(norm1(x)); x += mlp(norm2(x))`."""

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        num_heads: int,
        *,
        attention: str = "xla",
        mask: str = "none",
        activation: str = "gelu_tanh",
        epsilon: float = EPSILON,
        recompute: bool = False,
        stack: tuple[int, ...] = (),
    ):
        # XLA keeps tokens transposed beside a kernel, see `keep_rows`; without one it lays them out well.
        self.in_rows = keep_rows if attention == "pallas" else _as_it_is
        self.norm1 = LayerNorm(width, epsilon=epsilon, stack=stack)
        self.attention = Attention(width, num_heads, kind=attention, mask=mask, stack=stack)
        self.norm2 = LayerNorm(width, epsilon=epsilon, stack=stack)
        self.mlp = Mlp(width, mlp_dim, activation=activation, recompute=recompute, stack=stack)

    def __call__(
        self, x: Float[Array, "bl d"], statistics: Statistics, *, num: int
    ) -> tuple[Float[Array, "bl d"], Statistics]:
        """Applies the block to the tokens of `num` examples, whose rows are concatenated.

        It takes their `row_statistics` and returns those of its result: the product that makes the
        result sums its rows as it writes them, and the next block would need a pass of its own.
        """
        x = self.in_rows(x)
        y = self.norm1(x, statistics)
        x = x + self.attention(y, y, num=num)
        x = x + self.mlp(self.norm2(x))
        return self.in_rows(x), row_statistics(x, self.norm1.epsilon)


def _as_it_is(x: Array) -> Array:
    return x


def cast_kernels(params: Any, dtype: Any) -> Any:
    """The tree with its kernels in `dtype`; all other leaves as they are.

    A product takes its kernel in the dtype of the tokens, and gives the kernel's gradient in it. Cast
    here, once for all layers, the loop stacks those gradients in that dtype; cast inside of the loop, as
    float32: the same numbers, twice the bytes.
    """

    def cast(path: Any, leaf: Array) -> Array:
        return leaf.astype(dtype) if "kernel" in jax.tree_util.keystr(path) else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


class Encoder(nnx.Module):
    """`depth` blocks and a last norm; the blocks' leaves are stacked over depth.

    `scan=True` runs the stack in `lax.scan` (one block is compiled), `scan=False` in a Python loop
    (every block is compiled); values and gradients are the same.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        mlp_dim: int,
        num_heads: int,
        remat: str = "none",
        scan: bool = True,
        attention: str = "xla",
        mask: str = "none",
        activation: str = "gelu_tanh",
        epsilon: float = EPSILON,
    ):
        remat_block(
            lambda x: x, remat, scan
        )  # an unknown policy is an error before anything compiles
        self.depth, self.remat, self.scan = depth, remat, scan
        self.blocks = Block(
            width,
            mlp_dim,
            num_heads,
            attention=attention,
            mask=mask,
            activation=activation,
            epsilon=epsilon,
            # Unrolled, XLA would keep both the argument of GELU and its tanh for the backward pass.
            recompute=remat == "none" and not scan,
            stack=(depth,),
        )
        self.norm = LayerNorm(width, epsilon=epsilon)

    def __call__(
        self, x: Float[Array, "b l d"], pool: Callable[[Array], Array] | None = None
    ) -> Float[Array, "b *l d"]:
        """All blocks, then `pool` from `[b, l, d]` to `[b, d]` if it is given, then the norm."""
        # One graph for all blocks: each layer's leaves are put into it, so the modules are built once.
        graph, stacked = nnx.split(self.blocks)
        stacked = cast_kernels(stacked, x.dtype)
        shape = x.shape

        def body(state: tuple[Array, Statistics], layer: Any) -> tuple[Any, None]:
            return nnx.merge(graph, layer)(*state, num=shape[0]), None

        body = remat_block(body, self.remat, self.scan)
        # All blocks see one matrix with a row per token. In the form `[b, l, d]` a TPU pads l to a
        # multiple of a tile's rows, and copies to and from the plain rows that matrix products take.
        x = x.reshape(-1, shape[-1])
        state = (x, row_statistics(x, self.norm.epsilon))
        if self.scan:
            state, _ = jax.lax.scan(body, state, stacked)
        else:
            # Split, not indexed: the gradient is one concatenation, and not a sum of padded layers.
            leaves, tree = jax.tree.flatten(stacked)
            split = [jax.lax.split(leaf, [1] * self.depth) for leaf in leaves]
            for layer in zip(*split, strict=True):
                state, _ = body(state, jax.tree.unflatten(tree, [leaf[0] for leaf in layer]))
        x, statistics = state
        if pool is not None:
            return self.norm(pool(x.reshape(shape)))
        return self.norm(x, statistics).reshape(shape)


class MapHead(nnx.Module):
    """Attention pooling: a learned probe attends over the tokens, then a residual MLP."""

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        num_heads: int,
        *,
        activation: str = "gelu_tanh",
        epsilon: float = EPSILON,
    ):
        # Glorot's rule for the shape [1, 1, width], as big_vision has it: one input, `width` outputs.
        self.probe = initializers.xavier_uniform((1, 1, width), 1, width)
        self.attention = Attention(width, num_heads)
        self.norm = LayerNorm(width, epsilon=epsilon)
        self.mlp = Mlp(width, mlp_dim, activation=activation)

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b d"]:
        """One vector for all tokens."""
        # [1, 1, width] to [b, width]: one query for each example.
        probe = jnp.broadcast_to(self.probe[0], (x.shape[0], x.shape[-1]))
        # Cast last, so that the probe's gradient is a sum over the batch in float32.
        y = self.attention(probe.astype(x.dtype), x.reshape(-1, x.shape[-1]), num=x.shape[0])
        return y + self.mlp(self.norm(y))
