"""The kernel for TPUs, interpreted: against attention as it is written in a book."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bias_clip.models import attention, encoder, pallas_attention
from bias_clip.plan.flops import count_flops
from bias_clip.train.sharding import BATCH_AXES, make_mesh
from tests.models.cases import assert_close, build, normal, scalar_and_grads, value_and_grads

# Examples, tokens, heads, numbers a head: one and several examples to a block, heads that fill a tile of
# 128 lanes and those that do not, examples that cannot be grouped.
SHAPES = [
    (4, 16, 2, 64),
    (4, 49, 2, 64),
    (8, 5, 3, 8),
    (3, 7, 4, 64),
    (2, 24, 16, 72),
    (1, 1, 1, 4),
]


def by_the_book(q, k, v, causal=False):
    scores = jnp.einsum("bqhk,blhk->bhql", q, k) / q.shape[-1] ** 0.5
    if causal:
        scores += jnp.triu(jnp.full(scores.shape[-2:], -jnp.inf), 1)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bhql,blhk->bqhk", weights, v)


def qkv(*shape, dtype=np.float32):
    return [normal(*shape, seed=seed).astype(dtype) for seed in range(3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_is_attention_in_value_and_gradient(shape):
    inputs = qkv(*shape)
    assert_close(
        scalar_and_grads(pallas_attention.attend, *inputs), scalar_and_grads(by_the_book, *inputs)
    )


def test_causal_kernel_is_causal_attention_in_value_and_gradient():
    for shape in ((4, 77, 2, 64), (8, 5, 3, 8)):
        inputs, same = qkv(*shape), {"causal": True}
        expected = scalar_and_grads(functools.partial(by_the_book, **same), *inputs)
        assert_close(
            scalar_and_grads(functools.partial(pallas_attention.attend, **same), *inputs), expected
        )
        plain = functools.partial(attention.attend, mask="causal")
        assert_close(scalar_and_grads(plain, *inputs), expected)


def test_kernel_in_bfloat16_is_as_near_as_bfloat16_allows():
    inputs = qkv(4, 49, 2, 64, dtype=jnp.bfloat16)
    exact = scalar_and_grads(by_the_book, *(x.astype(jnp.float32) for x in inputs))
    _, grads = scalar_and_grads(pallas_attention.attend, *inputs)
    for ours, theirs in zip(grads, exact[1], strict=True):
        assert ours.dtype == jnp.bfloat16
        difference = np.abs(np.asarray(ours, np.float32) - theirs)
        assert difference.max() < 0.01 * np.abs(theirs).max()  # 8 bits are 0.004


def test_large_scores_do_not_overflow():
    q, k, v = qkv(2, 8, 2, 16)
    grads = scalar_and_grads(pallas_attention.attend, 100 * q, 100 * k, v)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_each_device_takes_its_own_examples_and_heads(sizes):
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    inputs = qkv(8, 12, 4, 32)
    place = NamedSharding(mesh, PartitionSpec(BATCH_AXES, None, "tensor"))

    def attend(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return pallas_attention.attend(*args)

    spread = [jax.device_put(x, place) for x in inputs]
    assert_close(scalar_and_grads(attend, *spread), scalar_and_grads(by_the_book, *inputs))
    text = jax.jit(attend).lower(*spread).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_inside_shard_map_examples_are_the_devices_own_already():
    mesh = make_mesh(fsdp=2)
    inputs = qkv(8, 12, 2, 32)
    rows = PartitionSpec(BATCH_AXES)
    attend = jax.shard_map(
        pallas_attention.attend, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
    )
    assert_close(scalar_and_grads(attend, *inputs), scalar_and_grads(by_the_book, *inputs))


def test_an_example_is_never_cut():
    mesh = make_mesh()
    inputs = qkv(12, 4, 2, 32)  # 48 rows: six to a device, one example and a half
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        pytest.raises(ValueError, match=r"whole examples and heads .* 6 rows for examples of 4"),
    ):
        jax.eval_shape(pallas_attention.attend, *inputs)


def test_products_in_a_kernel_count_as_products():
    inputs = qkv(4, 49, 2, 64)
    expected = count_flops(by_the_book, *inputs)
    assert expected == 4 * 4 * 2 * 49 * 49 * 64
    assert count_flops(pallas_attention.attend, *inputs) == expected


@pytest.mark.parametrize("remat", encoder.REMAT_POLICIES)
def test_encoder_is_the_same_with_the_kernel(remat):
    def run(kind):
        sizes = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 4}
        ours = build(encoder.Encoder(**sizes, remat=remat, attention=kind))
        return value_and_grads(ours, normal(2, 5, 16))

    assert_close(run("pallas"), run("xla"), rtol=1e-4, atol=1e-4)
