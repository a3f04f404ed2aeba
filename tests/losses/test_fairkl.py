"""What FairKL owes: it is one number, so the contract of rows does not apply."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from bias_clip.losses import fairkl
from tests.losses import cases
from tests.losses.cases import assert_close, compiled

ROWS = 24
FORMS = ("kl", "jeffreys", "mean", "authors")


def _inputs(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "z": jnp.asarray(cases.ROWS["z"](rng, ROWS)),
        "z_other": jnp.asarray(cases.ROWS["z"](rng, ROWS)),
        "weights": jnp.asarray(rng.uniform(0.2, 2, ROWS)),
        "labels": jnp.asarray(rng.integers(-1, 3, ROWS)),
        "bias_labels": jnp.asarray(rng.integers(-1, 2, ROWS)),
    }


def _value_and_grad(inputs, form, mesh=None, chunk_size=None):
    floats = {k: v for k, v in inputs.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    ids = {k: v for k, v in inputs.items() if k not in floats}
    axes = cases.MESHES[mesh][1] if mesh else None

    def total(floats, ids):
        return fairkl(**floats, **ids, form=form, chunk_size=chunk_size, axis_name=axes)

    if mesh:
        total = jax.shard_map(total, mesh=cases.make_mesh(mesh), in_specs=P(axes), out_specs=P())
    return compiled(jax.value_and_grad(total))(floats, ids)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["kl", "authors"])  # with and without own pairs
def test_sharded_and_in_chunks_equals_dense(form, x64):
    dense = _value_and_grad(_inputs(), form)
    assert_close(_value_and_grad(_inputs(), form, "4x2", 2), dense)
    assert_close(_value_and_grad(_inputs(), form, chunk_size=7), dense)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1", "2", "8"])
def test_sharded_equals_dense(mesh, x64):
    inputs = _inputs()
    del inputs["z_other"], inputs["weights"]
    assert_close(_value_and_grad(inputs, "kl", mesh), _value_and_grad(inputs, "kl"))


@pytest.mark.parametrize("form", ["kl", "mean"])
def test_zero_weight_equals_row_removed(form, x64):
    inputs, keep = _inputs(), np.arange(ROWS) % 5 != 2
    zeroed = inputs | {"weights": inputs["weights"] * keep}
    value, grad = _value_and_grad(zeroed, form)
    grad = {k: v[keep] for k, v in grad.items()}
    removed = _value_and_grad({k: v[keep] for k, v in inputs.items()}, form)
    assert_close((value, grad), removed)


def _by_hand(d, group):
    """Mean and unbiased variance of the distances of a group of ordered pairs."""
    return d[group].mean(), d[group].var(ddof=1)


def test_the_formula_by_hand_within_and_across_towers(x64):
    """With unknown ids, which are in no pair; across towers a row's own pair is one of them."""
    inputs = _inputs()
    labels, bias = np.asarray(inputs["labels"]), np.asarray(inputs["bias_labels"])
    known = ((labels >= 0) & (bias >= 0))[:, None] & ((labels >= 0) & (bias >= 0))
    same, aligned = labels[:, None] == labels, bias[:, None] == bias
    for other, pairs in ((inputs["z_other"], known), (None, known & ~np.eye(ROWS, dtype=bool))):
        second = inputs["z"] if other is None else other
        d = np.square(np.asarray(inputs["z"])[:, None] - np.asarray(second)).sum(-1)
        expected = 0
        for side in (same, ~same):
            (m, v), (n, w) = (_by_hand(d, pairs & side & a) for a in (aligned, ~aligned))
            expected += ((v + (m - n) ** 2) / w - np.log(v / w) - 1) / 2
        ids = inputs["labels"], inputs["bias_labels"]
        assert_close(fairkl(inputs["z"], *ids, z_other=other), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(2)), st.permutations(range(3)))
