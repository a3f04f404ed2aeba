"""The parts both towers are made of: linear maps, norms, attention, the encoder and its pooling.

Every parameter may carry a leading depth axis (`stack=(depth,)`): the encoder stores one block whose
leaves are stacked over depth, and `scan` only chooses how that stack is walked.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bias_clip.models import initializers, pallas_attention

REMAT_POLICIES = ("none", "minimal", "dots", "full")
"""From most memory to most recomputation; see `remat_block`."""

ATTENTIONS = ("xla", "cudnn", "pallas")
"""How self-attention is computed; see `attend`."""

_EPSILON = 1e-6  # of every LayerNorm, as in ViT and SigLIP
_GELU_SLOPE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


def remat_block(body: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """Wraps one block so that the backward pass recomputes what `policy` does not keep.

    * "none": everything is kept, nothing is recomputed.
    * "minimal": results of all matrix products are kept, what lies between them is recomputed.
    * "dots": only products with a weight matrix are kept; attention is recomputed.
    * "full": only the input of each block is kept.

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
    if policy == "none":
        return body
    if policy not in keep:
        raise ValueError(
            f"Unknown remat policy: got {policy!r}, expected one of {', '.join(REMAT_POLICIES)}."
        )
    # Inside scan the loop itself keeps XLA from merging the recomputation with the forward pass.
    return jax.checkpoint(body, policy=keep[policy], prevent_cse=False)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axes of `x`, for inputs and outputs of any rank.

    The kernel keeps its axes (`[width, heads, head_dim]` for a query), because optimisers that factor
    a matrix and sharding rules by head both look at them; the product sees two of them.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        start: str = "xavier",
        bias_deviation: float = 0.0,
        stack: tuple[int, ...] = (),
    ):
        self.inputs, self.outputs = inputs, outputs
        shape, fans = (*stack, *inputs, *outputs), (math.prod(inputs), math.prod(outputs))
        if start == "xavier":
            self.kernel = initializers.xavier_uniform(shape, *fans)
        else:
            self.kernel = initializers.lecun_normal(shape, fans[0])
        shape = (*stack, *outputs)
        plain = bias_deviation == 0.0
        self.bias = (
            initializers.constant(shape, 0.0)
            if plain
            else initializers.normal(shape, bias_deviation)
        )

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Maps the last axes of `x`."""
        # One plain matrix product: with the batch axes left apart, the kernel's gradient contracts
        # over two axes, which XLA's CPU compiler does with copies (19 % of a whole train step).
        lead = x.shape[: x.ndim - len(self.inputs)]
        kernel = self.kernel[...].astype(x.dtype).reshape(math.prod(self.inputs), -1)
        y = x.reshape(-1, kernel.shape[0]) @ kernel + self.bias[...].astype(x.dtype).reshape(-1)
        return y.reshape(*lead, *self.outputs)


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³)))`: GELU in its tanh form.

    The derivative is written out so that the backward pass keeps one array of the MLP's width and not
    three: a third less memory for the whole step under scan (measured on CPU).
    """
    return 0.5 * x * (1.0 + _gelu_tanh(x))


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    tanh = _gelu_tanh(x)
    half = 0.5 * (1.0 + tanh)
    inner = _GELU_SLOPE * (1.0 + 3 * _GELU_CUBE * x * x)
    return x * half, dx * (half + 0.5 * x * (1.0 - tanh * tanh) * inner)


def _gelu_tanh(x: Array) -> Array:
    return jnp.tanh(_GELU_SLOPE * (x + _GELU_CUBE * x * x * x))


@jax.custom_vjp
def layer_norm(
    x: Float[Array, "*batch d"], scale: Float[Array, " d"], bias: Float[Array, " d"]
) -> Float[Array, "*batch d"]:
    """`xhat * scale + bias`, `xhat = (x - mean) / sqrt(var + 1e-6)`: statistics in float32.

    Reverse mode only: with `rstd = 1 / sqrt(var + 1e-6)` and `g` the gradient of `xhat`,

        dx = rstd * (g - mean(g) - xhat * mean(g * xhat))

    A train step on a CPU moves a seventh fewer bytes with it than with the derived rule, which walks
    through the variance and the mean one by one.
    """
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True) + _EPSILON)
    y = ((wide - mean) * rstd * scale + bias).astype(x.dtype)
    # x as it came: exact in bfloat16, and kept by its maker anyway.
    return y, (x, mean, rstd, scale)


