"""The losses in other people's code: explicit mesh axes, scale and bias of shape [1], rows of NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bias_clip import losses
from tests.losses import cases
from tests.losses.cases import CASES, assert_close
from tests.losses.test_contract import EVERY_DAY

LOST = np.arange(cases.ROWS_PER_BATCH) % 5 == 2  # rows of weight 0
FORMS = {
    "dense": {},
    "chunked": {"chunk_size": 5},
    "ring": {"mesh": "4x2"},
    "ring in chunks": {"mesh": "8", "chunk_size": 2},
}
HELD = {"nan": np.nan, "infinite": np.inf, "huge": 1e200}


def _mark(case, form):
    daily = case.name in EVERY_DAY and form in ("dense", "ring in chunks")
    return () if daily else pytest.mark.slow


EACH = [
    pytest.param(case, form, id=f"{case.name}-{form}", marks=_mark(case, form))
    for case in CASES
    for form in FORMS
]


@pytest.mark.parametrize(("case", "form"), EACH)
def test_row_of_weight_0_is_out_of_every_sum_whatever_it_holds(case, form, x64):
    """Value and gradient are those of the same batch with harmless numbers in these rows."""
    clean = cases.make_inputs(case)
    clean["candidate_weights"] = clean["candidate_weights"] * ~LOST
    anchors = cases.anchor_weights() * ~LOST
    expected = cases.value_and_grad(case, clean, anchors, **FORMS[form])
    assert np.isfinite(expected["mean"])
    for held in HELD.values():
        spoilt = dict(clean)
        for name, x in cases.row_inputs(case, clean).items():
            if x.dtype.kind == "f" and name != "candidate_weights":
                spoilt[name] = np.where(LOST.reshape(-1, *(1,) * (x.ndim - 1)), held, x)
        got = cases.value_and_grad(case, spoilt, anchors, **FORMS[form])
        # A lost row's own weight has a gradient that depends on what the row holds.
        for result in (got, expected):
            result["grad"]["candidate_weights"] = result["grad"]["candidate_weights"] * ~LOST
            result["rows"] = np.where(LOST, 0, result["rows"])
        assert_close(got, expected)


def test_lost_row_with_a_weight_as_an_anchor_shows(x64):
    """It is never replaced in silence: its own value is NaN, and so is a mean that counts it."""
    case = CASES[0]
    inputs = cases.make_inputs(case)
    inputs["candidate_weights"] = inputs["candidate_weights"] * ~LOST
    inputs["zimg"] = np.where(LOST[:, None], np.nan, inputs["zimg"])
    got = cases.value_and_grad(case, inputs)
    np.testing.assert_array_equal(np.isnan(got["rows"]), LOST)
    assert np.isnan(got["mean"])


@pytest.mark.parametrize("form", ["jeffreys", "authors"])
def test_fairkl_leaves_lost_rows_out(form, x64):
    rng = np.random.default_rng(0)
    z, other = (jnp.asarray(cases.ROWS["z"](rng, cases.ROWS_PER_BATCH)) for _ in range(2))
    labels = jnp.asarray(rng.integers(0, 3, cases.ROWS_PER_BATCH))
    bias = jnp.asarray(rng.dirichlet(np.ones(2), cases.ROWS_PER_BATCH))
    weights = jnp.asarray(rng.uniform(0.2, 2, cases.ROWS_PER_BATCH) * ~LOST)

    @cases.compiled
    def run(*floats):
        def loss(z, other, bias):
            return losses.fairkl(z, labels, bias, form=form, z_other=other, weights=weights)

        return jax.value_and_grad(loss, (0, 1, 2))(*floats)

    def spoil(x):
        return jnp.where(LOST[:, None], jnp.nan, x)

    expected, grads = run(z, other, bias)
    got, spoilt_grads = run(spoil(z), spoil(other), spoil(bias))
    assert_close((got, spoilt_grads[:2]), (expected, grads[:2]))
    assert all(bool(jnp.isfinite(g).all()) for g in spoilt_grads)


def _explicit_mesh():
    return jax.make_mesh((4, 2), ("data", "fsdp"))  # axes are explicit by default


def _put(case, inputs, mesh):
    split, whole = PartitionSpec(("data", "fsdp")), PartitionSpec()
    spec = {name: whole if name in case.scalars else split for name in inputs}
    return {name: jax.device_put(x, NamedSharding(mesh, spec[name])) for name, x in inputs.items()}


each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name in EVERY_DAY else pytest.mark.slow)
        for case in CASES
    ],
)


def _mean_and_grad(case, inputs, anchors, **options):
    floats = {k: v for k, v in inputs.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    ids = {k: v for k, v in inputs.items() if k not in floats}

    def mean(floats, ids, anchors):
        rows = case.loss(**floats, **ids, **options)
        return losses.weighted_mean(rows, anchors, options.get("axis_name"))

    return mean, (floats, ids, anchors)


@each_case
def test_arrays_over_explicit_axes_without_shard_map(case, x64):
    mesh, inputs, anchors = _explicit_mesh(), cases.make_inputs(case), cases.anchor_weights()
    put = _put(case, inputs | {"anchors": anchors}, mesh)
    mean, args = _mean_and_grad(case, {k: put[k] for k in inputs}, put["anchors"], chunk_size=5)
    value, grads = cases.compiled(jax.value_and_grad(mean))(*args)
    expected = cases.dense(case)
    assert_close((value, grads), (expected["mean"], expected["grad"]))
    rows = case.loss(**{k: put[k] for k in inputs})
    assert jax.typeof(rows).sharding.spec[0] == ("data", "fsdp")
    assert_close(rows, expected["rows"])


@each_case
def test_shard_map_over_explicit_axes(case, x64):
    mesh, inputs, anchors = _explicit_mesh(), cases.make_inputs(case), cases.anchor_weights()
    put = _put(case, inputs | {"anchors": anchors}, mesh)
    axes = ("data", "fsdp")
    mean, args = _mean_and_grad(case, {k: put[k] for k in inputs}, put["anchors"], axis_name=axes)
    split, whole = PartitionSpec(axes), PartitionSpec()
    specs = [{k: whole if k in case.scalars else split for k in x} for x in args[:2]]
    spread = jax.shard_map(mean, mesh=mesh, out_specs=whole, in_specs=(*specs, split))
    value, grads = cases.compiled(jax.value_and_grad(spread))(*args)
    expected = cases.dense(case)
    assert_close((value, grads), (expected["mean"], expected["grad"]))


@each_case
def test_numbers_of_shape_1_are_taken(case, x64):
    """As big_vision keeps scale and bias; the gradient has their shape."""
    inputs = cases.make_inputs(case)
    ones = {name: np.reshape(inputs[name], (1,)) for name in case.scalars}
    got = cases.value_and_grad(case, inputs | ones, cases.anchor_weights())
    assert all(got["grad"][name].shape == (1,) for name in ones)
    got["grad"] |= {name: got["grad"][name][0] for name in ones}
    assert_close(got, cases.dense(case))
