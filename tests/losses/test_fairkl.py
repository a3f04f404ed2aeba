"""Laws of FairKL: its formula, what it does not depend on, where it is zero, soft bias labels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.losses import fairkl
from tests.losses import fairkl_cases
from tests.losses.cases import assert_close, compiled
from tests.losses.fairkl_cases import CASES, ROWS, make_inputs, value_and_grad

few = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def _kl(m, v, n, w):
    return ((v + (m - n) ** 2) / w - np.log(v / w) - 1) / 2


def _moments(d, weights):
    """Weighted mean, and the variance that is unbiased for weights that count no pair twice."""
    total = weights.sum()
    mean = (weights * d).sum() / total
    return mean, (weights * (d - mean) ** 2).sum() / (total - (weights**2).sum() / total)


def _by_hand(inputs, form):
    """The formula on whole b x b matrices; across towers a row's own pair is one of them."""
    x = {name: np.asarray(value) for name, value in inputs.items()}
    other = x.get("z_other", x["z"])
    d = np.square(x["z"][:, None] - other).sum(-1)
    pairs = x["weights"][:, None] * x["weights"] * ("z_other" in x or ~np.eye(ROWS, dtype=bool))
    pairs = pairs * np.outer(x["labels"] >= 0, x["labels"] >= 0)
    if "soft" in x:
        aligned = x["soft"] @ x["soft"].T
    else:
        pairs = pairs * np.outer(x["bias_labels"] >= 0, x["bias_labels"] >= 0)
        aligned = x["bias_labels"][:, None] == x["bias_labels"]
    same, total = x["labels"][:, None] == x["labels"], 0
    for side in (pairs * same, pairs * ~same):
        (m, v), (n, w) = _moments(d, side * aligned), _moments(d, side * (1 - aligned))
        total += {
            "kl": _kl(m, v, n, w),
            "jeffreys": _kl(m, v, n, w) + _kl(n, w, m, v),
            "mean": (m - n) ** 2,
        }[form]
    return total


HAND = ("z", "labels", "weights")


@pytest.mark.parametrize("bias", ["bias_labels", "soft"])
@pytest.mark.parametrize("towers", [(), ("z_other",)], ids=["within", "across"])
@pytest.mark.parametrize("form", ["kl", pytest.param("jeffreys", marks=pytest.mark.slow), "mean"])
def test_the_formula_by_hand(form, towers, bias, x64):
    """Hard and soft bias labels, unknown ones among them, weighted rows, one tower and two."""
    case = fairkl_cases.Case((*HAND, bias, *towers), {"form": form})
    inputs = make_inputs(case.arrays)
    assert_close(value_and_grad(case, inputs)[0], _by_hand(inputs, form))


def test_certain_probabilities_equal_hard_labels(x64):
    case = CASES["kl"]
    inputs = make_inputs(case.arrays)
    bias = jnp.abs(inputs.pop("bias_labels"))
    value, grad = value_and_grad(case, inputs | {"soft": jax.nn.one_hot(bias, 2, dtype=float)})
    grad.pop("soft")
    assert_close((value, grad), value_and_grad(case, inputs | {"bias_labels": bias}))


def test_a_soft_label_counts_a_pair_as_often_as_draws_of_the_labels_would(x64):
    """Each group's mean is its sum over all draws of hard labels, by chance, over its count."""
    rows = 5
    p = np.random.default_rng(0).dirichlet(np.ones(2), rows)
    z = np.asarray(make_inputs(("z",), rows)["z"])
    d = np.square(z[:, None] - z).sum(-1)
    different, sums = ~np.eye(rows, dtype=bool), np.zeros((2, 2))
    for draw in itertools.product(range(2), repeat=rows):
        chance = np.prod(p[np.arange(rows), draw])
        aligned = np.equal.outer(draw, draw)
        for group, pairs in enumerate((aligned & different, ~aligned)):
            sums[group] += chance * np.array([(pairs * d).sum(), pairs.sum()])
    means = sums[:, 0] / sums[:, 1]
    got = compiled(lambda z, p: fairkl(z, jnp.zeros(rows, int), p, form="mean"))(z, p)
    assert_close(got, (means[0] - means[1]) ** 2)


def _program(form, transform=lambda f: f):
    """FairKL across towers from arrays, compiled once for all drawn examples."""
    return compiled(
        transform(lambda z, y, bias, other: fairkl(z, y, bias, form=form, z_other=other))
    )


