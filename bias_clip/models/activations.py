"""The nonlinear functions between the two linear maps of an MLP, by name.

Each derivative is written out so that the backward pass keeps one array of the MLP's width and not
three: a third less memory for the whole step under scan (measured on CPU with the tanh form).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TANH_SLOPE, _TANH_CUBE = math.sqrt(2 / math.pi), 0.044715
_QUICK = 1.702  # with this slope a sigmoid is closest to the normal distribution function


@jax.custom_jvp
def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³)))`: GELU in its tanh form, as in SigLIP."""
    # XLA for NVIDIA GPUs recognises GELU in this order of operations, and leaves it to the product before it.
    return x * (0.5 * (1.0 + _tanh(x)))


@gelu_tanh.defjvp
def _gelu_tanh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    tanh = _tanh(x)
    # d/dx = (1 + tanh) / 2 + x / 2 (1 - tanh²) inner', all from x and its tanh.
    half = 0.5 * (1.0 + tanh)
    inner = _TANH_SLOPE * (1.0 + 3 * _TANH_CUBE * (x * x))
    return x * half, dx * (half + 0.5 * x * (1.0 - tanh * tanh) * inner)


def _tanh(x: Array) -> Array:
    return jnp.tanh(_TANH_SLOPE * (x + _TANH_CUBE * (x * (x * x))))


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x * P(normal <= x)`: GELU in its exact form, as in LAION's and DataComp's CLIP."""
    return x * _normal_cdf(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    share, density = _normal_cdf(x), jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    # d/dx x P(x) = P(x) + x p(x), p the density.
    return x * share, dx * (share + x * density)


def _normal_cdf(x: Array) -> Array:
    # erfc and not 1 + erf: the latter cancels where x is far below zero.
    return 0.5 * jax.lax.erfc(-math.sqrt(0.5) * x)


@jax.custom_jvp
def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x * sigmoid(1.702 x)`, as in OpenAI's CLIP, MetaCLIP and DFN."""
    return x * jax.nn.sigmoid(_QUICK * x)


@quick_gelu.defjvp
def _quick_gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    gate = jax.nn.sigmoid(_QUICK * x)
    # d/dx x s(ax) = s + a x s (1 - s).
    return x * gate, dx * gate * (1.0 + _QUICK * x * (1.0 - gate))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_tanh": gelu_tanh,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
}

ACTIVATIONS = tuple(_FUNCTIONS)


def activation_fn(name: str) -> Callable[[Array], Array]:
    """Returns the function called `name`.

    Raises:
      ValueError: the name is not one of `ACTIVATIONS`.
    """
    if name not in _FUNCTIONS:
        raise ValueError(
            f"Unknown activation: got {name!r}, expected one of {', '.join(ACTIVATIONS)}."
        )
    return _FUNCTIONS[name]
