"""The smallest parts of both towers: linear maps, norms, the MLP, positions.

Every parameter may have a leading depth axis (`stack=(depth,)`). The encoder stores one block whose
leaves are stacked over depth; `scan` only chooses how the blocks of that stack are run.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from bias_clip.models import initializers
from bias_clip.models.activations import activation_fn

NORM_STATISTICS = "norm statistics"
"""Name of the mean and 1 / deviation of each row, for remat policies: small, and a pass over the rows to make."""

EPSILON = 1e-6
"""Of every LayerNorm, as in ViT and SigLIP; CLIP has 1e-5."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def flatten(kernel: Float[Array, "..."], rows: int) -> Float[Array, "i o"]:
    """The kernel as one matrix of `rows` rows; its gradient is whole before it gets its axes back.

    Reverse mode only. A TPU pads a last axis of 64 to 128 lanes. Without the barrier XLA carries the
    axes `[width, heads, 64]` back through the product that makes the gradient, and transposes all
    activations to write it: four copies of `[tokens, width]` per layer.
    """
    return kernel.reshape(rows, -1)


def _flatten_forward(kernel: Array, rows: int) -> tuple[Array, tuple[int, ...]]:
    return kernel.reshape(rows, -1), kernel.shape


def _flatten_backward(rows: int, shape: tuple[int, ...], grad: Array) -> tuple[Array]:
    del rows
    return (jax.lax.optimization_barrier(grad).reshape(shape),)


flatten.defvjp(_flatten_forward, _flatten_backward)


@jax.custom_vjp
def add_bias(y: Float[Array, "n o"], bias: Float[Array, " o"]) -> Float[Array, "n o"]:
    """`y + bias` in the dtype of `y`; reverse mode only: the bias's gradient is a sum in float32.

    Derived by JAX it would be a sum over all tokens in the dtype of `y`. In bfloat16 that rounds each partial
    sum to 8 bits.
    """
    return y + bias.astype(y.dtype)


def _add_bias_forward(y: Array, bias: Array) -> tuple[Array, Array]:
    return add_bias(y, bias), bias[:0]  # an empty array: only its dtype is used


