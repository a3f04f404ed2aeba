"""Modules with random parameters drawn on the host, and calls that compile once."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def build(shapes, seed=0):
    """The `shapes` module with every parameter drawn anew, so that biases and scales count."""
    graph, state = nnx.split(shapes)
    return nnx.merge(graph, jax.tree.map(_drawer(seed), state))


def _drawer(seed):
    random = np.random.default_rng(seed)
    return lambda leaf: jnp.asarray(random.normal(0, 0.3, leaf.shape).astype(np.float32))


def normal(*shape, seed=1, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def pure(module):
    return nnx.to_pure_dict(nnx.state(module))


def call(module, *args, **fixed):
    graph, state = nnx.split(module)
    return jax.jit(lambda state, *args: nnx.merge(graph, state)(*args, **fixed))(state, *args)


def value_and_grads(module, *args):
    """A scalar of the module's result that weighs each entry differently, and all gradients."""
    graph, state = nnx.split(module)
    return scalar_and_grads(
        lambda p, *args: nnx.merge(graph, p)(*args), nnx.to_pure_dict(state), *args
    )


def scalar_and_grads(apply, *args):
    def scalar(*args):
        y = apply(*args)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    return jax.jit(jax.value_and_grad(scalar, argnums=tuple(range(len(args)))))(*args)


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)
