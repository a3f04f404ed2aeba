"""The blocks against flax's own layers, and the laws that scan and remat must keep."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from bias_clip.models import (
    activations,
    initializers,
    layers,
)
from bias_clip.models import (
    attention as attention_lib,
)
from bias_clip.models import (
    encoder as encoder_lib,
)
from tests.models.cases import (
    assert_close,
    build,
    call,
    normal,
    pure,
    scalar_and_grads,
    value_and_grads,
)

WIDTH, MLP, HEADS, LENGTH, DEPTH = 16, 24, 4, 5, 3


def attention():
    return build(attention_lib.Attention(WIDTH, HEADS))


def mix(module):
    """(parameters, queries, x) to attention, all as [b, l, d]."""
    graph, _ = nnx.split(module)

    def apply(p, q, x):
        rows = [y.reshape(-1, WIDTH) for y in (q, x)]
        return nnx.merge(graph, p)(*rows, num=len(x)).reshape(q.shape)

    return apply


def encoder(*, scan=True, remat="none"):
    sizes = {"width": WIDTH, "depth": DEPTH, "mlp_dim": MLP, "num_heads": HEADS}
    return build(encoder_lib.Encoder(**sizes, scan=scan, remat=remat))


def test_attention_is_flax_attention_in_value_and_gradient():
    ours, theirs = attention(), linen.MultiHeadDotProductAttention(num_heads=HEADS)
    q, x = normal(2, 2, WIDTH), normal(2, LENGTH, WIDTH, seed=2)
    expected = scalar_and_grads(
        lambda p, q, x: theirs.apply({"params": p}, q, x, x), pure(ours), q, x
    )
    mixed = scalar_and_grads(mix(ours), pure(ours), q, x)
    assert_close(mixed, expected)


def test_layer_norm_is_flax_layer_norm_in_value_and_gradient():
    ours = build(layers.LayerNorm(WIDTH))
    theirs = linen.LayerNorm(epsilon=1e-6, use_fast_variance=False)
    x = 3 * normal(2, LENGTH, WIDTH) + 1
    expected = scalar_and_grads(lambda p, x: theirs.apply({"params": p}, x), pure(ours), x)
    assert_close(value_and_grads(ours, x), expected)


def test_layer_norm_statistics_are_float32_whatever_comes_in():
    x = (200 + normal(LENGTH, WIDTH)).astype(jnp.bfloat16)
    graph, shapes = nnx.split(layers.LayerNorm(WIDTH))
    norm = nnx.merge(graph, initializers.draw(jax.random.key(0), shapes))
    y = call(norm, x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=0.02)  # bf16 has 8 bits


@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0])
def test_variance_in_one_pass_holds_at_large_means(mean):
    """Of rows with deviation 1; at 100 the numbers themselves are rounded to halves."""
    x = (mean + normal(64, 768)).astype(jnp.bfloat16)
    scale, bias = jnp.ones(768), jnp.zeros(768)
    wide = np.asarray(x, np.float64)
    exact = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    y = layers.layer_norm(x, scale, bias)
    # Of the largest, about 4: half a step of bfloat16 is 2^-7 there, and the variance's share 1e-3.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=0.02, rtol=0.005)


def test_a_row_of_equal_numbers_normalises_to_nearly_zero_in_one_pass():
    x = jnp.full((2, 768), 100.0, jnp.bfloat16)
    y = layers.layer_norm(x, jnp.ones(768), jnp.zeros(768))
    assert np.abs(np.asarray(y, np.float32)).max() < 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_gradient_is_the_sum_of_the_rows_in_float32(dtype):
    y, bias = normal(4_000, 6).astype(dtype), normal(6)
    weights = (normal(4_000, 6, seed=2) + 0.1).astype(dtype)

    def total(y, bias):
        return jnp.sum((weights * layers.add_bias(y, bias)).astype(jnp.float32))

    got = jax.grad(total, (0, 1))(y, bias)
    assert got[0].dtype == dtype
    assert got[1].dtype == jnp.float32
    np.testing.assert_array_equal(got[0], weights)
    np.testing.assert_allclose(got[1], np.asarray(weights, np.float64).sum(0), rtol=1e-5)


def test_flattened_kernel_has_the_gradient_of_its_shape():
    kernel, x = normal(6, 2, 3), normal(5, 6)
    grad = jax.grad(lambda k: jnp.sum(jnp.sin(x @ layers.flatten(k, 6))))(kernel)
    assert_close(grad, jax.grad(lambda k: jnp.sum(jnp.sin(x @ k.reshape(6, 6))))(kernel))


def test_softmax_is_float32_whatever_comes_in():
    ours = attention()
    q, x = normal(2, 2, WIDTH), normal(2, LENGTH, WIDTH, seed=2)
    q, x = q.astype(jnp.bfloat16), x.astype(jnp.bfloat16)
    y = mix(ours)(pure(ours), q, x)
    assert y.dtype == jnp.bfloat16
    exact = mix(ours)(pure(ours), q.astype(jnp.float32), x.astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, atol=0.05)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_are_their_formulas_with_their_gradients(name):
    x = jnp.asarray(np.concatenate([np.linspace(-6, 6, 97), [-1e4, 1e4]]), jnp.float32)
    formulas = {
        "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
        "gelu": functools.partial(jax.nn.gelu, approximate=False),
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    }

    def both(f):
        return jax.jit(lambda x: (f(x), jax.vmap(jax.grad(f))(x)))(x)

    assert_close(both(activations.activation_fn(name)), both(formulas[name]), atol=4e-6)


def test_epsilon_of_a_norm_is_the_one_given():
    x = 1e-3 * normal(LENGTH, WIDTH)
    for epsilon in (1e-5, 1e-6):
        theirs = linen.LayerNorm(epsilon=epsilon, use_fast_variance=False)
        ours = build(layers.LayerNorm(WIDTH, epsilon=epsilon))
        assert_close(call(ours, x), theirs.apply({"params": pure(ours)}, x))


def test_block_is_pre_norm_attention_then_mlp():
    block = build(encoder_lib.Block(WIDTH, MLP, HEADS))

    def by_hand(x):
        y = block.norm1(x)
        x = x + block.attention(y, y, num=2)
        hidden = jax.nn.gelu(block.mlp.fc1(block.norm2(x)), approximate=True)
        return x + block.mlp.fc2(hidden)

    x = normal(2 * LENGTH, WIDTH)
    y, statistics = call(block, x, layers.row_statistics(x), num=2)
    assert_close(y, jax.jit(by_hand)(x))
    assert_close(statistics, layers.row_statistics(y))


def test_encoder_does_not_know_the_order_of_tokens():
    order, ours, x = np.array([3, 0, 4, 1, 2]), encoder(), normal(2, LENGTH, WIDTH)
    assert_close(call(ours, x[:, order]), call(ours, x)[:, order])


def test_map_head_does_not_know_the_order_of_tokens_but_their_content():
    head = build(encoder_lib.MapHead(WIDTH, MLP, HEADS))
    x = normal(2, LENGTH, WIDTH)
    y = call(head, x)
    assert_close(call(head, x[:, ::-1]), y)
    assert np.abs(call(head, x.at[:, 1].multiply(2.0)) - y).max() > 1e-2


@functools.cache
def unrolled():
    return value_and_grads(encoder(scan=False), normal(2, LENGTH, WIDTH))


@pytest.mark.parametrize("remat", encoder_lib.REMAT_POLICIES)
@pytest.mark.parametrize("scan", [True, False])
def test_scan_and_remat_change_neither_value_nor_gradient(scan, remat):
    got = value_and_grads(encoder(scan=scan, remat=remat), normal(2, LENGTH, WIDTH))
    assert_close(got, unrolled(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scan", [True, False])
def test_remat_policies_keep_less_and_less(scan):
    def kept(remat):
        graph, state = nnx.split(encoder(scan=scan, remat=remat))

        def backward(state, x):
            return jax.vjp(lambda state, x: nnx.merge(graph, state)(x), state, x)[1]

        residuals = jax.eval_shape(backward, state, normal(2, LENGTH, WIDTH))
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    sizes = [kept(remat) for remat in encoder_lib.REMAT_POLICIES]
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize(
    ("dtype", "scan", "times"),
    [("bfloat16", False, 2), ("float32", False, 1), ("bfloat16", True, 1)],
)
def test_unrolled_in_bfloat16_the_backward_pass_makes_its_own_tanh(dtype, scan, times):
    """In the compiled program, too: without a barrier XLA finds that both are one, and keeps it."""
    graph, state = nnx.split(encoder(scan=scan))
    grad = jax.grad(lambda state, x: jnp.sum(jnp.sin(nnx.merge(graph, state)(x))))
    text = jax.jit(grad).lower(state, normal(2, LENGTH, WIDTH).astype(dtype)).compile().as_text()
    assert len(re.findall(r" tanh\(", text)) == times * (1 if scan else DEPTH)


def test_unrolled_in_bfloat16_gives_the_gradients_of_a_scan():
    x = normal(2, LENGTH, WIDTH).astype(jnp.bfloat16)

    def grads(scan):
        graph, state = nnx.split(encoder(scan=scan))
        return jax.jit(jax.grad(lambda s: jnp.sum(jnp.sin(nnx.merge(graph, s)(x)))))(state)

    for one, other in zip(*map(jax.tree.leaves, (grads(True), grads(False))), strict=True):
        assert np.linalg.norm(one - other) < 0.05 * np.linalg.norm(other) + 0.05


def test_every_layer_counts_and_in_order():
    ours = encoder()
    graph, stacked = nnx.split(ours.blocks)

    def by_hand(x):
        x = x.reshape(-1, WIDTH)
        for i in range(DEPTH):
            block = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
            x, _ = block(x, layers.row_statistics(x), num=2)
        return ours.norm(x).reshape(2, -1, WIDTH)

    x = normal(2, LENGTH, WIDTH)
    assert_close(call(ours, x), jax.jit(by_hand)(x))


@functools.cache
def started():
    class Parts(nnx.Module):
        def __init__(self):
            self.block = encoder_lib.Block(64, 256, 4, stack=(8,))
            self.head = encoder_lib.MapHead(64, 256, 4)
            self.positions = layers.positions(50, 64)
            self.last = layers.head(64, 100)

    parts = jax.jit(lambda key: initializers.draw(key, nnx.state(Parts())))(jax.random.key(0))
    return jax.tree.map(np.asarray, parts)


@pytest.mark.parametrize("name", ["query", "out"])
def test_attention_starts_glorot_over_the_flattened_heads_of_each_layer(name):
    kernel = started()["block"]["attention"][name]["kernel"]
    bound = np.sqrt(6 / (64 + 64))
    assert np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(axis=(1, 2, 3)), bound / np.sqrt(3), rtol=0.05)
    assert np.abs(kernel[0] - kernel[1]).max() > bound / 2  # layers start apart
    assert not np.any(started()["block"]["attention"][name]["bias"])


def test_mlp_norm_probe_and_positions_start_as_in_siglip():
    block, head, table, last = (started()[name] for name in ("block", "head", "positions", "last"))
    bound = np.sqrt(6 / (64 + 256))
    assert 0.95 * bound < np.abs(block["mlp"]["fc1"]["kernel"]).max() <= bound
    np.testing.assert_allclose(np.std(block["mlp"]["fc2"]["bias"]), 1e-6, rtol=0.2)
    assert np.all(block["norm1"]["scale"] == 1)
    assert not np.any(block["norm1"]["bias"])
    assert np.sqrt(6 / 65) * 0.8 < np.abs(head["probe"]).max() <= np.sqrt(6 / 65)
    np.testing.assert_allclose(np.std(table), 1 / np.sqrt(64), rtol=0.05)
    np.testing.assert_allclose(np.std(last["kernel"]), 1 / np.sqrt(64), rtol=0.05)
    assert np.abs(last["kernel"]).max() <= 2 / 0.8796 / np.sqrt(64)  # cut at two deviations
    assert 3 / np.sqrt(64) < np.abs(table).max()  # not cut


@pytest.mark.parametrize("scan", [True, False])
def test_statistics_of_norms_are_not_made_again_in_the_backward_pass(scan):
    def roots(remat):
        graph, state = nnx.split(encoder(scan=scan, remat=remat))
        grad = jax.grad(lambda state, x: nnx.merge(graph, state)(x).sum())
        return str(jax.make_jaxpr(grad)(state, normal(2, LENGTH, WIDTH))).count(" rsqrt ")

    assert roots("full") == roots("dots") == roots("none") > 2


def test_unknown_policy_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'some'.*none, minimal, dots, full"):
        encoder(remat="some")


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 16, num_heads 3"):
        attention_lib.Attention(16, 3)
