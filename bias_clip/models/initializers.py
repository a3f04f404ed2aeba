"""How parameters start: a shape and a rule in the module, and all numbers of a tower in one draw.

Modules are built without arrays: a parameter is a `jax.ShapeDtypeStruct` and its initial rule.
`draw` fills a whole tree from one flat stream of random numbers. The usual way is one call to the
generator per parameter. But XLA's CPU compiler takes at least a quarter of a second for each call
(measured: 10 s for a tiny model, here 1 s), and every run waits for that when it starts.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

# Numbers that are cut vary less; the division restores the deviation that was asked for.
_DEVIATION_WHEN_CUT = 0.87962566103423978  # of a unit normal cut at ±2


class Start(NamedTuple):
    """How the numbers are distributed: the name of a form, and its one parameter."""

    form: str
    size: float


def constant(shape: tuple[int, ...], value: float) -> nnx.Param:
    """A float32 parameter that starts at `value`."""
    return _param(shape, Start("constant", value))


def normal(shape: tuple[int, ...], deviation: float) -> nnx.Param:
    """A float32 parameter of normal numbers."""
    return _param(shape, Start("normal", deviation))


def lecun_normal(shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """A float32 parameter of deviation sqrt(1 / fan_in), from a normal cut at two of its deviations."""
    return _param(shape, Start("truncated", fan_in**-0.5))


def xavier_uniform(shape: tuple[int, ...], fan_in: int, fan_out: int) -> nnx.Param:
    """A float32 parameter of uniform numbers within ±sqrt(6 / (fan_in + fan_out)).

    Reference: Glorot and Bengio, Understanding the Difficulty of Training Deep Feedforward Neural
    Networks, 2010, equation 16.
    """
    return _param(shape, Start("uniform", math.sqrt(6 / (fan_in + fan_out))))


def draw(key: Array, parameters: Any) -> dict[str, Any]:
    """The arrays of `parameters`, an `nnx.State` of shapes and rules, as a nested dict.

    A pure function of the key: works under `jax.eval_shape` and under `jax.jit` with
    `out_shardings`, where it yields the same numbers. While it runs it may hold all random numbers of
    the tower on each device, 4 bytes per parameter.
    """
    # By the order of the tree: this order, and not the names, decides which numbers a parameter gets.
    variables, tree = jax.tree.flatten(parameters, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
    # Constants take no random numbers.
    counts = [0 if v.start.form == "constant" else math.prod(v.shape) for v in variables]
    above_minus_one = float(jnp.finfo(jnp.float32).epsneg) - 1.0  # the inverse of erf is finite
    # One call for all parameters of the tower; see the head of the file for the time that it saves.
    stream = jax.random.uniform(key, (sum(counts),), minval=above_minus_one, maxval=1.0)
    leaves, end = [], 0
    for variable, count in zip(variables, counts, strict=True):
        begin, end = end, end + count
        leaves.append(_fill(variable, stream[begin:end]))
    return nnx.to_pure_dict(jax.tree.unflatten(tree, leaves))


def _param(shape: tuple[int, ...], start: Start) -> nnx.Param:
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), start=start)


def _fill(variable: nnx.Param, numbers: Array) -> Array:
    start = variable.start
    if start.form == "constant":
        return jnp.full(variable.shape, start.size, jnp.float32)
    if start.form == "normal":
        # sqrt(2) erfinv(u) of a uniform u in (-1, 1) is a standard normal.
        numbers = math.sqrt(2.0) * jax.lax.erf_inv(numbers)
    if start.form == "truncated":
        within = math.erf(math.sqrt(2.0))  # the share of a normal within two deviations
        # u within (-within, within) gives the normal cut at two deviations.
        numbers = math.sqrt(2.0) * jax.lax.erf_inv(within * numbers) / _DEVIATION_WHEN_CUT
    return (start.size * numbers).reshape(variable.shape)