def test_only_equality_of_labels_counts(seed, bias_names, label_names):
    inputs = _inputs(seed)
    labels, bias = jnp.abs(inputs["labels"]), jnp.abs(inputs["bias_labels"])
    renamed = jnp.array(label_names)[labels], jnp.array(bias_names)[bias]
    got = fairkl(inputs["z"], *renamed)
    np.testing.assert_allclose(got, fairkl(inputs["z"], labels, bias), rtol=1e-4, atol=1e-6)


def test_kl_does_not_change_with_the_unit_of_distance(x64):
    inputs = _inputs()
    ids = inputs["labels"], inputs["bias_labels"]
    once = fairkl(inputs["z"], *ids, z_other=inputs["z_other"])
    assert_close(fairkl(inputs["z"], *ids, z_other=3 * inputs["z_other"]), once)


@pytest.mark.parametrize("form", ["kl", "jeffreys", "mean"])
def test_zero_where_bias_makes_no_difference(form, x64):
    """Two copies of the embeddings, of opposite bias: both groups hold the same distances.

    Across towers, as within one a row has no pair with itself but one with its copy.
    """
    inputs = _inputs()
    half = jnp.abs(inputs["labels"][:12])
    z, other = (jnp.tile(inputs[name][:12], (2, 1)) for name in ("z", "z_other"))
    ids = jnp.tile(half, 2), jnp.repeat(jnp.arange(2), 12)
    value, grad = jax.value_and_grad(lambda z: fairkl(z, *ids, form=form, z_other=other))(z)
    assert_close((value, grad), (0.0, np.zeros(grad.shape)))


def test_certain_probabilities_equal_hard_labels(x64):
    inputs = _inputs()
    bias = jnp.abs(inputs["bias_labels"])
    hard = inputs | {"bias_labels": bias}
    soft = inputs | {"bias_labels": jax.nn.one_hot(bias, 2, dtype=jnp.float64)}
    value, grad = _value_and_grad(soft, "kl")
    grad.pop("bias_labels")
    assert_close((value, grad), _value_and_grad(hard, "kl"))


EDGES = {
    "one row": ([0], [0]),
    "one class": ([0] * 6, [0, 1] * 3),
    "no conflicting pair": ([0, 0, 0, 1, 1, 1], [0] * 6),
    "one pair of a kind": ([0, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4]),
    "all unknown": ([-1] * 6, [-1] * 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("form", FORMS)
def test_edge_batches_have_finite_values_and_gradients(form, edge):
    labels, bias = (jnp.array(x) for x in EDGES[edge])
    for z in (_inputs()["z"][: len(labels)], jnp.eye(5)[jnp.zeros(len(labels), int)]):
        value, grad = jax.value_and_grad(lambda z: fairkl(z, labels, bias, form=form))(z)
        assert jnp.isfinite(value)
        assert jnp.isfinite(grad).all()
        if form != "authors" and edge != "one class":
            assert value == 0


def test_bfloat16_strict_promotion_and_no_square_matrix():
    inputs = _inputs()
    z = inputs["z"].astype(jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        value = fairkl(z, inputs["labels"], inputs["bias_labels"])
    assert value.dtype == jnp.float32
    rows = 4096
    shapes = [jax.ShapeDtypeStruct((rows, 8), jnp.float32)]
    shapes += [jax.ShapeDtypeStruct((rows,), jnp.int32)] * 2
    lowered = jax.jit(jax.grad(lambda *x: fairkl(*x, chunk_size=128))).lower(*shapes)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 4 * rows * rows / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "js"}, r"form: got 'js', expected one of 'kl', 'jeffreys', 'mean', 'authors'"),
        ({"labels": jnp.ones(ROWS)}, r"labels: got float\d\d\[24\], expected integer ids"),
        ({"bias_labels": jnp.ones(ROWS)}, r"bias_labels: got float\d\d\[24\], expected integer"),
        ({"z_other": jnp.ones((3, 5))}, r"z\[24, 5\], z_other\[3, 5\], expected one shape"),
        ({"weights": -jnp.ones(ROWS)}, r"weights: got -1.0 as smallest"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_says_what_was_got_and_expected(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        fairkl(**(_inputs() | change))
