"""The same train step written by hand in plain JAX: what the library costs beside code for one purpose.

No modules, no config, no checks, layers in a Python loop, the derivatives that JAX derives. Parameters are
a list of dicts; they start at random and are not those of the library, but there are as many of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

EPSILON = 1e-6


def make_bare(sizes: Any, inputs: tuple[np.ndarray, np.ndarray]) -> tuple[Callable[[], float], int]:
    """Returns a step on one fixed batch, and the number of parameters.

    Args:
      sizes: as `step.Sizes`.
      inputs: images and texts, from `step.make_inputs`.
    """
    params = jax.jit(functools.partial(_init, sizes=sizes))(jax.random.key(0))
    tx = optax.adamw(1e-3, b2=0.95)
    held = [params, jax.jit(tx.init)(params)]
    image, text = (jnp.asarray(x) for x in inputs)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, state, image, text):
        loss, grads = jax.value_and_grad(functools.partial(_loss, sizes=sizes))(params, image, text)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def step() -> float:
        held[0], held[1], loss = train_step(*held, image, text)
        return float(loss)

    return step, sum(x.size for x in jax.tree.leaves(params))


def _init(key: jax.Array, *, sizes: Any) -> dict[str, Any]:
    keys = iter(jax.random.split(key, 1000))
    width, hidden = sizes.width, 4 * sizes.width

    def linear(rows: int, columns: int) -> dict[str, jax.Array]:
        kernel = jax.random.normal(next(keys), (rows, columns)) * rows**-0.5
        return {"kernel": kernel, "bias": jnp.zeros(columns)}

    def norm() -> dict[str, jax.Array]:
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    def table(rows: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, width)) * width**-0.5

    def attention() -> dict[str, Any]:
        return {name: linear(width, width) for name in ("q", "k", "v", "out")}

    def mlp() -> dict[str, Any]:
        return {"fc1": linear(width, hidden), "fc2": linear(hidden, width)}

    def blocks() -> list[dict[str, Any]]:
        made = range(sizes.depth)
        return [attention() | mlp() | {"norm1": norm(), "norm2": norm()} for _ in made]

    patches = (sizes.size // sizes.patch) ** 2
    return {
        "patch": linear(3 * sizes.patch**2, width),
        "img_positions": table(patches),
        "img": blocks(),
        "img_norm": norm(),
        "map": attention() | mlp() | {"norm": norm(), "probe": table(1)},
        "tokens": table(sizes.vocab),
        "txt_positions": table(sizes.length),
        "txt": blocks(),
        "txt_norm": norm(),
        "head": linear(width, width),
        "log_scale": jnp.log(10.0),
        "bias": jnp.float32(-10.0),
    }


def _loss(params: Any, image: jax.Array, text: jax.Array, *, sizes: Any) -> jax.Array:
    b, side, patch = len(image), sizes.size // sizes.patch, sizes.patch
    x = image.reshape(b, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    x = _linear(params["patch"], x.reshape(b, side**2, -1).astype(sizes.dtype))
    x = x + params["img_positions"].astype(x.dtype)
    for block in params["img"]:
        x = _block(block, x, sizes.heads)
    x = _norm(params["img_norm"], x)
    head = params["map"]
    probe = jnp.broadcast_to(head["probe"].astype(x.dtype), (b, 1, sizes.width))
    y = _attention(head, probe, x, sizes.heads)[:, 0]
    zimg = y + _mlp(head, _norm(head["norm"], y))
    x = (params["tokens"][text] + params["txt_positions"]).astype(sizes.dtype)
    for block in params["txt"]:
        x = _block(block, x, sizes.heads)
    ztxt = _linear(params["head"], _norm(params["txt_norm"], x)[:, -1])
    zimg, ztxt = (_unit(z.astype(jnp.float32)) for z in (zimg, ztxt))
    logits = jnp.exp(params["log_scale"]) * zimg @ ztxt.T + params["bias"]
    return jax.nn.softplus(-(2 * jnp.eye(b) - 1) * logits).sum(axis=1).mean()


def _block(p: dict[str, Any], x: jax.Array, heads: int) -> jax.Array:
    y = _norm(p["norm1"], x)
    x = x + _attention(p, y, y, heads)
    return x + _mlp(p, _norm(p["norm2"], x))


def _attention(p: dict[str, Any], queries: jax.Array, x: jax.Array, heads: int) -> jax.Array:
    def split(y: jax.Array) -> jax.Array:
        return y.reshape(*y.shape[:2], heads, -1)

    q, k, v = split(_linear(p["q"], queries)), split(_linear(p["k"], x)), split(_linear(p["v"], x))
    y = jax.nn.dot_product_attention(q, k, v)
    return _linear(p["out"], y.reshape(*y.shape[:2], -1))


def _mlp(p: dict[str, Any], x: jax.Array) -> jax.Array:
    return _linear(p["fc2"], jax.nn.gelu(_linear(p["fc1"], x), approximate=True))


def _linear(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])  # one plain product, as the library has it
    y = rows @ p["kernel"].astype(x.dtype) + p["bias"].astype(x.dtype)
    return y.reshape(*x.shape[:-1], -1)


def _norm(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
    y = (wide - mean) * jax.lax.rsqrt(variance + EPSILON) * p["scale"] + p["bias"]
    return y.astype(x.dtype)


def _unit(z: jax.Array) -> jax.Array:
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)
