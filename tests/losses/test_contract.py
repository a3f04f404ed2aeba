"""What every loss of the library owes its caller, whatever it computes: one run per row."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip import losses
from tests.losses import cases
from tests.losses.cases import CASES, MESHES, assert_close

# Compiling nine losses in a dozen forms is minutes; every day only the trainer's two are run.
EVERY_DAY = ("sigmoid", "softmax")


def _parameter(case):
    marks = () if case.name in EVERY_DAY else pytest.mark.slow
    return pytest.param(case, id=case.name, marks=marks)


each_case = pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
each_additive_case = pytest.mark.parametrize("case", [_parameter(c) for c in CASES if c.additive])


NOT_PER_ROW = {"fold_blocks", "weighted_mean", "fairkl", "debiased_floor", "together"}


def test_every_public_loss_has_a_row():
    functions = {getattr(case.loss, "func", case.loss).__name__ for case in CASES}
    assert functions == set(losses.__all__) - NOT_PER_ROW


@each_case
@pytest.mark.parametrize("mesh", MESHES)
def test_sharded_equals_dense(case, mesh, x64):
    # Of 3 rows per device, "4x2" has all blocks in one turn of the ring, and "8" two in each of four.
    chunk_size = 6 if mesh == "8" else None
    got = cases.value_and_grad(
        case, cases.make_inputs(case), cases.anchor_weights(), mesh=mesh, chunk_size=chunk_size
    )
    assert_close(got, cases.dense(case))


@each_case
def test_sharded_in_chunks_equals_dense(case, x64):
    got = cases.value_and_grad(
        case, cases.make_inputs(case), cases.anchor_weights(), mesh="4x2", chunk_size=2
    )
    assert_close(got, cases.dense(case))


@each_case
@pytest.mark.parametrize("chunk_size", [5, 8])  # of 24 rows
def test_chunked_equals_unchunked(case, chunk_size, x64):
    got = cases.value_and_grad(
        case, cases.make_inputs(case), cases.anchor_weights(), chunk_size=chunk_size
    )
    assert_close(got, cases.dense(case))


@each_case
def test_permuting_the_batch_permutes_rows(case, x64):
    inputs = cases.make_inputs(case)
    order = np.random.default_rng(3).permutation(cases.ROWS_PER_BATCH)
    moved = inputs | {k: v[order] for k, v in cases.row_inputs(case, inputs).items()}
    got = cases.values(case, moved)
    assert_close(got, cases.dense(case)["rows"][order])


def _without(case, inputs, keep):
    return inputs | {k: v[keep] for k, v in cases.row_inputs(case, inputs).items()}


@each_case
def test_zero_weight_equals_row_removed(case, x64):
    inputs, anchors = cases.make_inputs(case), cases.anchor_weights()
    keep = np.arange(cases.ROWS_PER_BATCH) % 5 != 2
    zeroed = inputs | {"candidate_weights": inputs["candidate_weights"] * keep}
    got = cases.value_and_grad(case, zeroed, anchors * keep)
    removed = cases.value_and_grad(case, _without(case, inputs, keep), anchors[keep])
    for name, grad in got["grad"].items():
        if name not in case.scalars and name != "candidate_weights":
            assert not np.any(grad[~keep]), name
            got["grad"][name] = grad[keep]
    got["grad"]["candidate_weights"] = got["grad"]["candidate_weights"][keep]
    assert_close(got | {"rows": got["rows"][keep]}, removed)


@each_case
def test_candidate_of_zero_weight_is_nobodys_negative(case, x64):
    inputs = cases.make_inputs(case)
    keep = np.arange(cases.ROWS_PER_BATCH) != 7
    zeroed = inputs | {"candidate_weights": inputs["candidate_weights"] * keep}
    removed = cases.values(case, _without(case, inputs, keep))
    assert_close(cases.values(case, zeroed)[keep], removed)


@each_case
def test_constant_weights_equal_none(case, x64):
    plain = cases.make_inputs(case, weights=False)
    ones = plain | {"candidate_weights": np.ones(cases.ROWS_PER_BATCH)}
    got = cases.value_and_grad(case, ones, np.full(cases.ROWS_PER_BATCH, 0.3))
    got["grad"].pop("candidate_weights")
    assert_close(got, cases.value_and_grad(case, plain))


@each_additive_case
def test_weighting_equals_subsampling_in_expectation(case, x64):
    """Over all subsets of five rows: the sums that weights enter, before division or logarithm.

    `case.additive` undoes a loss's logarithm. To leave one sum per row, the second tower is a
    mirror image of the first (both directions are the same), and the only two rows that share a
    label are always drawn (one positive each).
    """
    rows, mirror = 5, np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    inputs = jax.tree.map(jnp.asarray, cases.make_inputs(case, rows, seed=8, weights=False))
    first, second = inputs.get("za", inputs.get("zimg")), {"za": "zb", "zimg": "ztxt"}
    inputs |= {second[name]: first * mirror for name in inputs if name in second}
    inputs |= cases.takes(case, {"labels": jnp.array([0, 0, 1, 2, 3])})
    keep_probability = np.array([1.0, 1.0, 0.2, 0.7, 0.5])

    @cases.compiled
    @jax.vmap
    def sums(weights):
        return case.additive(case.loss(**inputs, candidate_weights=weights))

    subsets = np.array(list(itertools.product([0.0, 1.0], repeat=rows)))
    chance = np.prod(np.where(subsets > 0, keep_probability, 1 - keep_probability), axis=1)
    expected = (chance[:, None] * subsets * sums(subsets)).sum(axis=0)
    assert_close(keep_probability * sums(keep_probability[None])[0], expected)


def _finite(tree):
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


def _half(inputs):
    return {k: v.astype(jnp.bfloat16) if v.ndim == 2 else v for k, v in inputs.items()}


def _single(x):
    return x.astype(np.float32) if x.dtype == np.float64 else x


@each_case
def test_bfloat16_at_scale_100_is_finite_and_float32(case):
    sharp = cases.takes(case, {"scale": np.float64(100), "temperature": np.float64(0.01)})
    inputs = _half(cases.make_inputs(case)) | sharp
    got = cases.value_and_grad(case, jax.tree.map(_single, inputs), chunk_size=5)
    assert _finite(got)
    assert got["rows"].dtype == jnp.float32


def _edge(rows, **changes):
    zeros = np.zeros(rows, np.int32)
    return {"labels": zeros - 1, "cells": zeros, "candidate_weights": np.ones(rows)} | changes


ALIKE = np.eye(5)[[0] * 6]
EDGES = {
    "labels unknown": _edge(6),
    "one label": _edge(6, labels=np.zeros(6, np.int32)),
    "a cell each": _edge(6, cells=np.arange(6, dtype=np.int32)),
    "no candidate": _edge(6, candidate_weights=np.zeros(6)),
    "all alike": _edge(6, **dict.fromkeys(("z", "za", "zb", "zimg", "ztxt"), ALIKE)),
    "prior 0": _edge(6, prior=np.zeros(6)),
    "prior near 1": _edge(6, prior=np.full(6, 0.999)),
    "one row": _edge(1),
}


@each_case
@pytest.mark.parametrize("edge", EDGES)
def test_edge_batches_have_finite_values_and_gradients(case, edge, x64):
    changes = cases.takes(case, EDGES[edge])
    rows = len(changes["candidate_weights"])
    assert _finite(cases.value_and_grad(case, cases.make_inputs(case, rows) | changes))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_jit_equals_eager(case, x64):
    inputs = cases.make_inputs(case)
    got = cases.value_and_grad(case, inputs, cases.anchor_weights(), jit=False)
    assert_close(got, cases.dense(case))


@each_case
def test_vmap_equals_a_loop(case, x64):
    batches = [cases.make_inputs(case, seed=seed) for seed in (1, 2)]
    stacked = {k: jnp.stack([batch[k] for batch in batches]) for k in batches[0]}
    got = cases.compiled(jax.vmap(lambda inputs: case.loss(**inputs, chunk_size=5)))(stacked)
    assert_close(got, np.stack([cases.values(case, batch) for batch in batches]))


@each_case
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_strict_dtype_promotion(case, chunk_size):
    """Only traced: a forbidden promotion is an error of the trace."""
    inputs = {k: jnp.asarray(_single(v)) for k, v in _half(cases.make_inputs(case)).items()}
    anchors = jnp.ones(cases.ROWS_PER_BATCH)

    def total(inputs):
        return losses.weighted_mean(case.loss(**inputs, chunk_size=chunk_size), anchors)

    with jax.numpy_dtype_promotion("strict"):
        jax.make_jaxpr(jax.grad(total, allow_int=True))(inputs)
