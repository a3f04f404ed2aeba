"""The fold visits every device's rows once, brings things home, and keeps no logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bias_clip.losses import fold_blocks, sigmoid_loss, softmax_loss, weighted_mean
from bias_clip.losses._blocks import fold_blocks_both, row_numbers
from tests.losses import cases


def _spread(fn, mesh_name, *args):
    mesh = cases.make_mesh(mesh_name)
    axis = tuple(mesh.axis_names)
    mapped = jax.shard_map(lambda *x: fn(axis, *x), mesh=mesh, in_specs=P(axis), out_specs=P(axis))
    return cases.compiled(mapped)(*args)


def _count(seen, number):
    """Adds one to every row number that comes by; number 0 is a filled-up row."""
    return seen + jax.nn.one_hot(number - 1, seen.shape[1]).sum(0)


# Of 24 rows on 8 devices 6 is two blocks per turn, 12 four, None all of them.
CHUNKS = [None, 2, 6, 12]


@pytest.mark.parametrize("mesh", cases.MESHES)
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_every_device_sees_every_row_once(mesh, chunk_size):
    def visit(axis, x):
        number = row_numbers(len(x), axis)
        seen = jnp.zeros((len(x), 24)) + 0 * x[:, None]
        return fold_blocks(_count, seen, number, axis, chunk_size=chunk_size)

    np.testing.assert_array_equal(_spread(visit, mesh, jnp.zeros(24)), np.ones((24, 24)))


@pytest.mark.parametrize("mesh", cases.MESHES)
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_the_blocks_statistic_comes_home(mesh, chunk_size):
    """Every device adds (its rows' numbers) x (a row's number); all must land at that row."""

    def visit(axis, x):
        mine = row_numbers(len(x), axis).sum()

        def step(carry, number, block_carry):
            return carry, block_carry + mine * number

        number = row_numbers(len(x), axis)
        return fold_blocks_both(step, x, number, x, axis, join=jnp.add, chunk_size=chunk_size)[1]

    got = _spread(visit, mesh, jnp.zeros(24))
    np.testing.assert_array_equal(got, 300 * np.arange(1, 25))


@pytest.mark.parametrize(("rows", "turns"), [(64, 1), (256, 2), (512, 4), (1024, 8), (4096, 8)])
def test_small_blocks_go_round_together(rows, turns):
    def walk(x):
        return fold_blocks(lambda seen, x: seen + x.sum(), 0 * x.sum(), x, "data")[None]

    mesh = cases.make_mesh("8")
    mapped = jax.shard_map(walk, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    traced = jax.make_jaxpr(mapped)
    assert f"length={turns}" in str(traced(jnp.zeros(8 * rows)))


def test_one_device_without_chunks_is_the_step_itself():
    traced = jax.make_jaxpr(lambda c, x: fold_blocks(lambda c, x: c + x.sum(), c, x))
    plain = jax.make_jaxpr(lambda c, x: c + x.sum())
    assert str(traced(1.0, jnp.ones(4))) == str(plain(1.0, jnp.ones(4)))


@pytest.mark.parametrize("chunk_size", [0, -3])
def test_chunk_size_must_be_positive(chunk_size):
    with pytest.raises(ValueError, match=f"chunk_size: got {chunk_size}, expected a positive"):
        fold_blocks(lambda c, x: c, 0.0, jnp.ones(4), chunk_size=chunk_size)


LOSSES = {
    "sigmoid": lambda zi, zt, **kw: sigmoid_loss(zi, zt, scale=10.0, bias=-10.0, **kw),
    "softmax": lambda zi, zt, **kw: softmax_loss(zi, zt, scale=10.0, **kw),
}


def _temporaries(loss, rows, **options):
    def total(zi, zt):
        return weighted_mean(loss(zi, zt, **options))

    z = jax.ShapeDtypeStruct((rows, 8), jnp.float32)
    compiled = jax.jit(jax.grad(total, (0, 1))).lower(z, z).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_chunks_bound_the_memory(loss):
    rows = 2048
    logits = 4 * rows * rows
    assert _temporaries(loss, rows) > logits
    # A chunk's logits a few times, and one running statistic per chunk: far from all logits.
    assert _temporaries(loss, rows, chunk_size=64) < logits / 4


def _matmuls(jaxpr, rank=2):
    """Counts products of two matrices in a traced function, scans and remat included once."""
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general" and eqn.outvars[0].aval.ndim == rank:
            count += 1
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            count += _matmuls(inner) if hasattr(inner, "eqns") else 0
    return count


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_logits_are_computed_once(loss, chunk_size):
    z = jnp.eye(8)
    traced = jax.make_jaxpr(lambda zi, zt: loss(zi, zt, chunk_size=chunk_size))(z, z)
    assert _matmuls(traced.jaxpr) == 1
    assert ("scan" in str(traced)) == (chunk_size is not None)


def test_weighted_mean_leaves_out_rows_of_zero_weight_and_survives_no_rows():
    values = jnp.array([1.0, jnp.inf, 5.0])
    assert weighted_mean(values, jnp.array([3.0, 0.0, 1.0])) == 2.0
    value, grad = jax.value_and_grad(weighted_mean)(jnp.ones(3), jnp.zeros(3))
    assert value == 0.0
    np.testing.assert_array_equal(grad, np.zeros(3))


def test_weighted_mean_divides_by_rows_of_all_devices():
    """Unequal sums of weights per device: an average of averages would be wrong."""
    values, weights = jnp.arange(24.0), jnp.arange(24.0) ** 2
    expected = (values * weights).sum() / weights.sum()
    got = _spread(lambda axis, v, w: weighted_mean(v, w, axis)[None], "4x2", values, weights)
    np.testing.assert_allclose(got, np.full(8, expected), rtol=1e-6)