KL, MEAN = _program("kl"), _program("mean")
GRADS = {form: _program(form, jax.value_and_grad) for form in ("kl", "jeffreys", "mean")}


@few
@given(seeds, st.permutations(range(3)), st.permutations(range(4)))
def test_only_equality_of_labels_counts(seed, bias_names, label_names):
    with jax.enable_x64(True):
        inputs = make_inputs(seed=seed)
        labels, bias = jnp.abs(inputs["labels"]), inputs["bias_labels"] + 1
        renamed = jnp.array(label_names)[labels], jnp.array(bias_names)[bias]
        got = KL(inputs["z"], *renamed, inputs["z_other"])
        assert_close(got, KL(inputs["z"], labels, bias, inputs["z_other"]))


@few
@given(seeds, st.floats(0.1, 10) | st.floats(-10, -0.1), st.floats(-5, 5))
def test_kl_does_not_change_with_the_unit_or_the_zero_of_distance(seed, unit, zero):
    """Longer embeddings stretch the similarities; one more dimension, the same in all, shifts."""
    with jax.enable_x64(True):
        inputs = make_inputs(seed=seed)
        z, other = inputs["z"], inputs["z_other"]
        ids, one = (inputs["labels"], inputs["bias_labels"]), jnp.ones((ROWS, 1))
        moved = jnp.hstack([unit * z, zero * one]), *ids, jnp.hstack([other, one])
        once = jnp.hstack([z, 0 * one]), *ids, jnp.hstack([other, 0 * one])
        assert_close(KL(*moved), KL(*once), rtol=1e-8)
        assert_close(MEAN(*moved), unit**2 * MEAN(*once), rtol=1e-8)


@few
@given(seeds, st.sampled_from(sorted(GRADS)))
def test_zero_where_bias_makes_no_difference(seed, form):
    """Two copies of the embeddings, of opposite bias: both groups hold the same distances.

    Across towers, as within one a row has no pair with itself but one with its copy.
    """
    with jax.enable_x64(True):
        inputs, half = make_inputs(seed=seed), ROWS // 2
        z, other = (jnp.tile(inputs[name][:half], (2, 1)) for name in ("z", "z_other"))
        labels = jnp.tile(jnp.abs(inputs["labels"][:half]), 2)
        value, grad = GRADS[form](z, labels, jnp.repeat(jnp.arange(2), half), other)
        assert_close((value, grad), (0.0, np.zeros(grad.shape)))


def test_no_square_matrix():
    rows = 4096
    shapes = [jax.ShapeDtypeStruct((rows, 8), jnp.float32)]
    shapes += [jax.ShapeDtypeStruct((rows,), jnp.int32)] * 2
    lowered = jax.jit(jax.grad(lambda *x: fairkl(*x, chunk_size=128))).lower(*shapes)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 4 * rows * rows / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "js"}, r"form: got 'js', expected one of 'kl', 'jeffreys', 'mean', 'authors'"),
        ({"z": jnp.ones(ROWS)}, r"z: got float\d\d\[24\], expected float embeddings"),
        ({"labels": None}, r"labels: got None, expected integer ids \[24\]"),
        ({"labels": jnp.ones(ROWS)}, r"labels: got float\d\d\[24\], expected integer ids"),
        ({"bias_labels": jnp.ones(ROWS)}, r"bias_labels: got float\d\d\[24\], expected integer"),
        ({"bias_labels": jnp.ones((3, 2))}, r"bias_labels: got float\d\d\[3, 2\], expected"),
        ({"bias_labels": jnp.ones((ROWS, 2))}, r"rows that sum up to 2.0, expected probabilities"),
        ({"bias_labels": -jnp.ones((ROWS, 2))}, r"bias_labels: got values from -1.0"),
        ({"z_other": jnp.ones((3, 5))}, r"z\[24, 5\], z_other\[3, 5\], expected one shape"),
        ({"weights": -jnp.ones(ROWS)}, r"weights: got -1.0 as smallest"),
        ({"weights": jnp.ones(3)}, r"weights: got float\d\d\[3\], expected numbers \[24\]"),
        ({"variance_guard": -1e-4}, r"variance_guard: got -0.0001, expected a number of 0 or more"),
        ({"temperature": 0.0}, r"temperature: got 0.0, expected a number above 0"),
        ({"chunk_size": 0}, r"chunk_size: got 0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_says_what_was_got_and_expected(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        fairkl(**(make_inputs() | change))
