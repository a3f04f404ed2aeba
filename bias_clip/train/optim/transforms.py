"""Transforms of gradients to update directions: Adafactor, Adam, Lion, Muon, momentum.

Each is `f(params, stacked, *, ...) -> optax.GradientTransformation`. Both trees may have
`optax.MaskedNode`s in place of parameters that are not trained. `stacked` is True for leaves whose
first axis counts layers: such a leaf is treated as one parameter per layer.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from bias_clip.core.registry import call_by_name
from bias_clip.train.sharding import path_name

KERNEL = "(^|/)kernel$"
"""Occurs in the paths of weight matrices, and in no other path."""


def make_transform(
    params: PyTree, stacked: PyTree, *, name: str, **arguments: Any
) -> optax.GradientTransformation:
    """Calls one of `TRANSFORMS`.

    Raises:
      ValueError: an unknown name or argument; lists the valid ones.
    """
    return call_by_name("optimiser", TRANSFORMS, name, arguments, params, stacked)


def adafactor(
    params: PyTree,
    stacked: PyTree,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    exponent: float = 0.8,
    min_size: int = 32,
    eps: float = 1e-30,
    mu_dtype: str = "bfloat16",
) -> optax.GradientTransformation:
    """Adafactor as in the ViT recipes: only a factored second moment and a plain first moment.

        v = beta * v + (1 - beta) * (g^2 + eps),  beta = min(b2, 1 - (step + 1)^-exponent)
        m = b1 * m + (1 - b1) * g / sqrt(v);  the update is m

    v is kept as its row and column means over the two largest axes when both have at least `min_size`
    entries. m starts at zero without bias correction, so the first steps are short; it is stored in
    `mu_dtype`. Updates are not clipped, and not scaled by the size of the parameter.

    Reference: Shazeer and Stern, Adafactor, 2018; Zhai et al., Scaling Vision Transformers, 2022,
    section 3.4.
    **Differs from the authors' code:** their default cap b2 is 0.999, though the papers use 0.95; and
    here layers that are stacked along a first axis never share a factor.
    """
    # Every transform has one signature; this one does not need the parameters.
    del params
    _check_shares(b1=b1, b2=b2)
    _check_positive(exponent=exponent, min_size=min_size, eps=eps)

    def beta(step, exponent):
        # step + 1: at step 0 the exponent gives 0, so that the first gradient alone is the average.
        return jnp.minimum(b2, 1.0 - (step + 1.0) ** -exponent)

    rms = optax.scale_by_factored_rms(
        decay_rate=exponent, min_dim_size_to_factor=min_size, epsilon=eps, decay_rate_fn=beta
    )
    # No bias correction, as in the ViT recipes; see above what it does to the first steps.
    momentum = optax.ema(b1, debias=False, accumulator_dtype=_dtype(mu_dtype))
    return optax.chain(_layer_by_layer(rms, stacked), momentum)


def adamw(
    params: PyTree,
    stacked: PyTree,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Adam; the decay of AdamW is in the chain. b2 is 0.95, as in SigLIP, not the usual 0.999."""
    del params, stacked
    _check_shares(b1=b1, b2=b2)
    _check_positive(eps=eps)
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=_dtype(mu_dtype))


def lion(
    params: PyTree,
    stacked: PyTree,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    mu_dtype: str = "bfloat16",
) -> optax.GradientTransformation:
    """Lion: the sign of an interpolated momentum. Takes an lr about ten times smaller than Adam's."""
    del params, stacked
    _check_shares(b1=b1, b2=b2)
    return optax.scale_by_lion(b1=b1, b2=b2, mu_dtype=_dtype(mu_dtype))


def sgd(
    params: PyTree, stacked: PyTree, *, momentum: float = 0.9, mu_dtype: str = "float32"
) -> optax.GradientTransformation:
    """Gradient descent with heavy-ball momentum, `m = momentum * m + g`."""
    del params, stacked
    _check_shares(momentum=momentum)
    if not momentum:
        return optax.identity()
    return optax.trace(momentum, accumulator_dtype=_dtype(mu_dtype))