def _layer_norm_backward(kept: tuple[Array, ...], dy: Array) -> tuple[Array, Array, Array]:
    x, mean, rstd, scale = kept
    xhat, wide = (x.astype(jnp.float32) - mean) * rstd, dy.astype(jnp.float32)
    g = wide * scale
    along = jnp.mean(g * xhat, axis=-1, keepdims=True)
    dx = rstd * (g - jnp.mean(g, axis=-1, keepdims=True) - xhat * along)
    rows = tuple(range(dy.ndim - 1))
    return dx.astype(x.dtype), jnp.sum(wide * xhat, axis=rows), jnp.sum(wide, axis=rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nnx.Module):
    """`layer_norm` with a scale and a bias to learn."""

    def __init__(self, width: int, *, stack: tuple[int, ...] = ()):
        self.scale = initializers.constant((*stack, width), 1.0)
        self.bias = initializers.constant((*stack, width), 0.0)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Normalises the last axis."""
        return layer_norm(x, self.scale[...], self.bias[...])


@jax.custom_vjp
def softmax(x: Float[Array, "*batch l"]) -> Float[Array, "*batch l"]:
    """Softmax over the last axis; reverse mode only: `dx = y * (dy - sum(dy * y))` in two passes."""
    return jax.nn.softmax(x, axis=-1)


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    y = jax.nn.softmax(x, axis=-1)
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
) -> Float[Array, "b q h k"]:
    """`softmax(q kᵀ / sqrt(size)) v` of each head of `size` numbers; softmax in float32, no mask.

    * "xla": two matrix products with a softmax between them, on any device; `[b, h, q, l]` numbers in
      float32 pass through memory.
    * "cudnn": cuDNN's fused kernel, which never writes them; NVIDIA GPUs from Ampere on, bfloat16,
      an even number of tokens.
    * "pallas": the same for TPUs, `fused.attend`; as many queries as keys.

    The result of a kernel is no matrix product to a remat policy: all but "none" compute it again.

    Raises:
      ValueError: an odd number of tokens with "cudnn".
    """
    if kind == "cudnn":
        if k.shape[1] % 2:
            raise ValueError(
                f"attention 'cudnn' needs an even number of tokens: got {k.shape[1]}; choose "
                "another size, or attention 'xla'."
            )
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    if kind == "pallas":
        return pallas_attention.attend(q, k, v)
    q = q * q.shape[-1] ** -0.5  # here and not at the logits, which are more numbers
    logits = jnp.einsum("bqhk,blhk->bhql", q, k, preferred_element_type=jnp.float32)
    return jnp.einsum("bhql,blhk->bqhk", softmax(logits).astype(v.dtype), v)


class Attention(nnx.Module):
    """Multi-head attention of `queries` over `x`; `kind` is one of `ATTENTIONS`, see `attend`."""

    def __init__(
        self, width: int, num_heads: int, *, kind: str = "xla", stack: tuple[int, ...] = ()
    ):
        if kind not in ATTENTIONS:
            raise ValueError(
                f"Unknown attention: got {kind!r}, expected one of {', '.join(ATTENTIONS)}."
            )
        if width % num_heads:
            raise ValueError(
                f"width must divide by num_heads: got width {width}, num_heads {num_heads}; "
                "override num_heads or width."
            )
        self.kind = kind
        heads = (num_heads, width // num_heads)
        self.query = Linear((width,), heads, stack=stack)
        self.key = Linear((width,), heads, stack=stack)
        self.value = Linear((width,), heads, stack=stack)
        self.out = Linear(heads, (width,), stack=stack)

    def __call__(
        self, queries: Float[Array, "bq d"], x: Float[Array, "bl d"], *, num: int
    ) -> Float[Array, "bq d"]:
        """Mixes the tokens `x` of each of `num` examples for each of its queries."""
        q, k, v = self.query(queries), self.key(x), self.value(x)
        q, k, v = (y.reshape(num, -1, *y.shape[1:]) for y in (q, k, v))
        y = attend(q, k, v, kind=self.kind)
        return self.out(y.reshape(-1, *y.shape[2:]))


class Mlp(nnx.Module):
    """Linear, GELU (the tanh form), linear."""

    def __init__(self, width: int, mlp_dim: int, *, stack: tuple[int, ...] = ()):
        self.fc1 = Linear((width,), (mlp_dim,), bias_deviation=1e-6, stack=stack)
        self.fc2 = Linear((mlp_dim,), (width,), bias_deviation=1e-6, stack=stack)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Maps each token by itself."""
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """Pre-norm transformer block: `x += attention(norm1(x)); x += mlp(norm2(x))`."""

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        num_heads: int,
        *,
        attention: str = "xla",
        stack: tuple[int, ...] = (),
    ):
        self.norm1 = LayerNorm(width, stack=stack)
        self.attention = Attention(width, num_heads, kind=attention, stack=stack)
        self.norm2 = LayerNorm(width, stack=stack)
        self.mlp = Mlp(width, mlp_dim, stack=stack)

    def __call__(self, x: Float[Array, "bl d"], *, num: int) -> Float[Array, "bl d"]:
        """One step of the residual stream: the tokens of `num` examples, below each other."""
        y = self.norm1(x)
        x = x + self.attention(y, y, num=num)
        return x + self.mlp(self.norm2(x))