def _add_bias_backward(like: Array, grad: Array) -> tuple[Array, Array]:
    return grad, jnp.sum(grad, axis=0, dtype=jnp.float32).astype(like.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axes of `x`, for inputs and outputs of any rank.

    `bias=False` leaves the bias out, as CLIP's patch embedding and projections do.

    The kernel keeps its axes (`[width, heads, head_dim]` for a query), because sharding rules by head
    and optimisers that factor matrices need them; for the product they are merged to two.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        start: str = "xavier",
        bias: bool = True,
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
        start_bias = (
            initializers.constant(shape, 0.0)
            if bias_deviation == 0.0
            else initializers.normal(shape, bias_deviation)
        )
        self.bias = start_bias if bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Maps the last axes of `x`."""
        y = self.multiply(x)
        if self.bias is not None:
            y = add_bias(y, self.flat_bias())
        return y.reshape(*x.shape[: x.ndim - len(self.inputs)], *self.outputs)

    def flat_bias(self) -> Float[Array, " o"]:
        """The bias as one vector; zeros if there is none."""
        if self.bias is None:
            return jnp.zeros(math.prod(self.outputs))
        return self.bias[...].reshape(-1)

    def multiply(self, x: Float[Array, "..."]) -> Float[Array, "n o"]:
        """The product alone: a row for each of the leading axes of `x`, no bias."""
        # One plain matrix product: with separate batch axes, the kernel's gradient contracts over two
        # axes, for which XLA's CPU compiler makes copies (19 % of a whole train step).
        # The cast is inside of the step, so parameters stay float32 and their gradient is cast back.
        kernel = flatten(self.kernel[...].astype(x.dtype), math.prod(self.inputs))
        return x.reshape(-1, kernel.shape[0]) @ kernel


class Statistics(NamedTuple):
    """Of the last axis of an array, in float32: its mean, and `1 / sqrt(variance + epsilon)`."""

    mean: Float[Array, "*batch"]
    rstd: Float[Array, "*batch"]


def row_statistics(x: Float[Array, "*batch d"], epsilon: float = EPSILON) -> Statistics:
    """The statistics that `layer_norm` takes; as constants, since its gradient passes through them.

    For bfloat16 the variance is `mean(x²) - mean²`, one pass over `x` instead of two. Its error relative to
    the variance is about 2^-24 (1 + mean² / variance), below that of rounding `x` to 8 bits unless all but
    a few of the numbers are equal. float32 takes the second pass.
    """
    # In float32 also of bfloat16 rows: 8 bits cannot hold a sum over the width.
    wide = jax.lax.stop_gradient(x).astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1)
    rstd = jax.lax.rsqrt(variance(wide, mean, x.dtype == jnp.bfloat16) + epsilon)
    return Statistics(*(checkpoint_name(s, NORM_STATISTICS) for s in (mean, rstd)))


def variance(wide: Array, mean: Array, one_pass: bool) -> Array:
    """The variance of the last axis in float32; in one pass from the mean of squares."""
    if not one_pass:
        return jnp.mean(jnp.square(wide - mean[..., None]), axis=-1)
    square = jnp.mean(jnp.square(wide), axis=-1)
    return jnp.maximum(square - jnp.square(mean), 0.0)  # rounding can put it below zero


def layer_norm(
    x: Float[Array, "*batch d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    epsilon: float = EPSILON,
    given: Statistics | None = None,
) -> Float[Array, "*batch d"]:
    """`xhat * scale + bias`, `xhat = (x - mean) / sqrt(var + epsilon)`: statistics in float32.

    Reverse mode only: with `rstd = 1 / sqrt(var + epsilon)` and `g` the gradient of `xhat`,

        dx = rstd * (g - mean(g) - xhat * mean(g * xhat))

    With this rule a train step on a CPU moves a seventh fewer bytes than with the derived rule, which
    passes through the variance and the mean one after the other.

    Args:
      given: `row_statistics(x, epsilon)`, where whoever made `x` has made them with it.
    """
    return _normalise(x, scale, bias, *(given or row_statistics(x, epsilon)))


@jax.custom_vjp
def _normalise(x: Array, scale: Array, bias: Array, mean: Array, rstd: Array) -> Array:
    return _normalise_forward(x, scale, bias, mean, rstd)[0]


def _normalise_forward(
    x: Array, scale: Array, bias: Array, mean: Array, rstd: Array
) -> tuple[Array, tuple[Array, ...]]:
    xhat = (x.astype(jnp.float32) - mean[..., None]) * rstd[..., None]
    # x in its own dtype: it is exact in bfloat16 too, and the layer before keeps it anyway.
    return (xhat * scale + bias).astype(x.dtype), (x, mean, rstd, scale)


def _normalise_backward(kept: tuple[Array, ...], dy: Array) -> tuple[Array | None, ...]:
    x, mean, rstd, scale = kept
    mean, rstd = mean[..., None], rstd[..., None]
    xhat, wide = (x.astype(jnp.float32) - mean) * rstd, dy.astype(jnp.float32)
    g = wide * scale
    along = jnp.mean(g * xhat, axis=-1, keepdims=True)
    # The gradients through the mean and through the variance, in one formula: see `layer_norm`.
    dx = rstd * (g - jnp.mean(g, axis=-1, keepdims=True) - xhat * along)
    # Scale and bias are shared by all rows, so their gradients are sums over all axes but the last.
    rows = tuple(range(dy.ndim - 1))
    sums = jnp.sum(wide * xhat, axis=rows), jnp.sum(wide, axis=rows)
    return dx.astype(x.dtype), *sums, None, None


_normalise.defvjp(_normalise_forward, _normalise_backward)


class LayerNorm(nnx.Module):
    """`layer_norm` with a learned scale and bias."""

    def __init__(self, width: int, *, epsilon: float = EPSILON, stack: tuple[int, ...] = ()):
        self.epsilon = epsilon
        self.scale = initializers.constant((*stack, width), 1.0)
        self.bias = initializers.constant((*stack, width), 0.0)

    def __call__(
        self, x: Float[Array, "*batch d"], given: Statistics | None = None
    ) -> Float[Array, "*batch d"]:
        """Normalises the last axis; `given` are its `row_statistics`, if they are there already."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon, given)


def from_argument(activation: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same function; its backward pass keeps the argument and computes the rest from it again.

    Without it, XLA keeps the tanh of GELU as well where layers are unrolled, and does not leave GELU to cuBLASLt:
    compiled for one H100, a step of B/16 then moves 9 % more bytes and holds 22 % more (docs/speed.md).
    """
    return jax.checkpoint(activation)


class Mlp(nnx.Module):
    """Linear, activation (one of `activations.ACTIVATIONS`), linear.

    `recompute` has the activation `from_argument` in bfloat16, the dtype of accelerators, whose memory is slower
    than their arithmetic.
    """

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        *,
        activation: str = "gelu_tanh",
        recompute: bool = False,
        stack: tuple[int, ...] = (),
    ):
        self.activation, self.recompute = activation_fn(activation), recompute
        # As in big_vision, biases of an MLP start near zero and not at it.
        self.fc1 = Linear((width,), (mlp_dim,), bias_deviation=1e-6, stack=stack)
        self.fc2 = Linear((mlp_dim,), (width,), bias_deviation=1e-6, stack=stack)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Maps each token independently."""
        again = self.recompute and x.dtype == jnp.bfloat16
        activation = from_argument(self.activation) if again else self.activation
        return self.fc2(activation(self.fc1(x)))


def positions(length: int, width: int) -> nnx.Param:
    """A learned position table `[1, length, width]`, normal with deviation `1 / sqrt(width)`."""
    return initializers.normal((1, length, width), width**-0.5)


def head(width: int, out_dim: int | None, *, bias: bool = True) -> Linear | None:
    """The last projection of a tower, or None if the tower ends at its own width."""
    if out_dim is None:
        return None
    if out_dim < 1:
        raise ValueError(f"out_dim must be positive, or None for no projection: got {out_dim}.")
    return Linear((width,), (out_dim,), start="lecun", bias=bias)
