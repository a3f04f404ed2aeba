"""The contract of the losses, for FairKL: one number, so there are no rows to compare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip.losses import fairkl
from tests.losses import cases, fairkl_cases
from tests.losses.cases import assert_close
from tests.losses.fairkl_cases import CASES, ROWS, make_inputs, value_and_grad

EVERY_DAY = ("kl-soft-across",)


def _parameter(name):
    marks = () if name in EVERY_DAY else pytest.mark.slow
    return pytest.param(CASES[name], id=name, marks=marks)


each_case = pytest.mark.parametrize("case", [_parameter(name) for name in CASES])


def test_every_form_and_argument_has_a_case():
    def form(case):
        return case.arguments["form"]

    assert {form(case) for case in CASES.values()} == {"kl", "jeffreys", "mean", "authors"}
    used = {name for case in CASES.values() for name in (*case.arrays, *case.arguments)}
    expected = set(fairkl.__annotations__) - {"return", "chunk_size", "axis_name"}
    assert used == expected | {"soft"}


@pytest.mark.slow
@each_case
@pytest.mark.parametrize("mesh", cases.MESHES)
def test_sharded_equals_dense(case, mesh, x64):
    assert_close(value_and_grad(case, mesh=mesh), value_and_grad(case))


@each_case
def test_sharded_in_chunks_equals_dense(case, x64):
    assert_close(value_and_grad(case, mesh="4x2", chunk_size=2), value_and_grad(case))


@pytest.mark.slow
@each_case
@pytest.mark.parametrize("chunk_size", [7, 8])  # of 24 rows
def test_chunked_equals_unchunked(case, chunk_size, x64):
    assert_close(value_and_grad(case, chunk_size=chunk_size), value_and_grad(case))


@each_case
def test_permuting_the_batch_permutes_the_gradient(case, x64):
    order = np.random.default_rng(3).permutation(ROWS)
    moved = {k: v[order] for k, v in make_inputs(case.arrays).items()}
    value, grad = value_and_grad(case)
    assert_close(value_and_grad(case, moved), (value, {k: v[order] for k, v in grad.items()}))


@each_case
def test_zero_weight_equals_row_removed(case, x64):
    inputs, keep = make_inputs(case.arrays), np.arange(ROWS) % 5 != 2
    zeroed = inputs | {"weights": inputs["weights"] * keep}
    value, grad = value_and_grad(case, zeroed)
    for name in set(grad) - {"weights"}:
        assert not np.any(grad[name][~keep]), name
    grad = {k: v[keep] for k, v in grad.items()}
    assert_close((value, grad), value_and_grad(case, {k: v[keep] for k, v in inputs.items()}))


@each_case
def test_constant_weights_equal_none(case, x64):
    inputs = make_inputs(case.arrays)
    value, grad = value_and_grad(case, inputs | {"weights": jnp.full(ROWS, 0.3)})
    grad.pop("weights")
    inputs.pop("weights")
    assert_close((value, grad), value_and_grad(case, inputs))


@pytest.mark.slow
@each_case
def test_bfloat16_is_finite_and_float32(case):
    inputs = make_inputs(case.arrays)
    half = {k: v.astype(jnp.bfloat16) if v.ndim == 2 else v for k, v in inputs.items()}
    value, grad = value_and_grad(case, half, chunk_size=5)
    assert value.dtype == jnp.float32
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(x).all() for x in grad.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", [_parameter("kl"), _parameter("authors")])
def test_jit_equals_eager(case, x64):
    assert_close(value_and_grad(case, jit=False), value_and_grad(case))


@pytest.mark.slow
@each_case
def test_vmap_equals_a_loop(case, x64):
    batches = [make_inputs(case.arrays, seed=seed) for seed in (1, 2)]
    stacked = {k: jnp.stack([batch[k] for batch in batches]) for k in batches[0]}
    got = cases.compiled(jax.vmap(lambda x: fairkl_cases.value(case, x, chunk_size=7)))(stacked)
    assert_close(got, np.stack([value_and_grad(case, batch)[0] for batch in batches]))


@each_case
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_strict_dtype_promotion(case, chunk_size):
    """Only traced: a forbidden promotion is an error of the trace."""
    inputs = make_inputs(case.arrays)
    half = {k: v.astype(jnp.bfloat16) if v.ndim == 2 else v for k, v in inputs.items()}

    def total(inputs):
        return fairkl_cases.value(case, inputs, chunk_size=chunk_size)

    with jax.numpy_dtype_promotion("strict"):
        jax.make_jaxpr(jax.grad(total, allow_int=True))(half)


EDGES = {  # labels, bias labels
    "one row": ([0], [0]),
    "one class": ([0] * 6, [0, 1] * 3),
    "no conflicting pair": ([0, 0, 0, 1, 1, 1], [0] * 6),
    "no aligned pair": ([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5]),
    "one pair of a kind": ([0, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4]),
    "all unknown": ([-1] * 6, [-1] * 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("form", ["kl", "jeffreys", "mean", "authors"])
def test_edge_batches_have_finite_values_and_gradients(form, edge):
    """Random embeddings and collapsed ones; a side without both groups contributes nothing."""
    labels, bias = (jnp.array(x) for x in EDGES[edge])
    run = cases.compiled(jax.value_and_grad(lambda z: fairkl(z, labels, bias, form=form)))
    for z in (make_inputs(("z",))["z"][: len(labels)], jnp.eye(5)[jnp.zeros(len(labels), int)]):
        value, grad = run(z)
        assert jnp.isfinite(value)
        assert jnp.isfinite(grad).all()
        if form != "authors" and edge != "one class":
            assert value == 0


@pytest.mark.parametrize("soft", [[[1.0, 0.0]] * 6, [[0.5, 0.5]] * 6, [[0.0, 0.0]] * 6])
def test_edges_of_soft_bias_labels_are_finite(soft):
    labels, z = jnp.array([0, 0, 0, 1, 1, 1]), make_inputs(("z",))["z"][:6]
    value, grad = cases.compiled(
        jax.value_and_grad(lambda z, p: fairkl(z, labels, p), argnums=(0, 1))
    )(z, jnp.array(soft))
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(x).all() for x in grad)