class Encoder(nnx.Module):
    """`depth` blocks and a last norm; the blocks' leaves are stacked over depth.

    `scan=True` walks the stack in `lax.scan` (one block is compiled), `scan=False` in a Python loop
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
    ):
        remat_block(lambda x: x, remat)  # an unknown policy is an error before anything compiles
        self.depth, self.remat, self.scan = depth, remat, scan
        self.blocks = Block(width, mlp_dim, num_heads, attention=attention, stack=(depth,))
        self.norm = LayerNorm(width)

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """All blocks, then the norm."""
        graph, stacked = nnx.split(self.blocks)
        shape = x.shape

        def body(x: Array, layer: Any) -> tuple[Array, None]:
            return nnx.merge(graph, layer)(x, num=shape[0]), None

        body = remat_block(body, self.remat)
        # Rows of tokens in all blocks: a TPU pads `[b, l, d]` where l is no multiple of a tile's rows,
        # and copies where it meets the rows that products want.
        x = x.reshape(-1, shape[-1])
        if self.scan:
            x, _ = jax.lax.scan(body, x, stacked)
        else:
            # Split, not indexed: the gradient is one concatenation, and not a sum of padded layers.
            leaves, tree = jax.tree.flatten(stacked)
            split = [jax.lax.split(leaf, [1] * self.depth) for leaf in leaves]
            for layer in zip(*split, strict=True):
                x, _ = body(x, jax.tree.unflatten(tree, [leaf[0] for leaf in layer]))
        return self.norm(x).reshape(shape)


class MapHead(nnx.Module):
    """Attention pooling: a learned probe attends over the tokens, then a residual MLP."""

    def __init__(self, width: int, mlp_dim: int, num_heads: int):
        # Glorot for the shape [1, 1, width]: one input, `width` outputs.
        self.probe = initializers.xavier_uniform((1, 1, width), 1, width)
        self.attention = Attention(width, num_heads)
        self.norm = LayerNorm(width)
        self.mlp = Mlp(width, mlp_dim)

    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b d"]:
        """One vector for all tokens."""
        probe = jnp.broadcast_to(self.probe[0].astype(x.dtype), (x.shape[0], x.shape[-1]))
        y = self.attention(probe, x.reshape(-1, x.shape[-1]), num=x.shape[0])
        return y + self.mlp(self.norm(y))


def positions(length: int, width: int) -> nnx.Param:
    """A learned position table `[1, length, width]`, normal with deviation `1 / sqrt(width)`."""
    return initializers.normal((1, length, width), width**-0.5)


def head(width: int, out_dim: int | None) -> Linear | None:
    """The last projection of a tower, or None where the tower ends at its own width."""
    if out_dim is None:
        return None
    if out_dim < 1:
        raise ValueError(f"out_dim must be positive, or None for no projection: got {out_dim}.")
    return Linear((width,), (out_dim,), start="lecun")
