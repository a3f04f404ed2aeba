"""Counting arithmetic from the program itself."""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.sharding import PartitionSpec

from bias_clip.plan.flops import count_flops, peak_flops
from bias_clip.train.sharding import make_mesh


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_matrix_product_is_two_operations_per_multiply_add():
    assert count_flops(jnp.matmul, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7


def test_batched_product_counts_every_member():
    assert count_flops(jnp.matmul, shape(4, 3, 5), shape(4, 5, 7)) == 4 * 2 * 3 * 5 * 7


def test_scan_counts_its_body_once_per_iteration():
    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=6)[0]

    assert count_flops(repeated, shape(2, 4), shape(4, 4)) == 6 * 2 * 2 * 4 * 4


def test_jit_and_checkpoint_are_looked_into():
    def f(x):
        return jax.jit(jax.checkpoint(lambda x: x @ x))(x)

    assert count_flops(f, shape(4, 4)) == 2 * 4**3


def test_convolution_counts_kernel_times_outputs():
    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert count_flops(conv, shape(1, 8, 8, 3), shape(3, 3, 3, 5)) == 2 * (4 * 4 * 5) * (3 * 3 * 3)


def test_shard_map_counts_all_devices():
    rows = PartitionSpec("data")
    mesh = make_mesh()
    f = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows
    )
    assert count_flops(f, shape(16, 4), shape(4, 4)) == 2 * 16 * 4 * 4


def test_attention_of_cudnn_counts_both_products():
    """A stand-in, for cuDNN's own primitive asks for a GPU: its name and operands."""
    attention = Primitive("dot_product_attention_fwd_wrapper")
    attention.def_abstract_eval(lambda q, k, v: q)

    def written_out(q, k, v):
        return jnp.einsum("bhql,blhk->bqhk", jnp.einsum("bqhk,blhk->bhql", q, k), v)

    inputs = shape(2, 5, 4, 64), shape(2, 7, 4, 64), shape(2, 7, 4, 64)
    assert count_flops(attention.bind, *inputs) == count_flops(written_out, *inputs)


def test_a_cpu_has_no_peak():
    assert peak_flops() is None