def muon(
    params: PyTree,
    stacked: PyTree,
    *,
    momentum: float = 0.95,
    num_iterations: int = 5,
    rms: float | None = 0.2,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Muon for weight matrices: Nesterov momentum, orthogonalised; Adam for everything else.

    A leaf is a matrix if it is called "kernel" and has two axes, not counting the axis of `stacked`.
    A kernel of more axes is one if a neighbour "bias" says which of them are outputs:
    `[width, heads, head_dim]` has `width` rows, `[patch, patch, 3, width]` has `width` columns.

    Args:
      params, stacked: trees of shapes and of booleans.
      momentum: of the average that is orthogonalised.
      num_iterations: of the Newton-Schulz method.
      rms: scales an update by `rms * sqrt(max(inputs, outputs))`, so that its entries are as large as
        Adam's and one lr serves both. None: by `sqrt(max(1, outputs / inputs))`, as Jordan does.
      b1, b2, eps: of Adam; eps of Muon too.
      mu_dtype: of both first moments.

    Reference: Jordan et al., Muon, 2024; Liu et al., Muon is Scalable for LLM Training, 2025.
    """
    _check_shares(momentum=momentum, b1=b1, b2=b2)
    _check_positive(num_iterations=num_iterations, rms=rms, eps=eps)
    axes = _matrix_axes(params, stacked)
    shapes = {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}

    def matrices(value: Callable[[str], Any]) -> PyTree:  # other leaves become nodes without leaves
        return jax.tree_util.tree_map_with_path(
            lambda path, _: (
                value(path_name(path)) if path_name(path) in axes else optax.MaskedNode()
            ),
            params,
        )

    def size(name: str) -> float:
        fan_in, fan_out = (math.prod(shapes[name][i] for i in group) for group in axes[name])
        # Without `rms` the factor of Muon's authors, sqrt(max(1, outputs / inputs)). With it the update's root
        # mean square is `rms`, like Adam's, so one lr serves both.
        return math.sqrt(max(1, fan_out / fan_in) if rms is None else rms**2 * max(fan_in, fan_out))

    dtype = _dtype(mu_dtype)
    orthogonal = optax.contrib.scale_by_muon(
        ns_steps=num_iterations,
        beta=momentum,
        eps=eps,
        mu_dtype=dtype,
        weight_dimension_numbers=matrices(axes.__getitem__),
    )
    return optax.partition(
        {
            "muon": optax.chain(orthogonal, scale_leaves(matrices(size))),
            "adam": optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=dtype),
        },
        jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if path_name(path) in axes else "adam", params
        ),
    )


TRANSFORMS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adafactor": adafactor,
    "adamw": adamw,
    "lion": lion,
    "muon": muon,
    "sgd": sgd,
}
"""Name to `f(params, stacked, *, ...)`; the keyword arguments are those of `make_optimizer`."""


def _layer_by_layer(
    rms: optax.GradientTransformation, stacked: PyTree
) -> optax.GradientTransformation:
    """Applies `rms`, an `optax.scale_by_factored_rms`, to each layer of a stacked leaf by itself."""
    # All layers share one count, so it has no axis; the moments have one per layer.
    axes = optax.FactoredState(count=None, v_row=0, v_col=0, v=0)

    def init(params):
        states = jax.tree.map(
            lambda p, s: (jax.vmap(rms.init, out_axes=axes) if s else rms.init)(p), params, stacked
        )
        return _unzip(states, params, axes._replace(count=0))._replace(
            count=jnp.zeros((), jnp.int32)
        )

    def update(grads, state, params=None):
        # Layers are mapped over, the count is not: all layers are at the same step.
        one = jax.vmap(rms.update, in_axes=(0, axes, 0), out_axes=(0, axes))

        def leaf(grad, v_row, v_col, v, param, s):
            inner = optax.FactoredState(state.count, v_row, v_col, v)
            return (one if s else rms.update)(grad, inner, param)

        pairs = jax.tree.map(leaf, grads, state.v_row, state.v_col, state.v, params, stacked)
        updates, states = _unzip(pairs, grads, (0, axes._replace(count=0)))
        return updates, states._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _unzip(tree: PyTree, outer: PyTree, inner: Any) -> Any:
    """Transposes a tree like `outer` of nodes like `inner` into an `inner` of trees like `outer`."""
    return jax.tree.transpose(jax.tree.structure(outer), jax.tree.structure(inner), tree)


def _matrix_axes(params: PyTree, stacked: PyTree) -> dict[str, optax.contrib.MuonDimensionNumbers]:
    """Input and output axes of every leaf that Muon takes, by path."""
    # A stacked leaf has the axis of layers besides those of its matrix.
    ranks = jax.tree.map(lambda x, s: x.ndim - s, params, stacked)
    rank = {path_name(path): r for path, r in jax.tree_util.tree_leaves_with_path(ranks)}
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(path)
        # The bias of a layer has the axes of its outputs, so its rank tells how many of the kernel's are.
        outputs = rank.get(re.sub("kernel$", "bias", name), 1 if rank[name] == 2 else 0)
        if re.search(KERNEL, name) and 0 < outputs < rank[name]:
            axes = range(leaf.ndim - rank[name], leaf.ndim)
            # Counted from the end, so that the axis of layers stays outside.
            found[name] = optax.contrib.MuonDimensionNumbers(
                reduction_axis=tuple(axes[:-outputs]), output_axis=tuple(axes[-outputs:])
            )
    return found


def scale_leaves(mults: PyTree) -> optax.GradientTransformation:
    """Multiplies each update by its own static number."""

    def scale(updates, params):
        del params
        # A factor of 1 would still be a multiplication in the compiled step, over every parameter.
        return jax.tree.map(lambda u, m: u if m == 1 else u * m, updates, mults)

    return optax.stateless(scale)


def _check_shares(**shares: float) -> None:
    """Of an average that moves: 1 would never move it, more would let it grow without end."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be in [0, 1), got {share}.")


def _check_positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive, got {number}.")


def _dtype(name: str) -> Any:
    valid = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if name not in valid:
        raise ValueError(f"mu_dtype must be one of {sorted(valid)}, got {name!r}.")
    return valid[name]
